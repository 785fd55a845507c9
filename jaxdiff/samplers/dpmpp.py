"""DPM-Solver++ 2M: second order in half-log-SNR, one evaluation a step.

With l = log(alpha/sigma), h = l_s - l_t, and D an extrapolation of the last two estimates of x_0,

    x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^-h) D,   D = x_0 + (x_0 - x_0') / (2r),  r = h'/h.

The first step, and the last one to sigma = 0 (where h is infinite), take D = x_0.

Lu et al. 2022, arXiv:2211.01095, algorithm 2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import log_snr, scales
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State


class _Past(NamedTuple):
    """The estimate of the step before, its half-log-SNR, and whether there is one."""

    x0: PyTree
    level: Array
    known: Array


def _start(x: PyTree) -> State:
    b = trees.size(x)
    return State(x, _Past(jax.tree.map(jnp.zeros_like, x), jnp.zeros(b), jnp.zeros(b, bool)))


def dpmpp_2m() -> Sampler:
    """DPM-Solver++ (2M), deterministic multistep.

    Lu et al. 2022, arXiv:2211.01095, algorithm 2.

    >>> dpmpp_2m().init(jnp.zeros((2, 3))).hist.known.tolist()
    [False, False]
    """
    return Sampler(_start, _step)


def _step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
    process, past = denoise.process, state.hist
    est = denoise(state.x, now.t, now)
    (_, sigma_t), (alpha_s, sigma_s) = scales(process, now.t), scales(process, now.s)
    level, target = log_snr(process, now.t) / 2, log_snr(process, now.s) / 2
    b = trees.size(state.x)
    h = jnp.broadcast_to(target - level, (b,))
    weight = _extrapolation(h, jnp.broadcast_to(level, (b,)) - past.level, past.known)
    towards = combine((1 + weight, est.x0), (-weight, past.x0))
    x = combine((sigma_s / sigma_t, state.x), (-alpha_s * jnp.expm1(-h), towards))
    return State(x, _Past(est.x0, jnp.broadcast_to(level, (b,)), jnp.ones(b, bool))), est


def _extrapolation(h: Any, before: Any, known: Any) -> Array:
    """1/(2r) = h / (2 h'), and 0 where a step is infinite or there is no past."""
    usable = known & jnp.isfinite(h) & jnp.isfinite(before)
    return jnp.where(usable, h, 0.0) / (2 * jnp.where(usable, before, 1.0))
