"""Half and double resolution: by a small symmetric filter, or by a convolution of stride 2.

A filter with taps f is applied along both axes, f f^T / (sum f)^2, before every second pixel is
kept, or after zeros were put between the pixels (then times 4). The taps (1, 1) are the mean of
2 x 2 pixels and the repetition of a pixel; (1, 3, 3, 1) is a smoother pair.

Reference: Karras et al. 2020, arXiv 1912.04958, section 3 (filters between resolutions).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.layers import conv

BOX = (1.0, 1.0)
SMOOTH = (1.0, 3.0, 3.0, 1.0)


def halve(
    x: Float[Array, "b h w c"], taps: Sequence[float] = BOX, *, padding: int | None = None
) -> Float[Array, "b h2 w2 c"]:
    """Half the resolution, after a filter with an even number of `taps`.

    >>> halve(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[[[1.5]]]]
    """
    b, h, w, c = x.shape
    if tuple(taps) == BOX and padding is None:
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    pad = (len(taps) - 1) // 2 if padding is None else padding
    return _depthwise(x, _filter(taps), pad, stride=2)


def double(x: Float[Array, "b h w c"], taps: Sequence[float] = BOX) -> Float[Array, "b h2 w2 c"]:
    """Double the resolution by zeros between the pixels and a filter.

    >>> double(jnp.ones((1, 1, 1, 1)))[0, :, :, 0].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    if tuple(taps) == BOX:
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return _depthwise(x, 4 * _filter(taps), len(taps) // 2, dilation=2)


def nearest(x: Float[Array, "b h w c"], hw: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """The nearest pixel at another resolution: that of a larger image whose size is odd.

    >>> nearest(jnp.arange(2.0).reshape(1, 2, 1, 1), (3, 1))[0, :, 0, 0].tolist()
    [0.0, 0.0, 1.0]
    """
    if hw == (2 * x.shape[1], 2 * x.shape[2]):
        return double(x)
    rows, columns = (_source(size, old) for size, old in zip(hw, x.shape[1:3]))
    return x[:, rows][:, :, columns]


class Downsample(nnx.Module):
    """A convolution of stride 2; `padding` 0 pads only below and to the right, by one pixel.

    >>> Downsample(4, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 6, 4))).shape
    (1, 3, 3, 4)
    """

    def __init__(
        self, width: int, *, padding: int = 1, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        sides = padding if padding else ((0, 1), (0, 1))
        self.conv = conv(width, width, stride=2, padding=sides, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """The nearest pixel at resolution `hw`, then a convolution.

    >>> Upsample(4, rngs=nnx.Rngs(0))(jnp.ones((1, 3, 3, 4)), (6, 6)).shape
    (1, 6, 6, 4)
    """

    def __init__(self, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.conv = conv(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], hw: tuple[int, int]
    ) -> Float[Array, "b h2 w2 c"]:
        return self.conv(nearest(x, hw))


def _source(size: int, old: int) -> np.ndarray:
    return np.floor(np.arange(size, dtype=np.float32) * np.float32(old / size)).astype(np.int32)


def _filter(taps: Sequence[float]) -> np.ndarray:
    row = np.asarray(taps, np.float32)
    return np.outer(row, row) / row.sum() ** 2


def _depthwise(
    x: Array, kernel: np.ndarray, pad: int, *, stride: int = 1, dilation: int = 1
) -> Array:
    """One filter for every channel; `dilation` puts zeros between the pixels first."""
    wide = jnp.broadcast_to(
        jnp.asarray(kernel, x.dtype)[:, :, None, None], (*kernel.shape, 1, x.shape[-1])
    )
    return jax.lax.conv_general_dilated(
        x,
        wide,
        window_strides=(stride, stride),
        padding=[(pad, pad)] * 2,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
