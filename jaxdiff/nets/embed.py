"""Embeddings: of time and class into one vector, of places into sines and cosines."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import linear


def fourier(
    time: Float[Array, " b"], width: int, *, low: float = 0.25, high: float = 32.0
) -> Float[Array, "b {width}"]:
    """Fourier features of a real number, with unit mean square.

        e(t) = sqrt(2) [cos(w_1 t) ... cos(w_n t) sin(w_1 t) ... sin(w_n t)],   n = width / 2,

    where w_1 = low ... w_n = high is a geometric row, in radians per unit of t.

    Args:
      time: [b], any real numbers. The default row suits inputs of order one, such as
        log(sigma)/4 or t in [0, 1]; for steps counted 0 .. 1000 take low=1e-4, high=1.
      width: even.

    Returns:
      [b, width] float32.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.

    >>> fourier(jnp.zeros(3), 4)[0].round(4)
    Array([1.4142, 1.4142, 0.    , 0.    ], dtype=float32)
    """
    if width % 2:
        raise ValueError(f"width is {width}: it must be even, half cosines and half sines")
    rates = jnp.geomspace(low, high, width // 2, dtype=jnp.float32)
    angle = time.astype(jnp.float32)[:, None] * rates[None, :]
    return math.sqrt(2) * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)


def sinusoid(
    time: Float[Array, " b"],
    width: int,
    *,
    sine_first: bool = False,
    shift: float = 0.0,
    period: float = 10000.0,
) -> Float[Array, "b {width}"]:
    """The features of time that published checkpoints were trained with.

        e(t) = [cos(w_k t) ... sin(w_k t) ...],   w_k = period^(-k / (n - shift)),   n = width // 2

    Args:
      time: [b], steps counted 0 .. 1000.
      width: number of features; of an odd width the last is 0.
      sine_first: sines before cosines (Ho et al.), instead of the reverse.
      shift: 1 makes the last rate exactly 1/period (Ho et al.), 0 is the common choice since.
      period: the longest wave is 2 pi times this.

    Returns:
      [b, width] float32.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.

    >>> sinusoid(jnp.zeros(3), 4)[0]
    Array([1., 1., 0., 0.], dtype=float32)
    """
    half = width // 2
    # XLA's exp is off by a bit in half of the rates, which at t = 1000 is 6e-5 in the angle.
    powers = np.float32(-math.log(period)) * np.arange(half, dtype=np.float32)
    powers = powers / np.float32(half - shift)
    rates = jnp.asarray(np.exp(powers.astype(np.float64)), jnp.float32)
    angle = time.astype(jnp.float32)[:, None] * rates[None, :]
    parts = [jnp.sin(angle), jnp.cos(angle)] if sine_first else [jnp.cos(angle), jnp.sin(angle)]
    return jnp.pad(jnp.concatenate(parts, axis=1), ((0, 0), (0, width % 2)))


class TwoLayers(nnx.Module):
    """W2 act(W1 x): the small map behind most embeddings of published networks.

    >>> TwoLayers(4, 8, rngs=nnx.Rngs(0))(jnp.ones((2, 4))).shape
    (2, 8)
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int | None = None,
        *,
        act: Callable[[Array], Array] = jax.nn.silu,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.linear_1 = linear(inputs, width, dtype=dtype, rngs=rngs)
        self.linear_2 = linear(width, outputs or width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        return self.linear_2(self.act(self.linear_1(x)))


def positions(h: int, w: int, width: int) -> Float[Array, "n {width}"]:
    """Sines and cosines of the places on an h x w grid, row by row.

    The first half of the width encodes the column, the second half the row; each half is
    [sin(p w_k), cos(p w_k)] with w_k = 10000^(-k / (width/4)).

    Args:
      h: rows of the grid.
      w: columns of the grid.
      width: a multiple of 4.

    Returns:
      [h w, width] float32.

    Reference: Peebles and Xie 2022, arXiv 2212.09748 (the layout of its code).

    >>> positions(2, 3, 8).shape
    (6, 8)
    """
    if width % 4:
        raise ValueError(f"width is {width}: 2-D positions need a multiple of 4")
    row, column = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    return jnp.concatenate(
        [_line(column.reshape(-1), width), _line(row.reshape(-1), width)], axis=1
    )


def _line(place: Int[Array, " n"], width: int) -> Float[Array, "n half"]:
    quarter = width // 4
    rates = 10000.0 ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)
    angle = place.astype(jnp.float32)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


class Embedding(nnx.Module):
    """The vector that tells a network time and class: MLP(fourier(t)) + table[label].

    The table has classes + 1 rows; the last is the null label. All in float32.

    >>> embed = Embedding(8, classes=3, rngs=nnx.Rngs(0))
    >>> embed(jnp.zeros(2), jnp.array([0, 3])).shape
    (2, 8)
    """

    def __init__(self, width: int, *, classes: int = 0, features: int = 128, rngs: nnx.Rngs):
        self.features = features
        self.first = linear(features, width, rngs=rngs)
        self.second = linear(width, width, rngs=rngs)
        self.table = _table(classes, width, rngs) if classes else None

    def __call__(
        self, time: Float[Array, " b"], label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b d"]:
        vector = self.second(jax.nn.silu(self.first(fourier(time, self.features))))
        if self.table is None or label is None:
            return vector
        # take fills rows outside the table with NaN: a bad label under jit is loud, not clamped.
        return vector + jnp.take(self.table.get_value(), label, axis=0)


def _table(classes: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(spread(0.5)(rngs.params(), (classes + 1, width), jnp.float32))


def times(time: Float[Array, "*b"], batch: int) -> Float[Array, " batch"]:
    """Time for every sample: a scalar is repeated, [b] is checked.

    Raises:
      ValueError: if time is neither a scalar nor of shape [b].

    >>> times(jnp.zeros(()), 2)
    Array([0., 0.], dtype=float32)
    """
    if time.shape not in ((), (batch,)):
        raise ValueError(
            f"time has shape {time.shape} but x holds {batch} samples: give a scalar or [{batch}]"
        )
    return jnp.broadcast_to(time, (batch,))
