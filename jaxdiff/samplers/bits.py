"""Bytes and densities: uniform dequantisation, and a log-density as bits per dimension.

A density says nothing of bytes until they fill their bins: with x = the bin's centre + width * u,
u ~ U[-1/2, 1/2)^d,

    -log2 P(byte) = -log2 int_bin p = -log2 (width^d E_u[p(x)]) <= E_u[-log2 p(x)] - d log2 width,

a bound by Jensen's inequality; a bin is (high - low)/255 wide where bytes 0 ... 255 are at
low ... high. Theis et al. 2016, arXiv:1511.01844, section 3.1; Ho et al. 2019, arXiv:1902.00275,
eq. (4)-(5).
"""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Key, UInt8

from jaxdiff.types import Scalar, number

Span = tuple[Scalar, Scalar]


def dequantise(
    keys: Key[Array, " b"],
    images: UInt8[Array, "b ..."],
    *,
    span: Span = (-1.0, 1.0),
    levels: int = 256,
) -> Float[Array, "b ..."]:
    """Bytes with uniform noise of one bin: x = low + (u + U[-1/2, 1/2)) (high - low)/(levels - 1).

    Args:
      keys: one key per image [b].
      images: [b, ...] bytes in 0 ... levels - 1.
      span: where the bytes 0 and levels - 1 lie for the model.
      levels: how many there are, >= 2.

    Returns:
      x like images, floating point, up to half a bin outside the span.

    Raises:
      ValueError: if levels < 2, or span is not (low, high).

    >>> x = dequantise(jax.random.split(jax.random.key(0), 1), jnp.array([[0, 255]], jnp.uint8))
    >>> bool(jnp.all(jnp.abs(x - jnp.array([[-1.0, 1.0]])) <= 1 / 255))
    True
    """
    low, width = number(span[0]), _width(span, levels)
    draw = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], low.dtype))
    return low + (images.astype(low.dtype) + draw(keys) - 0.5) * width


def bits_per_dim(
    nats: Float[Array, " b"], d: int, *, span: Span = (-1.0, 1.0), levels: int = 256
) -> Float[Array, " b"]:
    """A log-density of dequantised data as bits per dimension, -(nats/d + log width)/log 2.

    width = (high - low)/(levels - 1) is the Jacobian from the model's range to bins of size 1. In
    expectation over the noise of `dequantise` it bounds the bits of the bytes from above.

    Args:
      nats: log p(x) [b], e.g. `log_likelihood(denoise, dequantise(keys, images))`.
      d: numbers per sample, h * w * c.
      span: where the bytes 0 and levels - 1 lie for the model.
      levels: how many there are, >= 2.

    Returns:
      bits per dimension [b]; 8 is what bytes cost without a model.

    Raises:
      ValueError: if d < 1 or levels < 2, or span is not (low, high).

    >>> flat = jnp.array([-12 * jnp.log(256 * 2 / 255)])   # uniform over 256 bins, 12 numbers
    >>> round(float(bits_per_dim(flat, 12)[0]), 4)
    8.0
    """
    if d < 1:
        raise ValueError(f"d={d}: how many numbers one sample has, h * w * c")
    return -(nats / d + jnp.log(_width(span, levels))) / jnp.log(2.0)


def _width(span: Span, levels: int) -> Array:
    if levels < 2:
        raise ValueError(f"levels={levels}: at least two")
    low, high = number(span[0]), number(span[1])
    traced = isinstance(low, Tracer) or isinstance(high, Tracer)
    if not traced and not float(low) < float(high):
        raise ValueError(f"span={span}: give (low, high) with low < high, e.g. (-1.0, 1.0)")
    return (high - low) / (levels - 1)
