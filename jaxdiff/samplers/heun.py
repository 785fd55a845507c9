"""Heun's method for the probability flow, in the frame that suits the process.

Any straight frame is y = x / (alpha + c sigma) against tau = sigma / (alpha + c sigma), in which

    dy/dtau = E[eps | x_t] - c E[x_0 | x_t].

c = 0 is EDM's frame (tau = sigma/alpha), c = 1 a rectified flow's (tau = t there), which stays
regular where alpha = 0.

Karras et al. 2022, arXiv:2206.00364, algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, scales
from jaxdiff.process.predictions import SMALLEST_ALPHA
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State, number


def heun(c: float | Array | None = None) -> Sampler:
    """Heun's second-order method; 2n - 1 evaluations, the last step being Euler's.

    y_s = y_t + (tau_s - tau_t) (d_t + d_s) / 2 with d = eps - c x_0.

    Args:
      c: the frame, >= 0. None takes EDM's (0), or the flow's (1) where alpha(t_max) = 0.

    Karras et al. 2022, arXiv:2206.00364, algorithm 1.

    >>> heun().init(jnp.zeros((2, 3))).hist
    ()
    """

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        frame = frame_of(denoise.process) if c is None else number(c)
        scale, tau = frame_at(denoise.process, frame, now.t)
        scale_s, tau_s = frame_at(denoise.process, frame, now.s)

        def slope(x: PyTree, t: Any, est: Estimate) -> PyTree:
            return combine((1.0, noise_of(denoise, x, t, est.x0)), (-frame, est.x0))

        def moved(direction: PyTree) -> PyTree:
            return combine((scale_s / scale, state.x), (scale_s * (tau_s - tau), direction))

        est = denoise(state.x, now.t, now)
        d = slope(state.x, now.t, est)
        guess = moved(d)

        def corrected() -> PyTree:
            again = slope(guess, now.s, denoise(guess, now.s, now))
            return moved(combine((0.5, d), (0.5, again)))

        return State(unless_clean(tau_s, corrected, guess)), est

    return Sampler(State, step)


def unless_clean(tau: Array, corrected: Any, guess: PyTree) -> PyTree:
    """At sigma_s = 0 there is nothing to correct, and no denoiser to ask."""
    if tau.ndim == 0:
        return jax.lax.cond(tau == 0, lambda: guess, corrected)
    raise ValueError(
        "this sampler takes one time for the whole batch: give a grid of shape [n + 1]"
    )


def frame_of(process: Process) -> Array:
    """c: 1 where alpha(t_max) is about 0, else 0."""
    alpha, _ = scales(process, process.t_max)
    return jnp.where(alpha < SMALLEST_ALPHA, 1.0, 0.0)


def frame_at(process: Process, c: Array, t: Any) -> tuple[Array, Array]:
    """(alpha + c sigma, tau) at t."""
    alpha, sigma = scales(process, t)
    return alpha + c * sigma, sigma / (alpha + c * sigma)
