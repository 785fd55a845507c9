"""Layers that every network shares: convolutions, linear maps, norms, and changes of resolution.

Parameters are float32; `dtype` is that of the arithmetic. Norms compute in float32 and return the
dtype of their input. Images are NHWC, kernels HWIO.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.initial import lecun


def conv(
    inputs: int,
    outputs: int,
    *,
    size: int = 3,
    zero: bool = False,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution [b, h, w, inputs] -> [b, h, w, outputs] that keeps the resolution.

    Kernels start from variance 1/fan-in (`lecun`), or from zero.

    >>> conv(3, 8, rngs=nnx.Rngs(0))(jnp.zeros((1, 5, 5, 3))).shape
    (1, 5, 5, 8)
    """
    start = nnx.initializers.zeros if zero else lecun
    return nnx.Conv(inputs, outputs, (size, size), kernel_init=start, dtype=dtype, rngs=rngs)


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

    The groups hold at least 4 channels and are at most 32. Mean and variance are taken over
    pixels first and over the channels of a group afterwards, which reads memory in order.

    Reference: Wu and He 2018, arXiv 1803.08494; FiLM: Perez et al. 2017, arXiv 1709.07871.

    >>> GroupNorm(16)(jnp.ones((2, 4, 4, 16))).shape
    (2, 4, 4, 16)
    """

    def __init__(self, width: int, *, eps: float = 1e-5):
        self.groups = _groups(width)
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


def _groups(width: int) -> int:
    most = min(32, max(1, width // 4))
    return next(g for g in range(most, 0, -1) if width % g == 0)
