"""Inpainting y = m x, and makers of masks m: 1 where a pixel is seen, 0 where it is hidden.

The mask is its own singular value decomposition: z = x, values = m, U = V = I. A mask of all ones
is the identity, one of all zeros measures nothing: A^+ y = 0 and gram_solve(r2, s2, v) = v / s2.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Num

from jaxdiff.inverse.operators.kernel import Operator, Svd
from jaxdiff.inverse.operators.solve import spectral


def _masked(mask: Array, x: Array) -> Array:
    if jnp.broadcast_shapes(mask.shape, x.shape) != x.shape or mask.ndim != x.ndim:
        raise ValueError(
            f"mask of shape {mask.shape} for one image of shape {x.shape}: give [h, w, 1] or "
            f"{list(x.shape)}"
        )
    return jnp.where(mask, x, 0.0)


def _same(x: Array) -> Array:
    return x


def inpainting(
    mask: Bool[Array, "h w c"] | Num[Array, "h w c"], shape: tuple[int, ...]
) -> Operator:
    """Keep the pixels where the mask is 1: y = mask x, with zeros elsewhere.

    Args:
      mask: [h, w, 1] or [h, w, c], 1 where the pixel is seen.
      shape: (h, w, c) of one image.

    Raises:
      ValueError: if the mask does not have the shape of the image, or is not made of 0 and 1.

    >>> op = inpainting(jnp.eye(2)[..., None], (2, 2, 1))
    >>> op.A(jnp.ones((2, 2, 1)))[..., 0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    mask = jnp.asarray(mask)
    check_mask(mask, shape)
    mask = mask.astype(bool)
    keep, same = Partial(_masked, mask), Partial(_same)
    values = jnp.broadcast_to(mask, shape).astype(float)
    return spectral(Svd(values, same, same, keep, keep), tuple(shape), A=keep, At=keep)


def check_mask(mask: Array, shape: tuple[int, ...]) -> None:
    """Refuse a mask that does not fit images of a shape, or is not made of 0 and 1.

    Raises:
      ValueError: saying what is expected.
    """
    if mask.ndim != len(shape) or any(
        m not in (1, s) for m, s in zip(mask.shape, shape, strict=True)
    ):
        raise ValueError(
            f"mask of shape {mask.shape} for images of shape {tuple(shape)}: give "
            f"{(*tuple(shape)[:-1], 1)} or {tuple(shape)}"
        )
    if isinstance(mask, Tracer) or mask.dtype == bool:
        return
    if not np.isin(np.asarray(mask), (0, 1)).all():  # numpy: it may be asked inside a trace
        raise ValueError("mask holds values besides 0 and 1: threshold it, e.g. mask > 0.5")


def box_mask(
    shape: tuple[int, ...], low: tuple[int, int], high: tuple[int, int]
) -> Bool[Array, "h w 1"]:
    """Hide the box of rows low[0] ... high[0] - 1 and columns low[1] ... high[1] - 1.

    Raises:
      ValueError: if the box is empty or leaves the image.

    >>> box_mask((3, 3, 1), (0, 0), (2, 2))[..., 0].astype(int).tolist()
    [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    """
    if not all(0 <= a < b <= n for a, b, n in zip(low, high, shape)):
        raise ValueError(
            f"low={low}, high={high} for images of shape {tuple(shape)}: a box needs "
            "0 <= low < high <= (h, w)"
        )
    return jnp.ones((*shape[:2], 1), bool).at[low[0] : high[0], low[1] : high[1]].set(False)


def random_mask(key: Array, shape: tuple[int, ...], seen: float) -> Bool[Array, "h w 1"]:
    """Show a share `seen` of the pixels, in [0, 1], drawn at random: exactly round(seen h w).

    Raises:
      ValueError: if the share is outside [0, 1].

    >>> int(random_mask(jax.random.key(0), (4, 4, 3), 0.25).sum())
    4
    """
    _check_share("seen", seen)
    h, w = shape[:2]
    order = jax.random.permutation(key, h * w)
    return (order < round(seen * h * w)).reshape(h, w, 1)


def column_mask(
    key: Array, shape: tuple[int, ...], seen: float, *, centre: int = 0
) -> Bool[Array, "h w 1"]:
    """Show whole columns: the `centre` middle ones, and others at random, round(seen w) in all.

    What a scanner reads: columns of frequencies, all of the low ones (see `fourier`).

    Args:
      key: of the draw.
      shape: (h, w, ...).
      seen: share of the columns, in [0, 1].
      centre: columns in the middle that are always shown.

    Raises:
      ValueError: if the share is outside [0, 1] or `centre` is more than all columns.
    """
    _check_share("seen", seen)
    h, w = shape[:2]
    if not 0 <= centre <= w:
        raise ValueError(f"centre={centre}: of {w} columns at most {w} can be shown")
    column = jnp.arange(w)
    start = w // 2 - centre // 2
    middle = (column >= start) & (column < start + centre)
    order = jnp.where(middle, -1, jax.random.permutation(key, w))
    shown = jnp.argsort(jnp.argsort(order)) < max(round(seen * w), centre)
    return jnp.broadcast_to(shown[None, :, None], (h, w, 1))


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}={share}: a share is between 0 and 1")


def stroke_mask(
    key: Array, shape: tuple[int, ...], *, strokes: int = 4, turns: int = 4, width: float = 3.0
) -> Bool[Array, "h w 1"]:
    """Free form: hide random brush strokes, broken lines of `turns` pieces, `width` pixels wide.

    Args:
      key: of the draw.
      shape: (h, w, ...).
      strokes: how many.
      turns: straight pieces of each; a piece is about a quarter of the image long.
      width: in pixels.

    Raises:
      ValueError: if there is no stroke, no piece or no width.

    After Yu et al. 2019, arXiv:1806.03589, section 3.4, with the same law for every piece.
    """
    if strokes < 1 or turns < 1 or not width > 0:
        raise ValueError(f"strokes={strokes}, turns={turns}, width={width}: all are positive")
    h, w = shape[:2]
    size, (begin, walk) = jnp.array([h, w], float), jax.random.split(key)
    first = jax.random.uniform(begin, (strokes, 1, 2))
    steps = jax.random.normal(walk, (strokes, turns, 2)) / (4 * math.sqrt(2))
    ends = jnp.concatenate([first, first + jnp.cumsum(steps, axis=1)], axis=1) * size[None, None]
    a, b = ends[:, :-1].reshape(-1, 2), ends[:, 1:].reshape(-1, 2)
    rows, columns = jnp.meshgrid(jnp.arange(h) + 0.5, jnp.arange(w) + 0.5, indexing="ij")
    away = jax.vmap(_distance, (None, 0, 0))(jnp.stack([rows, columns], -1), a, b)
    return (away.min(axis=0) > width / 2)[..., None]


def _distance(
    p: Float[Array, "h w 2"], a: Float[Array, "2"], b: Float[Array, "2"]
) -> Float[Array, "h w"]:
    """From points to the piece of a line between a and b."""
    along = b - a
    share = jnp.clip(((p - a[None, None]) @ along) / jnp.maximum(along @ along, 1e-12), 0.0, 1.0)
    nearest = a[None, None] + share[..., None] * along[None, None]
    return jnp.linalg.norm(p - nearest, axis=-1)
