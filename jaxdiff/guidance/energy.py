"""Guidance by a loss of x_0, and plain edits of it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance.kernel import Guide, as_partial, edited, pulled
from jaxdiff.trees import combine, size
from jaxdiff.types import At, Estimate, Pull, PyTree

Loss = Callable[..., Array]
"""loss(x_0, ...) -> scalar, of ONE example."""


def spread(each: Sequence[PyTree], b: int) -> tuple[PyTree, ...]:
    """Data of the examples, [b, ...] or [1, ...] to serve all, as [b, ...].

    Raises:
      ValueError: if a leaf has another leading axis.
    """

    def wide(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        if leaf.shape[:1] not in ((1,), (b,)):
            raise ValueError(
                f"each: a leaf of shape {leaf.shape} for {b} samples; give it a leading axis of "
                f"{b}, one entry per sample, or of 1 to serve them all"
            )
        return jnp.broadcast_to(leaf, (b, *leaf.shape[1:]))

    return tuple(jax.tree.map(wide, part) for part in each)


def _downhill(loss: Any, scale: Any, each: Any, est: Estimate, at: At) -> PyTree:
    slope = jax.vmap(jax.grad(loss))(est.x0, *spread(each, size(est.x0)))
    return combine((-value_at(scale, at), slope))


def energy(loss: Loss, scale: Number = 1.0, *, each: Sequence[PyTree] = ()) -> Pull:
    """The pull -scale grad loss(x_0): samples are drawn to p(x) exp(-scale loss(x)), nearly.

    Args:
      loss: of ONE example, (x_0, *each) -> scalar; vmapped here.
      scale: a number, [b], or At -> scalar.
      each: what else the loss takes, trees of leaves [b, ...], or [1, ...] to serve every sample.

    Raises:
      ValueError: when called, if a leaf of `each` has another leading axis.

    Yu et al. 2023, FreeDoM, arXiv:2303.09833, eq. (8).

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> guided = pulled(energy(lambda x0: jnp.sum(x0**2) / 2))(d)
    >>> float(guided(jnp.ones((1, 1)), 1.0).x0[0, 0])   # 1/2 - sigma^2 * 1/2 * x_0
    0.25
    """
    return Partial(_downhill, as_partial(loss), numeric(scale), tuple(each))


def towards(loss: Loss, scale: Number = 1.0, *, each: Sequence[PyTree] = ()) -> Guide:
    """Guide by an energy: pulled(energy(loss, scale, each=each))."""
    return pulled(energy(loss, scale, each=each))


def _clipped(low: Any, high: Any, est: Estimate, at: At) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.clip(leaf, low, high), est.x0)


def clip(low: float | Array = -1.0, high: float | Array = 1.0) -> Guide:
    """Keep x_0 within the value range of the data.

    Ho et al. 2020, arXiv:2006.11239, section 3.3 (clipping as in the official code).
    """
    return edited(Partial(_clipped, jnp.asarray(low, float), jnp.asarray(high, float)))
