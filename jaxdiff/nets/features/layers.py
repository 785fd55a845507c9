"""Convolutions with a frozen batch norm, and pooling, as image classifiers have them.

The batch norm is that of inference: its mean and variance are parameters like the others, so a
network is a pure function and nothing is updated. To train such a network, freeze them.

Reference: Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 2.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.initial import lecun


class FrozenNorm(nnx.Module):
    """(x - running_mean) / sqrt(running_var + eps) * scale + bias, per channel.

    >>> FrozenNorm(2, eps=0.0)(jnp.ones((1, 1, 1, 2)))
    Array([[[[1., 1.]]]], dtype=float32)
    """

    def __init__(self, width: int, *, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.running_mean = nnx.Param(jnp.zeros(width, jnp.float32))
        self.running_var = nnx.Param(jnp.ones(width, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        scale, bias, mean, var = (
            jnp.asarray(param.get_value()).reshape(1, 1, 1, -1)
            for param in (self.scale, self.bias, self.running_mean, self.running_var)
        )
        gain = scale * lax.rsqrt(var + self.eps)
        return (x.astype(jnp.float32) * gain + (bias - mean * gain)).astype(x.dtype)


def convolution(
    inputs: int,
    outputs: int,
    size: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    bias: bool = False,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution with a kernel that need not be square, and none by default of padding and bias.

    >>> convolution(3, 4, (1, 7), padding=(0, 3), rngs=nnx.Rngs(0))(jnp.ones((1, 8, 8, 3))).shape
    (1, 8, 8, 4)
    """
    tall, wide = (padding, padding) if isinstance(padding, int) else padding
    return nnx.Conv(
        inputs,
        outputs,
        (size, size) if isinstance(size, int) else size,
        strides=stride,
        padding=[(tall, tall), (wide, wide)],
        use_bias=bias,
        kernel_init=lecun,
        dtype=dtype,
        rngs=rngs,
    )


class ConvNorm(nnx.Module):
    """relu(norm(conv(x)))."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        eps: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = convolution(
            inputs, outputs, size, stride=stride, padding=padding, dtype=dtype, rngs=rngs
        )
        self.bn = FrozenNorm(outputs, eps=eps)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        return jax.nn.relu(self.bn(self.conv(x)))


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: int = 0
) -> Float[Array, "b h2 w2 c"]:
    """The largest in each window; what lies outside never is.

    >>> max_pool(jnp.arange(4.0).reshape(1, 2, 2, 1), 2, 2).item()
    3.0
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, *_window(size, stride, padding))


def mean_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: int = 0, *, outside: bool = True
) -> Float[Array, "b h2 w2 c"]:
    """The mean of each window, over its places (`outside`: zeros there count) or those inside only.

    >>> mean_pool(jnp.ones((1, 1, 1, 1)), 3, 1, 1, outside=False).item()
    1.0
    """
    window = _window(size, stride, padding)
    total = lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, *window)
    if outside:
        return total / size**2
    number = lax.reduce_window(jnp.ones((1, *x.shape[1:3], 1), x.dtype), 0.0, lax.add, *window)
    return total / number


def _window(
    size: int, stride: int, padding: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return (1, size, size, 1), (1, stride, stride, 1), sides
