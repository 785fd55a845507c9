"""Feynman-Kac steering: any sampler, any reward, no gradient.

Particles of an unchanged sampler are weighted by potentials G_t of the reward of x_0(x_t), and
resampled, so that their law is tilted to p(x_0) exp(lambda r(x_0)). The potentials are free but for
their product: the last one makes it exp(lambda r(x_0)) whatever the others were. With r_t the
reward at t and t' the step before,

    difference  log G_t = lambda (r_t - r_t'),
    greatest    log G_t = lambda max over the past of r,
    total       log G_t = lambda sum over the past of r.

The sampler has to draw noise: copies of a particle must part. For a linear measurement the reward
is a log-likelihood; the reward need not have a derivative.

Singhal et al. 2025, arXiv:2501.06848, section 3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.particles import at_the_end, check_particles, resample, start
from jaxdiff.process import scales
from jaxdiff.types import Estimate, Now, PyTree, Sampler, Scalar, State, number

Potential = Callable[[Array, Array, Any], tuple[Array, Array]]
"""potential(kept [n], reward [n], i) -> (kept [n], log G [n]); before step i = 0 it kept 0."""


def difference(kept: Array, reward: Array, i: Any) -> tuple[Array, Array]:
    """log G_t = r_t - r_t'. Singhal et al. 2025, arXiv:2501.06848, section 3."""
    return reward, reward - kept


def greatest(kept: Array, reward: Array, i: Any) -> tuple[Array, Array]:
    """log G_t = the greatest reward so far. Singhal et al. 2025, arXiv:2501.06848, section 3."""
    best = jnp.where(i == 0, reward, jnp.maximum(kept, reward))
    return best, best


def total(kept: Array, reward: Array, i: Any) -> tuple[Array, Array]:
    """log G_t = the sum of the rewards so far. Singhal et al. 2025, arXiv:2501.06848, section 3."""
    return kept + reward, kept + reward


def steered(
    reward: Callable[[PyTree], Array],
    *,
    particles: int,
    scale: Scalar = 1.0,
    potential: Potential = difference,
    threshold: Scalar = 0.5,
) -> Callable[[Sampler], Sampler]:
    """A correction that draws from p(x_0) exp(scale reward(x_0)), exact as particles grow.

    Rows [b g] are b groups of g particles; what comes out is resampled, hence not weighted. One
    evaluation a step, no derivative. End the grid at clean data: only there the weights hold the
    reward of x_0 itself.

    Args:
      reward: of ONE example x_0 -> scalar, greater is better; vmapped here.
      particles: g >= 2, static.
      scale: lambda, the inverse temperature.
      potential: `difference`, `greatest`, `total`, or any function of that kind.
      threshold: a group is resampled when its effective size falls below this share of g.

    Returns:
      Sampler -> Sampler; the sampler should draw noise (`ddpm`).

    Raises:
      ValueError: if an argument is outside its range, or rows do not make whole groups.

    Singhal et al. 2025, arXiv:2501.06848, algorithm 1.

    >>> from jaxdiff import samplers
    >>> four = steered(lambda x0: -jnp.sum(x0**2), particles=4)(samplers.ddpm())
    >>> [leaf.shape for leaf in jax.tree.leaves(four.init(jnp.zeros((8, 2))).hist)]
    [(8,), (8,), (8,)]
    """
    check_particles(particles, threshold)
    rated = jax.vmap(reward)

    def correct(sampler: Sampler) -> Sampler:
        def init(x: PyTree) -> State:
            zero = start(x, particles)
            return State(x, (sampler.init(x).hist, zero, zero, zero))

        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            inner, logw, kept, paid = state.hist
            new, est = sampler.step(now, denoise, State(state.x, inner))
            kept, gain = potential(kept, rated(est.x0), now.i)
            clean = scales(denoise.process, now.s)[1] == 0
            gain = jnp.where(clean, rated(new.x) - paid, gain)
            logw = logw + number(scale) * gain
            below = jnp.maximum(number(threshold), at_the_end(now))
            rows = (new.x, new.hist, kept, paid + gain)
            settled, rows = resample(now, logw, rows, particles=particles, below=below)
            x, inner, kept, paid = rows
            aux = {**est.aux, "log_weights": logw}
            return State(x, (inner, settled, kept, paid)), est._replace(aux=aux)

        return Sampler(init, step)

    return correct
