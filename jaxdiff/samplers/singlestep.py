"""DPM-Solver-2 and DPM-Solver++ 2S: second order in one step, by a second evaluation half-way.

The stage m lies half-way in l = log(alpha/sigma). With r = sigma/alpha, h = l_s - l_t, x_m a step
of first order to m, D_m = E[x_0 | x_m] and eps_m its noise,

    DPM-Solver-2:       x_s/alpha_s = x_t/alpha_t + (r_s - r_t) eps_m
    DPM-Solver++ 2S:    x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^-h) D_m

With eta > 0 the step goes to r_down < r_s, and noise of r_up is added: r_up^2 + r_down^2 = r_s^2,
r_up^2 = eta^2 r_s^2 (1 - r_s^2/r_t^2). A step to sigma = 0 is Euler's.

Lu et al. 2022, arXiv:2206.00927, algorithm 1, and arXiv:2211.01095, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, scales, time_of
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.heun import unless_clean
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, State, number


def dpm_2(eta: float | Array = 0.0) -> Sampler:
    """DPM-Solver-2, known as DPM2; with eta = 1 as DPM2 a. 2n - 1 evaluations.

    Args:
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.

    Lu et al. 2022, arXiv:2206.00927, algorithm 1 with r_1 = 1/2; Karras et al. 2022,
    arXiv:2206.00364, for the stage in log sigma.

    >>> dpm_2().init(jnp.zeros((2, 3))).hist
    ()
    """
    return _two_stages(eta, _by_noise)


def dpmpp_2s(eta: float | Array = 0.0) -> Sampler:
    """DPM-Solver++ (2S); with eta = 1 known as DPM++ 2S a. 2n - 1 evaluations.

    Args:
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.

    Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2.

    >>> dpmpp_2s().init(jnp.zeros((2, 3))).hist
    ()
    """
    return _two_stages(eta, _by_data)


class _Leg(NamedTuple):
    """A step from (alpha, sigma) at t to (alpha_s, alpha_s r_down)."""

    alpha: Array
    sigma: Array
    alpha_s: Array
    down: Array


def _two_stages(eta: float | Array, second: Callable[..., PyTree]) -> Sampler:
    still = isinstance(eta, int | float) and eta == 0
    if isinstance(eta, int | float) and not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: 0 is deterministic, 1 ancestral; give eta in [0, 1]")

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        leg, up = _leg(denoise.process, now, number(eta))
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        euler = combine((leg.alpha_s, est.x0), (leg.alpha_s * leg.down, eps))

        def staged() -> PyTree:
            t, alpha, sigma = _stage(denoise.process, leg)
            middle = combine((alpha, est.x0), (sigma, eps))
            x0 = denoise(middle, t, now).x0
            return second(leg, state.x, est.x0, eps, x0, noise_of(denoise, middle, t, x0))

        x = unless_clean(leg.down, staged, euler)
        if not still:
            z = normal(fold(now.key, SOLVER), state.x)
            x = combine((1.0, x), (leg.alpha_s * up, z))
        return State(x), est

    return Sampler(State, step)


def _leg(process: Process, now: Now, eta: Array) -> tuple[_Leg, Array]:
    (alpha, sigma), (alpha_s, sigma_s) = scales(process, now.t), scales(process, now.s)
    ratio = sigma_s / alpha_s
    share = ratio * alpha / sigma  # r_s/r_t, 0 from alpha = 0
    up = eta * ratio * jnp.sqrt(jnp.maximum(1 - share**2, 0.0))
    down = ratio * jnp.sqrt((1 - eta**2) + (eta * share) ** 2)  # never the root of a rounding error
    return _Leg(alpha, sigma, alpha_s, down), up


def _stage(process: Process, leg: _Leg) -> tuple[Array, Array, Array]:
    """The time half-way in log-SNR, with its (alpha, sigma)."""
    lam = 2 * (jnp.log(leg.alpha) - jnp.log(leg.sigma))
    t = time_of(process, (lam - 2 * jnp.log(leg.down)) / 2)
    return t, *scales(process, t)


def _by_noise(leg: _Leg, x: Any, x0: Any, eps: Any, x0_m: Any, eps_m: Any) -> PyTree:
    # x_t/alpha_t = x_0 + r_t eps; where alpha_t = 0 the stage is x_t itself, and the noises agree
    ratio = jnp.where(leg.alpha == 0, 0.0, leg.sigma / jnp.where(leg.alpha == 0, 1.0, leg.alpha))
    change = leg.alpha_s * ratio
    return combine((leg.alpha_s, x0), (change, eps), (leg.alpha_s * leg.down - change, eps_m))


def _by_data(leg: _Leg, x: Any, x0: Any, eps: Any, x0_m: Any, eps_m: Any) -> PyTree:
    kept = leg.alpha_s * leg.down / leg.sigma
    return combine((kept, x), (leg.alpha_s - kept * leg.alpha, x0_m))
