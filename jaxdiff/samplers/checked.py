"""A sampler that stops at the first NaN: which step, which samples, and who made it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State


def checked(sampler: Sampler) -> Sampler:
    """Look at every step, compiled or not, for NaN and infinity, and raise where they begin.

    It costs a call back to the host a step: for finding faults, not for production.

    Args:
      sampler: any sampler, corrected or not.

    Raises:
      FloatingPointError: naming the step, its time and the samples; inside compiled code JAX wraps
        it into its own runtime error, with the same message.

    >>> from jaxdiff.samplers import euler
    >>> checked(euler()).init(jnp.zeros((2, 3))).x.shape
    (2, 3)
    """

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        after, est = sampler.step(now, denoise, state)
        jax.debug.callback(_look, now.i, now.n, now.t, *map(_broken, (state.x, est.x0, after.x)))
        return after, est

    return Sampler(sampler.init, step)


def _broken(x: PyTree) -> Array:
    """Which samples hold NaN or infinity, [b]."""
    found = [
        ~jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(x)
    ]
    return jnp.stack(found).any(axis=0)


def _look(i: Any, n: Any, t: Any, before: Any, x0: Any, x: Any) -> None:
    for broken, who in (
        (before, "x_t, before the step"),
        (x0, "x_0, the denoiser's answer"),
        (x, "x_s, made by the sampler or a correction"),
    ):
        if np.any(broken):
            raise FloatingPointError(
                f"NaN or infinity at step {int(i)} of {int(n)} (t = {np.asarray(t).tolist()}) in "
                f"{who}: samples {np.flatnonzero(broken).tolist()}"
            )
