"""Large images in little memory: tile by tile with blended seams, or one image after another.

Tiles overlap; on the overlap with the tile above and with the tile to the left the result passes
linearly from one to the other. A network sees no further than its tile, so the result differs from
that of the whole image by what its norms and attention would have seen.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.canonical import scan
from jaxdiff.types import PyTree


def tiled(
    fn: Callable[[Array], PyTree],
    x: Float[Array, "b h w c"],
    *,
    tile: int,
    to: int,
    overlap: float = 0.25,
) -> PyTree:
    """Apply an encoder or decoder to overlapping tiles and blend their results.

    Tiles begin at multiples of int(tile (1 - overlap)); those at the right and lower border are
    smaller. Tiles of one size run one after another in one loop, so there are at most four copies
    of the network in the program. An x that is no larger than a tile goes through whole.

    Args:
      fn: `[b, n, n, c] -> results`, one array or a pytree of them, each side to/tile times as long;
        such as `functools.partial(net.decode, params)`.
      x: images or codes.
      tile: side of a tile of x; with the overlap, a multiple of what fn divides by.
      to: side of the result of a tile.
      overlap: share of a tile that it has in common with the next, in [0, 1).

    Returns:
      What fn would return for x, but for the seams.

    Raises:
      ValueError: a tile below 1, an overlap outside [0, 1), or a stride and blend that do not
        correspond (to/tile no ratio of whole numbers for this overlap).

    Reference: tiles and blend are those of the tiled decoding in diffusers.

    >>> double = lambda z: 2.0 * z
    >>> x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    >>> bool(jnp.allclose(tiled(double, x, tile=4, to=4), 2 * x))
    True
    """
    stride, blend = _sizes(tile, to, overlap)
    if max(x.shape[1:3]) <= tile:
        return fn(x)
    starts = [range(0, size, stride) for size in x.shape[1:3]]
    pieces = {
        (i, j): x[:, top : top + tile, left : left + tile]
        for i, top in enumerate(starts[0])
        for j, left in enumerate(starts[1])
    }
    results = _each(fn, pieces)
    parts = {at: jax.tree.leaves(result) for at, result in results.items()}
    grid = (len(starts[0]), len(starts[1]))
    joined = [
        _join({at: leaves[n] for at, leaves in parts.items()}, grid, blend, to - blend)
        for n in range(len(parts[0, 0]))
    ]
    return jax.tree.unflatten(jax.tree.structure(results[0, 0]), joined)


def sliced(fn: Callable[[Array], PyTree], x: Float[Array, "b h w c"]) -> PyTree:
    """Apply an encoder or decoder to one image after another: the memory of a batch of one.

    >>> sliced(lambda z: z + 1, jnp.zeros((3, 2, 2, 1))).shape
    (3, 2, 2, 1)
    """

    def one(_: None, row: Array) -> tuple[None, PyTree]:
        return None, jax.tree.map(lambda leaf: leaf[0], fn(row[None]))

    return scan(one, None, x)[1]


def _sizes(tile: int, to: int, overlap: float) -> tuple[int, int]:
    """Stride of the tiles of x, and the length of the blend between their results."""
    if tile < 1 or to < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"tile is {tile}, to is {to} and overlap is {overlap}: sides are at least 1 and an "
            "overlap is in [0, 1)"
        )
    stride, blend = int(tile * (1 - overlap)), int(to * overlap)
    if stride < 1 or (to - blend) * tile != stride * to:
        raise ValueError(
            f"tile {tile} with the overlap {overlap} moves by {stride}, its result {to} by "
            f"{to - blend}, another share: take sides of which the overlap is a whole number"
        )
    return stride, blend


def _each(
    fn: Callable[[Array], PyTree], pieces: dict[tuple[int, int], Array]
) -> dict[tuple[int, int], PyTree]:
    """fn of every piece; pieces of one shape in one loop."""
    results = {}
    for shape in sorted({piece.shape for piece in pieces.values()}):
        places = [at for at, piece in pieces.items() if piece.shape == shape]
        stack = jnp.stack([pieces[at] for at in places])
        done = scan(lambda _, piece: (None, fn(piece)), None, stack)[1]
        for n, at in enumerate(places):
            results[at] = jax.tree.map(functools.partial(_row, n), done)
    return results


def _row(n: int, leaf: Array) -> Array:
    return leaf[n]


def _join(
    parts: dict[tuple[int, int], Array], grid: tuple[int, int], blend: int, keep: int
) -> Array:
    blended: dict[tuple[int, int], Array] = {}
    for (i, j), part in sorted(parts.items()):
        if i:
            part = _ramp(blended[i - 1, j], part, blend, 1)
        if j:
            part = _ramp(blended[i, j - 1], part, blend, 2)
        blended[i, j] = part
    rows = [
        jnp.concatenate([blended[i, j][:, :keep, :keep] for j in range(grid[1])], axis=2)
        for i in range(grid[0])
    ]
    return jnp.concatenate(rows, axis=1)


def _ramp(before: Array, after: Array, blend: int, axis: int) -> Array:
    """The beginning of `after` passes linearly from the end of `before`."""
    length = min(blend, before.shape[axis], after.shape[axis])
    if length == 0:
        return after
    share = (jnp.arange(length, dtype=after.dtype) / length).reshape(
        [-1 if n == axis else 1 for n in range(after.ndim)]
    )
    end = jax.lax.slice_in_dim(before, before.shape[axis] - length, before.shape[axis], axis=axis)
    start = jax.lax.slice_in_dim(after, 0, length, axis=axis)
    rest = jax.lax.slice_in_dim(after, length, after.shape[axis], axis=axis)
    return jnp.concatenate([end * (1 - share) + start * share, rest], axis=axis)
