"""Layers that every network shares: convolutions, linear maps, norms, and changes of resolution.

Parameters are float32; `dtype` is that of the arithmetic. Norms compute in float32 and return the
dtype of their input. Images are NHWC, kernels HWIO.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdiff.nets.initial import lecun, spread


def conv(
    inputs: int,
    outputs: int,
    *,
    size: int = 3,
    stride: int = 1,
    padding: int | Sequence[tuple[int, int]] | None = None,
    bias: bool = True,
    zero: bool = False,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution [b, h, w, inputs] -> [b, h / stride, w / stride, outputs].

    `padding` is a number for all four sides, or ((top, bottom), (left, right)); by default
    (size - 1) / 2, which keeps the resolution at stride 1. Kernels start from variance 1/fan-in
    (`lecun`), or from zero.

    >>> conv(3, 8, rngs=nnx.Rngs(0))(jnp.zeros((1, 5, 5, 3))).shape
    (1, 5, 5, 8)
    """
    padding = (size - 1) // 2 if padding is None else padding
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=[(padding, padding)] * 2 if isinstance(padding, int) else padding,
        use_bias=bias,
        kernel_init=nnx.initializers.zeros if zero else lecun,
        dtype=dtype,
        rngs=rngs,
    )


def linear(
    inputs: int,
    outputs: int,
    *,
    zero: bool = False,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A linear map on the last axis; on images, the 1x1 convolution.

    >>> linear(3, 8, rngs=nnx.Rngs(0))(jnp.zeros((1, 5, 5, 3))).shape
    (1, 5, 5, 8)
    """
    start = nnx.initializers.zeros if zero else lecun
    return nnx.Linear(inputs, outputs, kernel_init=start, use_bias=bias, dtype=dtype, rngs=rngs)


class GroupNorm(nnx.Module):
    """Group normalisation of images, with an optional FiLM scale and shift per sample.

        y = ((x - mean_g) / sqrt(var_g + eps) * gamma + beta) * (1 + s) + t

    By default the groups hold at least 4 channels and are at most 32. Mean and variance are taken
    over pixels first and over the channels of a group afterwards, which reads memory in order.

    Reference: Wu and He 2018, arXiv 1803.08494; FiLM: Perez et al. 2017, arXiv 1709.07871.

    >>> GroupNorm(16)(jnp.ones((2, 4, 4, 16))).shape
    (2, 4, 4, 16)
    """

    def __init__(self, width: int, *, groups: int | None = None, eps: float = 1e-5):
        self.groups = _groups(width) if groups is None else groups
        if self.groups < 1 or width % self.groups:
            raise ValueError(f"groups is {groups}: it must divide the width {width}")
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        film: tuple[Float[Array, "b c"], Float[Array, "b c"]] | None = None,
    ) -> Float[Array, "b h w c"]:
        wide = x.astype(jnp.float32)
        centred = wide - self._pooled(wide)[:, None, None, :]
        inverse = jax.lax.rsqrt(self._pooled(jnp.square(centred)) + self.eps)
        # gamma, beta and FiLM are folded into one gain and one offset per sample and channel.
        gain, offset = inverse * self.scale[None, :], self.bias[None, :]
        if film is not None:
            s, t = (part.astype(jnp.float32) for part in film)
            gain, offset = gain * (1 + s), offset * (1 + s) + t
        return (centred * gain[:, None, None, :] + offset[:, None, None, :]).astype(x.dtype)

    def _pooled(self, x: Array) -> Array:
        """Mean over the pixels and channels of a group, repeated to every channel; [b, c]."""
        b, _, _, c = x.shape
        mean = jnp.mean(x, axis=(1, 2)).reshape(b, self.groups, c // self.groups)
        mean = jnp.mean(mean, axis=2, keepdims=True)
        return jnp.broadcast_to(mean, (b, self.groups, c // self.groups)).reshape(b, c)


def layer_norm(x: Float[Array, "*b d"], eps: float = 1e-6) -> Float[Array, "*b d"]:
    """Layer normalisation over the last axis, without gain or offset (adaLN brings its own).

    y = (x - mean) / sqrt(var + eps), in float32.

    Reference: Ba et al. 2016, arXiv 1607.06450.

    >>> layer_norm(jnp.array([[1.0, 3.0]])).round(3)
    Array([[-1.,  1.]], dtype=float32)
    """
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis with a learned gain and offset.

        y = (x - mean) / sqrt(var + eps) * gamma + beta

    Reference: Ba et al. 2016, arXiv 1607.06450.

    >>> LayerNorm(2)(jnp.array([[1.0, 3.0]])).round(3)
    Array([[-1.,  1.]], dtype=float32)
    """

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = True):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        y = layer_norm(x.astype(jnp.float32), self.eps) * _last(self.scale, x)
        return (y if self.bias is None else y + _last(self.bias, x)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation over the last axis: y = x / sqrt(mean(x^2) + eps) * gamma.

    Reference: Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4.

    >>> RMSNorm(2)(jnp.array([[3.0, -3.0]])).round(3)
    Array([[ 1., -1.]], dtype=float32)
    """

    def __init__(self, width: int, *, eps: float = 1e-6):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        wide = x.astype(jnp.float32)
        power = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(power + self.eps) * _last(self.scale, x)).astype(x.dtype)


class Table(nnx.Module):
    """A row of parameters for each index: `table(index [*b]) -> [*b, width]`.

    An index outside the table gives NaN, which is loud, instead of the nearest row.

    >>> Table(3, 4, rngs=nnx.Rngs(0))(jnp.array([[0, 2]])).shape
    (1, 2, 4)
    """

    def __init__(self, rows: int, width: int, *, deviation: float = 0.02, rngs: nnx.Rngs):
        start = spread(deviation)
        self.embedding = nnx.Param(start(rngs.params(), (rows, width), jnp.float32))

    def __call__(self, index: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        return jnp.take(self.embedding.get_value(), index, axis=0)


def space_to_depth(x: Float[Array, "b h w c"], factor: int = 2) -> Float[Array, "b h2 w2 c2"]:
    """Move blocks of factor x factor pixels into channels: [b, h, w, c] -> [b, h/f, w/f, f f c].

    Nothing is lost; channels are ordered (row, column, channel).

    >>> space_to_depth(jnp.zeros((1, 4, 6, 3))).shape
    (1, 2, 3, 12)
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: Float[Array, "b h w c"], factor: int = 2) -> Float[Array, "b h2 w2 c2"]:
    """The inverse of `space_to_depth`: [b, h, w, f f c] -> [b, f h, f w, c].

    >>> x = jnp.arange(48.0).reshape(1, 4, 4, 3)
    >>> bool((depth_to_space(space_to_depth(x)) == x).all())
    True
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


def check_divisible(shape: Sequence[int], factor: int, reason: str) -> None:
    """Raise unless height and width in `shape` [b, h, w, c] are multiples of `factor`.

    >>> check_divisible((1, 6, 8, 3), 4, "three levels")
    Traceback (most recent call last):
    ...
    ValueError: x has height 6 and width 8, not multiples of 4 (three levels): pad or crop to 8 x 8
    """
    h, w = shape[1:3]
    if h % factor or w % factor:
        up = [-(-n // factor) * factor for n in (h, w)]
        raise ValueError(
            f"x has height {h} and width {w}, not multiples of {factor} ({reason}): pad or crop to "
            f"{up[0]} x {up[1]}"
        )


def _last(param: nnx.Param, like: Array) -> Array:
    """A vector of parameters along the last axis of `like`."""
    return param.get_value().reshape((1,) * (like.ndim - 1) + (-1,))


def _groups(width: int) -> int:
    most = min(32, max(1, width // 4))
    return next(g for g in range(most, 0, -1) if width % g == 0)
