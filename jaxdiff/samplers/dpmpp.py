"""DPM-Solver++ multistep, of second and third order, deterministic or not: one evaluation a step.

With l = log(alpha/sigma), h = l_s - l_t, k = (1 + eta) h, and D(l) the estimates of x_0,

    x_s = (sigma_s/sigma_t) e^(-eta h) x_t + alpha_s int_0^k e^(u-k) D du
          + sigma_s sqrt(1 - e^(-2 eta h)) z.

D is continued through the last two or three estimates, as phi_1 D + phi_2 slope - phi_3 bend:

    phi_1 = 1 - e^-k,   phi_2 = 1 - phi_1/k,   phi_3 = 2 phi_2/k - 1.

The first step, and the last one to sigma = 0 (where h is infinite), take D constant.

Lu et al. 2022, arXiv:2211.01095, algorithm 2 and appendix B.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import log_snr, scales
from jaxdiff.samplers.past import Past, empty, remember
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, State, number


def dpmpp_2m(eta: float | Array = 0.0, *, midpoint: bool = True) -> Sampler:
    """DPM-Solver++ (2M); with eta = 1 SDE-DPM-Solver++ (2M), known as DPM++ 2M SDE.

    Args:
      eta: >= 0; a Python 0 draws no noise at all, 1 is the reverse SDE.
      midpoint: weigh the slope of D by phi_1/2, as published; else by its integral phi_2 ("heun").

    Lu et al. 2022, arXiv:2211.01095, algorithm 2 and eq. (18).

    >>> dpmpp_2m().init(jnp.zeros((2, 3))).hist.known.tolist()
    [0, 0]
    """
    return _multistep(2, eta, _midpoint if midpoint else _integrals)


def dpmpp_3m(eta: float | Array = 0.0, *, published: bool = False) -> Sampler:
    """DPM-Solver++ (3M); with eta = 1 known as DPM++ 3M SDE.

    Args:
      eta: >= 0; a Python 0 draws no noise at all, 1 is the reverse SDE.
      published: weigh the bend of D as the authors' code, diffusers and k-diffusion do, by half of
        its integral: their numbers, at second order. By default the whole: third order.

    Lu et al. 2022, arXiv:2211.01095, appendix B; as a stochastic sampler by K. Crowson.

    >>> len(dpmpp_3m().init(jnp.zeros((2, 3))).hist.values)
    2
    """
    return _multistep(3, eta, _half_bend if published else _integrals)


def _integrals(k: Array) -> tuple[Array, Array]:
    """phi_2 and phi_3 for finite k."""
    phi_2 = 1 + jnp.expm1(-k) / k
    return phi_2, 2 * phi_2 / k - 1


def _midpoint(k: Array) -> tuple[Array, Array]:
    return -0.5 * jnp.expm1(-k), jnp.zeros_like(k)


def _half_bend(k: Array) -> tuple[Array, Array]:
    phi_2, phi_3 = _integrals(k)
    return phi_2, 0.5 * phi_3


def _multistep(order: int, eta: float | Array, phis: Callable[..., tuple[Array, Array]]) -> Sampler:
    still = isinstance(eta, int | float) and eta == 0
    if isinstance(eta, int | float) and eta < 0:
        raise ValueError(f"eta={eta}: 0 is deterministic, 1 the reverse SDE; give eta >= 0")

    def init(x: PyTree) -> State:
        return State(x, empty(x, order - 1))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        process, past, b = denoise.process, state.hist, trees.size(state.x)
        est = denoise(state.x, now.t, now)
        (_, sigma_t), (alpha_s, sigma_s) = scales(process, now.t), scales(process, now.s)
        level = jnp.broadcast_to(log_snr(process, now.t) / 2, (b,))
        h = jnp.broadcast_to(log_snr(process, now.s) / 2, (b,)) - level
        lost = number(eta) * jnp.minimum(h, 1e3)  # e^-1000 is 0, and 0 times infinity is not
        terms = _towards(est.x0, level, h, h + lost, past, phis)
        terms = [(alpha_s * weight, x0) for weight, x0 in terms]
        terms.append(((sigma_s / sigma_t) * jnp.exp(-lost), state.x))
        if not still:
            z = normal(fold(now.key, SOLVER), state.x)
            terms.append((sigma_s * jnp.sqrt(-jnp.expm1(-2 * lost)), z))
        return State(combine(*terms), remember(past, est.x0, level)), est

    return Sampler(init, step)


def _towards(
    x0: PyTree, level: Array, h: Array, k: Array, past: Past, phis: Callable[..., Any]
) -> list[tuple[Array, PyTree]]:
    """Weights of the estimates in int_0^k e^(u-k) D du, times [b]: of this one, then of the past.

    With r_0, r_1 the last steps over this one and d_0, d_1 the divided differences of D, the slope
    is d_0 + (d_0 - d_1) r_0/(r_0 + r_1), and the bend (d_0 - d_1)/(r_0 + r_1).
    """
    finite = jnp.isfinite(h)
    phi_1 = -jnp.expm1(-k)
    phi_2, phi_3 = (jnp.where(finite, phi, 0.0) for phi in phis(jnp.where(finite, k, 1.0)))
    one, r_0 = _ratio(level, past.places[0], h, finite & (past.known > 0))
    slope = jnp.where(one, phi_2 / r_0, 0.0)
    if len(past.values) == 1:
        return [(phi_1 + slope, x0), (-slope, past.values[0])]
    two, r_1 = _ratio(past.places[0], past.places[1], h, one & (past.known > 1))
    bend = jnp.where(two, (phi_2 * r_0 - phi_3) / (r_0 + r_1), 0.0)  # of d_0 - d_1
    on_0, on_1 = slope + bend / r_0, -bend / r_1
    return [(phi_1 + on_0, x0), (on_1 - on_0, past.values[0]), (-on_1, past.values[1])]


def _ratio(newer: Array, older: Array, h: Array, known: Array) -> tuple[Array, Array]:
    """Whether there is a step before, and its length over h (1 where there is none)."""
    before = newer - older
    usable = known & jnp.isfinite(before)
    return usable, jnp.where(usable, before / jnp.where(usable, h, 1.0), 1.0)
