"""TDS: the twisted diffusion sampler, exact as the number of particles grows.

The chain p(x_T) prod p(x_s | x_t) of the unguided sampler is multiplied by the likelihood
p(y | x_0). Particles are moved by a guided chain and weighted by what it got wrong:

    ~p(y | x_t)   = N(y; A x_0(x_t), s^2 I + r^2 A A^T),   r^2 = v0 sigma^2/(v0 alpha^2 + sigma^2),
    ~p(x_s | x_t) = p(x_s | x_t) with x_0 + (sigma^2/alpha) grad_x log ~p(y | x_t) in place of x_0,
    w_s           = p(x_s | x_t) ~p(y | x_s) / (~p(y | x_t) ~p(x_s | x_t)).

~p(y | x_s) is known one step later, from the evaluation that the step needs anyway: a step costs
one evaluation and one backward pass. The step to sigma = 0 is x_0(x_t) itself, weighted by the
likelihood. v0 is the variance of the data; with too small a value the twist is surer than it may
be, modes are lost early and no weight brings them back.

Wu, Trippe, Naesseth, Blei & Cunningham 2023, arXiv:2306.17775, section 3 and algorithm 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Number, numeric, value_at
from jaxdiff.guidance import tweedie_gain
from jaxdiff.inverse.doors import check_linear, check_positive
from jaxdiff.inverse.gaussian import misfit, per_sample
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.particles import at_the_end, check_particles, for_each, resample, start
from jaxdiff.process import posterior, scales
from jaxdiff.trees import combine, dots, fold, normal, where
from jaxdiff.types import SOLVER, At, Estimate, Now, PyTree, Sampler, Scalar, State, number


class _Seen(NamedTuple):
    """What one evaluation says of the particles: leaves [rows, ...]."""

    x: PyTree
    x0: PyTree
    push: PyTree  # (sigma^2/alpha) grad log ~p(y | x_t)
    twist: Array  # log ~p(y | x_t), up to a constant


def _look(
    operator: Any, y: Any, s2: Any, v0: Any, now: Now, denoise: Denoiser, x: PyTree
) -> tuple[_Seen, Estimate]:
    def ahead(x: PyTree) -> tuple[PyTree, Estimate]:
        est = denoise(x, now.t, now)
        return est.x0, est

    x0, backward, est = jax.vjp(ahead, x, has_aux=True)
    at = At(x, now.t, *scales(denoise.process, now.t), lambda c: backward(c)[0], now)
    v0 = value_at(v0, at)
    r2 = v0 * at.sigma**2 / (v0 * at.alpha**2 + at.sigma**2)
    residual = misfit(operator, y, x0)
    solved = jax.vmap(operator.gram_solve)(per_sample(r2, x0), per_sample(s2, x0), residual)
    push = combine((tweedie_gain(at), at.vjp(jax.vmap(operator.At)(solved))))
    return _Seen(x, x0, push, -0.5 * dots(residual, solved)), est


def _propose(now: Now, process: Any, eta: Any, seen: _Seen) -> tuple[PyTree, Array]:
    """x_s from the guided chain, and log p(x_s | x_t) - log ~p(x_s | x_t)."""
    (alpha, sigma), (alpha_s, sigma_s) = scales(process, now.t), scales(process, now.s)
    var = eta**2 * posterior(process, now.s, now.t).var
    kept = jnp.sqrt(jnp.maximum(sigma_s**2 - var, 0.0))
    on_x0, on_xt = alpha_s - kept * alpha / sigma, kept / sigma
    z = normal(fold(now.key, SOLVER), seen.x)
    push = where(var > 0, seen.push, jax.tree.map(jnp.zeros_like, seen.push))
    x = combine((on_x0, seen.x0), (on_x0, push), (on_xt, seen.x), (jnp.sqrt(var), z))
    shift = on_x0 / jnp.sqrt(jnp.where(var > 0, var, 1.0))
    return x, -0.5 * shift**2 * dots(push, push) - shift * dots(push, z)


def twisted(
    operator: Measurement,
    y: PyTree,
    *,
    noise: Scalar,
    particles: int,
    v0: Number = 1.0,
    eta: Scalar = 1.0,
    threshold: Scalar = 0.5,
) -> Sampler:
    """TDS: a sampler of p(x_0 | y) by groups of particles, exact as their number grows.

    Rows [b g] are b groups of g particles; what comes out is resampled, hence not weighted. The
    weights need the density of a step, so this is a sampler (DDIM with eta), not a correction of
    one. `Estimate.aux["log_weights"]` [b g] are those of the particles at t. End the grid at clean
    data: only there the weights hold the likelihood itself.

    Args:
      operator: A, of one example, linear.
      y: one measurement for each group, leaves [b, ...].
      noise: s > 0, standard deviation of the measurement noise.
      particles: g >= 2, static.
      v0: variance of the data: a number, or At -> scalar.
      eta: stochasticity of the chain, in (0, 1].
      threshold: a group is resampled when its effective size falls below this share of g.

    Raises:
      ValueError: if an argument is outside its range, rows do not make whole groups, or y or x do
        not have the shapes that the operator says.

    Wu et al. 2023, arXiv:2306.17775, algorithm 1.

    >>> from jaxdiff import inverse
    >>> tds = twisted(inverse.matrix(jnp.eye(1, 2)), jnp.zeros((1, 1)), noise=0.1, particles=4)
    >>> [leaf.shape for leaf in tds.init(jnp.zeros((4, 2))).hist]
    [(4,), (4,)]
    """
    check_particles(particles, threshold)
    check_linear(operator, "twisted", "steered")
    check_positive("noise", noise)
    check_positive("eta", eta)
    s2, v0, eta = number(noise) ** 2, numeric(v0), number(eta)

    def init(x: PyTree) -> State:
        return State(x, (start(x, particles), start(x, particles)))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        logw, owed = state.hist
        rows = for_each(y, state.x, particles)
        seen, est = _look(operator, rows, s2, v0, now, denoise, state.x)
        weights = logw + owed + seen.twist
        logw, seen = resample(now, weights, seen, particles=particles, below=threshold)
        x, ratio = _propose(now, denoise.process, eta, seen)
        residual = misfit(operator, rows, x)
        likelihood = -0.5 * dots(residual, residual) / s2
        clean = scales(denoise.process, now.s)[1] == 0
        logw = logw + jnp.where(clean, likelihood - seen.twist, 0.0)
        owed = ratio - seen.twist
        end = at_the_end(now)
        logw, (x, owed) = resample(now, logw, (x, owed), particles=particles, below=end, draw=1)
        aux = {**est.aux, "log_weights": weights}
        return State(x, (logw, owed)), est._replace(aux=aux)

    return Sampler(init, step)
