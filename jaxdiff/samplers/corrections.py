"""Corrections: Sampler -> Sampler, what acts on x_s after a step, or through its gradient.

They need a grid, so they are samplers; Diffrax does not take them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State, number

Fix = Callable[[Now, Process, PyTree, Estimate], PyTree]
"""fix(now, process, x_s, estimate) -> x_s."""


def after(fix: Fix) -> Callable[[Sampler], Sampler]:
    """Change x_s after every step of a sampler.

    Args:
      fix: `fix(now, process, x_s, estimate) -> x_s`; draws from fold(now.key, GUIDE).
    """

    def correct(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            state, est = sampler.step(now, denoise, state)
            return State(fix(now, denoise.process, state.x, est), state.hist), est

        return Sampler(sampler.init, step)

    return correct


def through(cost: Callable[[PyTree], Array], rate: float | Array) -> Callable[[Sampler], Sampler]:
    """x_s -= rate grad_{x_t} cost(x_0(x_t)): a gradient through the step, per sample.

    Args:
      cost: x_0 [b, ...] -> [b]; it must not mix samples, and nothing is averaged over the batch.
      rate: step size, per step: it acts more with more steps.
    """

    def correct(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            def ahead(x: PyTree) -> tuple[Array, Any]:
                new, est = sampler.step(now, denoise, State(x, state.hist))
                return jnp.sum(cost(est.x0)), (new, est)

            slope, (new, est) = jax.grad(ahead, has_aux=True)(state.x)
            return State(combine((1.0, new.x), (-number(rate), slope)), new.hist), est

        return Sampler(sampler.init, step)

    return correct
