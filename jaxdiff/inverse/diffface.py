"""DiffFace's blending: the surroundings of a face are kept, and its part grows from nothing.

    x_s <- m_s x_s + (1 - m_s) (alpha_s y + sigma_s z),    m_s = min(1, progress / full) mask.

Early steps take their layout from y everywhere, later ones are free where the mask is 1. The
identity itself is an energy, `guidance.towards`.

Kim et al. 2022, arXiv:2212.13344, section 3 (target-preserving blending).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_picture, check_positive, check_share
from jaxdiff.process import perturb
from jaxdiff.trees import fold, normal
from jaxdiff.types import GUIDE, Estimate, Now, Sampler, State, number


def diffface(mask: Array, y: Array, *, full: float | Array = 1.0) -> Callable[[Sampler], Sampler]:
    """A correction that blends x_s with a noised picture, less and less where the mask is 1.

    Args:
      mask: [h, w, 1] or [h, w, c], in [0, 1], 1 where the samples are free at the end.
      y: the picture around it, [b, h, w, c].
      full: the share of the steps in (0, 1] after which the mask counts in full.

    Raises:
      ValueError: if the mask is outside [0, 1] or does not have the shape of the pictures, full is
        outside (0, 1], or y is not a picture of the samples' shape and value range.

    Kim et al. 2022, arXiv:2212.13344, section 3.
    """
    mask, y = jnp.asarray(mask, float), jnp.asarray(y)
    check_share("mask", mask)
    check_share("full", full)
    check_positive("full", full)
    _check_shape(mask, y)
    whole = number(full)

    def correct(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            check_picture(y, state.x, denoise.span)
            state, est = sampler.step(now, denoise, state)
            kept = perturb(denoise.process, now.s, y, normal(fold(now.key, GUIDE), y))
            free = jnp.minimum((now.i + 1) / (now.n * whole), 1.0) * mask[None]
            return State(free * state.x + (1 - free) * kept, state.hist), est

        return Sampler(sampler.init, step)

    return correct


def _check_shape(mask: Array, y: Array) -> None:
    fits = mask.ndim == y.ndim - 1 and all(
        m in (1, n) for m, n in zip(mask.shape, y.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"mask of shape {mask.shape} for pictures of shape {y.shape[1:]}: give "
            f"{(*y.shape[1:-1], 1)} or {y.shape[1:]}"
        )
