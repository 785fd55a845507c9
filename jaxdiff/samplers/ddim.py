"""DDPM and DDIM: ancestral steps of any Gaussian process.

With x_0 and eps estimated at t, the step to s keeps the marginal for every sigma_eta:

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - sigma_eta^2) eps + sigma_eta z,
    sigma_eta^2 = eta^2 sigma_s^2 (1 - SNR_t/SNR_s).

eta = 1 is DDPM with the small variance, eta = 0 is Euler's method for the probability flow in any
frame in which constant (x_0, eps) make a straight line (sigma/alpha, or a flow's time).

Song et al. 2020, arXiv:2010.02502, eq. (12) and (16); Ho et al. 2020, arXiv:2006.11239.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import posterior, scales
from jaxdiff.samplers.variances import Variance, fixed_small
from jaxdiff.trees import combine, fold, normal, where
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, State, number


def _plain(x: PyTree) -> State:
    return State(x)


def noise_of(denoise: Denoiser, x: PyTree, t: Any, x0: PyTree) -> PyTree:
    """eps = (x - alpha x_0) / sigma, of an estimate already made."""
    alpha, sigma = scales(denoise.process, t)
    return combine((1 / sigma, x), (-alpha / sigma, x0))


def ddim(eta: float | Array = 0.0) -> Sampler:
    """DDIM with stochasticity eta: 0 deterministic, 1 ancestral.

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - sigma_eta^2) eps + sigma_eta z.

    Args:
      eta: in [0, 1]; a Python 0 draws no noise at all.

    Song et al. 2020, arXiv:2010.02502, eq. (12), (16).

    >>> ddim(0.5).init(jnp.zeros((2, 3))).x.shape
    (2, 3)
    """
    still = isinstance(eta, int | float) and eta == 0

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        alpha, sigma = scales(denoise.process, now.s)
        if still:
            return State(combine((alpha, est.x0), (sigma, eps))), est
        var = number(eta) ** 2 * posterior(denoise.process, now.s, now.t).var
        kept = jnp.sqrt(jnp.maximum(sigma**2 - var, 0.0))
        z = normal(fold(now.key, SOLVER), state.x)
        return State(combine((alpha, est.x0), (kept, eps), (jnp.sqrt(var), z))), est

    return Sampler(_plain, step)


def euler() -> Sampler:
    """Euler's method for the probability flow; the same step as `ddim(0)`.

    Karras et al. 2022, arXiv:2206.00364, algorithm 1 without the correction.
    """
    return ddim(0.0)


def ddpm(variance: Variance = fixed_small) -> Sampler:
    """Ancestral sampling: x_s = E[x_s | x_t, x_0] + sqrt(variance) z with x_0 = E[x_0 | x_t].

    The last step, to clean data, draws nothing.

    Args:
      variance: `fixed_small`, `fixed_large`, `learned_range`, or any function
        (process, now, estimate) -> variance of x_s: (), [b], or a tree like x.

    Ho et al. 2020, arXiv:2006.11239, algorithm 2 and section 3.2; Nichol & Dhariwal 2021,
    arXiv:2102.09672, section 3.1.

    >>> from jaxdiff.samplers import learned_range
    >>> ddpm(learned_range).init(jnp.zeros((2, 3))).x.shape
    (2, 3)
    """

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        bridge = posterior(denoise.process, now.s, now.t)
        _, sigma = scales(denoise.process, now.s)
        std = jax.tree.map(jnp.sqrt, variance(denoise.process, now, est))
        noise = combine((std, normal(fold(now.key, SOLVER), state.x)))
        drawn = where(sigma > 0, noise, jax.tree.map(jnp.zeros_like, noise))
        return State(combine((bridge.on_x0, est.x0), (bridge.on_xt, state.x), (1.0, drawn))), est

    return Sampler(_plain, step)
