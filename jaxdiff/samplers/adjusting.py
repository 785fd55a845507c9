"""The sampler that estimates its noise level, and fits the rest of the grid to it.

At every step a small network looks at x and says how much noise there is; the sampler believes it
instead of its clock. Of the noise that is there,

    L = -log(abar) = log(1 + sigma^2/alpha^2) = sum_j -log(1 - beta_j),

a schedule says which share is left after the next step: linear betas (beta_j ~ j for j steps from
the end), Fibonacci's (beta_j ~ 1, 1, 2, 3, 5, ...), or the grid that was planned, its betas all
multiplied by one number. Written with -log(1 - beta) in the place of beta, the sum is exact.

San-Roman, Nachmani & Wolf 2021, arXiv:2104.02600.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, log_snr, scales, time_of
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State

Left = Callable[[Any], Array]
"""left(m) -> the share of L that is left after the first of m steps; 0 for m = 1."""


def linear_left(m: Any) -> Array:
    """Linear betas: 1 - m / (1 + 2 + ... + m).

    Args:
      m: steps to go, at least 1.

    >>> round(float(linear_left(3)), 4)   # betas 1, 2, 3
    0.5
    """
    return 1 - 2 / (jnp.asarray(m) + 1)


def fibonacci_left(m: Any) -> Array:
    """Fibonacci betas: 1 - F_m / (F_1 + ... + F_m).

    Args:
      m: steps to go, at least 1.

    >>> round(float(fibonacci_left(4)), 4)   # betas 1, 1, 2, 3
    0.5714
    """
    table = jnp.asarray(_FIBONACCI, float)
    return table[jnp.minimum(m, len(_FIBONACCI) - 1)]


def _shares(count: int) -> np.ndarray:
    betas = [1, 1]
    while len(betas) < count:
        betas.append(betas[-1] + betas[-2])
    return np.array([1.0, *(sum(betas[: m - 1]) / sum(betas[:m]) for m in range(1, count))])


_FIBONACCI = _shares(64)  # the share has come to rest at 1/golden ratio, to the last digit


def adjusted(
    level: Callable[[PyTree], Array], left: Left | None = None
) -> Callable[[Sampler], Sampler]:
    """A wrapper of samplers: step from the level that x has, not from the one it should have.

    t' = the time of level(x); s' = the time at which the share of L is left; the sampler steps
    t' -> s'. The last step goes to clean data. If the level is that of the planned grid, so is the
    step.

    Args:
      level: `level(x [b, ...]) -> log-SNR [b]`, log(abar) - log(1 - abar) of a network for abar.
      left: `linear_left`, `fibonacci_left`, or None for the planned grid.

    Returns:
      Sampler -> Sampler, for solvers that keep no history and take times per sample.

    Raises:
      ValueError: at the first step, if the sampler keeps a history, or if there is not one level a
        sample.

    San-Roman, Nachmani & Wolf 2021, arXiv:2104.02600.

    >>> from jaxdiff import samplers
    >>> adjusted(lambda x: x[:, 0])(samplers.ddim()).init(jnp.zeros((2, 3))).x.shape
    (2, 3)
    """

    def wrapped(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            if state.hist != ():
                raise ValueError("adjusted: this sampler keeps a history; wrap ddim or ddpm")
            found, b = level(state.x), trees.size(state.x)
            if found.shape != (b,):
                raise ValueError(f"level(x) has shape {found.shape}: give a log-SNR a sample, {b}")
            t, s = _refitted(denoise.process, now, found, left)
            return sampler.step(now._replace(t=t, s=s), denoise, state)

        return Sampler(sampler.init, step)

    return wrapped


def _refitted(process: Process, now: Now, found: Array, left: Left | None) -> tuple[Array, Array]:
    t, there = time_of(process, found), jax.nn.softplus(-found)
    if left is None:
        planned, ahead = (jax.nn.softplus(-log_snr(process, u)) for u in (now.t, now.s))
        all_noise = jnp.isinf(planned)  # from alpha = 0 no number fits the betas: as planned
        rest = ahead * jnp.where(all_noise, 1.0, there / jnp.where(all_noise, 1.0, planned))
    else:
        rest = there * left(now.n - now.i)
    s = jnp.minimum(time_of(process, -jnp.log(jnp.expm1(rest))), t)
    return t, jnp.where(scales(process, now.s)[1] == 0, now.s, s)
