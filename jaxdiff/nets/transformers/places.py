"""Where a token is: sines and cosines of a stretched grid, a stored table, rotations.

All are computed in double precision while tracing, one axis at a time, so that what lands in a
program are h + w rows and not h w.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def grid(
    h: int, w: int, width: int, *, base: int | None = None, scale: float = 1.0
) -> Float[Array, "n {width}"]:
    """Sines and cosines of an h x w grid that is stretched over the grid of training, row by row.

        e(i, j) = [s(j base / (w scale)), s(i base / (h scale))],
        s(p) = [sin(p w_k), cos(p w_k)],   w_k = 10000^(-k / (width / 4))

    Args:
      h: rows of tokens.
      w: columns of tokens.
      width: a multiple of 4.
      base: side of the square grid of training; by default no stretching.
      scale: the interpolation scale; 2 lets a grid of twice the side cover the same places.

    Returns:
      [h w, width] float32; the first half of the width encodes the column.

    Raises:
      ValueError: a width that is no multiple of 4.

    Reference: Peebles and Xie 2022, arXiv 2212.09748; the stretching: Chen et al. 2023,
    arXiv 2310.00426, section 2.3.

    >>> grid(2, 3, 8).shape
    (6, 8)
    >>> bool((grid(4, 4, 8, base=2)[2] == grid(2, 2, 8)[1]).all())
    True
    """
    if width % 4:
        raise ValueError(f"width is {width}: 2-D positions need a multiple of 4")
    rows, columns = _line(h, width, base or h, scale), _line(w, width, base or w, scale)
    half = (h, w, width // 2)
    both = [
        jnp.broadcast_to(jnp.asarray(columns)[None, :, :], half),
        jnp.broadcast_to(jnp.asarray(rows)[:, None, :], half),
    ]
    return jnp.concatenate(both, axis=2).reshape(h * w, width)


def _line(count: int, width: int, base: int, scale: float) -> np.ndarray:
    # Single precision here, double afterwards: the places that checkpoints were trained with.
    place = np.arange(count, dtype=np.float32) / np.float32(count / base) / np.float32(scale)
    rates = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    angle = place.astype(np.float64)[:, None] * rates[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def middle(table: Float[Array, "1 m d"], h: int, w: int) -> Float[Array, "n d"]:
    """The middle h x w places of a stored square table [1, side^2, d], row by row.

    Raises:
      ValueError: a grid larger than the table.

    Reference: Esser et al. 2024, arXiv 2403.03206.

    >>> middle(jnp.arange(16.0).reshape(1, 16, 1), 2, 2)[:, 0]
    Array([ 5.,  6.,  9., 10.], dtype=float32)
    """
    side = round(table.shape[1] ** 0.5)
    if max(h, w) > side:
        raise ValueError(
            f"x has {h} x {w} patches but the table of positions has {side} x {side}: give a "
            "smaller x, or stretch the table with `stretched`"
        )
    top, left = (side - h) // 2, (side - w) // 2
    square = table.reshape(side, side, -1)
    return square[top : top + h, left : left + w].reshape(h * w, -1)


def stretched(
    table: Float[Array, "1 m d"], old: Sequence[int], new: Sequence[int], *, extras: int = 0
) -> Float[Array, "1 k d"]:
    """A stored table of places, interpolated to another grid by cubics.

    Args:
      table: [1, extras + h w, d], as in the parameters of a network.
      old: (h, w) of the table.
      new: (h, w) that is wanted.
      extras: leading rows that belong to no place (time, class, text); they stay.

    Raises:
      ValueError: a table that does not have the size `old`.

    >>> stretched(jnp.ones((1, 5, 3)), (2, 2), (4, 4), extras=1).shape
    (1, 17, 3)
    """
    if table.shape[1] != extras + old[0] * old[1]:
        raise ValueError(
            f"the table has {table.shape[1]} rows, not {extras} + {old[0]} x {old[1]}: give its "
            "own size as old="
        )
    width = table.shape[2]
    image = table[:, extras:].reshape(1, *old, width)
    image = jax.image.resize(image, (1, *new, width), "cubic")
    return jnp.concatenate([table[:, :extras], image.reshape(1, new[0] * new[1], width)], axis=1)


def angles(
    h: int, w: int, axes: Sequence[int], *, texts: int = 0, period: float = 10000.0
) -> Float[Array, "n half"]:
    """Angles of the rotations of tokens at (0, row, column), behind `texts` tokens at (0, 0, 0).

        theta = p_a period^(-2k / axes_a),   k = 0 .. axes_a / 2 - 1, for each axis a

    Args:
      h: rows of tokens.
      w: columns of tokens.
      axes: widths that belong to the three axes; they add up to the width of a head.
      texts: tokens of text in front.
      period: of the slowest rotation, over 2 pi.

    Returns:
      [texts + h w, sum(axes) / 2] float32.

    Reference: Su et al. 2021, arXiv 2104.09864, section 3.2.

    >>> angles(2, 2, (2, 2, 4), texts=1)[:, 1]
    Array([0., 0., 0., 1., 1.], dtype=float32)
    """
    zero, rows, columns = (_turns(n, axis, period) for n, axis in zip((1, h, w), axes, strict=True))
    spread = [
        jnp.broadcast_to(jnp.asarray(part), (h, w, part.shape[-1]))
        for part in (zero[None], rows[:, None], columns[None, :])
    ]
    image = jnp.concatenate(spread, axis=2).reshape(h * w, -1)
    return jnp.pad(image, ((texts, 0), (0, 0)))


def _turns(count: int, axis: int, period: float) -> np.ndarray:
    rates = period ** (-np.arange(0, axis, 2) / axis)
    return (np.arange(count)[:, None] * rates[None, :]).astype(np.float32)


def rotate(
    x: Float[Array, "b n heads d"], angle: Float[Array, "n half"]
) -> Float[Array, "b n heads d"]:
    """Turn each pair (x_2k, x_2k+1) of each head by its angle, in float32.

    Reference: Su et al. 2021, arXiv 2104.09864, eq. 34.

    >>> rotate(jnp.array([[[[1.0, 0.0]]]]), jnp.array([[jnp.pi / 2]])).round(3)[0, 0, 0]
    Array([-0.,  1.], dtype=float32)
    """
    cos, sin = jnp.cos(angle)[None, :, None, :], jnp.sin(angle)[None, :, None, :]
    pairs = x.astype(jnp.float32).reshape(*x.shape[:3], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
