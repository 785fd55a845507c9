"""Blur kernels [size, size], of sum 1, centred in the middle pixel: for `blur` and its kin.

    gaussian      exp(-(i^2 + j^2) / (2 width^2))
    anisotropic   exp(-((a/width_1)^2 + (b/width_2)^2) / 2), a and b turned by the angle
    motion        the part of each pixel that a straight line of a length passes through, nearly

Angles are in degrees, from the axis of columns towards that of rows.
"""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxdiff.types import Scalar


def gaussian_kernel(width: Scalar, size: int) -> Float[Array, "k k"]:
    """A round Gaussian.

    Args:
      width: standard deviation in pixels, > 0.
      size: odd; 6 width and more loses nothing.

    Raises:
      ValueError: if width <= 0, or size is not odd and positive.

    >>> gaussian_kernel(0.5, 3).shape
    (3, 3)
    """
    return anisotropic_kernel((width, width), 0.0, size)


def anisotropic_kernel(
    widths: tuple[Scalar, Scalar], angle: Scalar, size: int
) -> Float[Array, "k k"]:
    """A Gaussian of two widths, the first along the angle.

    Args:
      widths: standard deviations in pixels along and across, > 0.
      angle: in degrees.
      size: odd.

    Raises:
      ValueError: if a width is not positive, or size is not odd and positive.
    """
    for width in widths:
        _check_positive("width", width)
    along, across = _turned(angle, size)
    weights = jnp.exp(-((along / widths[0]) ** 2 + (across / widths[1]) ** 2) / 2)
    return weights / weights.sum()


def motion_kernel(length: Scalar, angle: Scalar, size: int) -> Float[Array, "k k"]:
    """A straight motion: the pixels nearer than one to a line of `length` through the middle.

    Args:
      length: in pixels, > 0.
      angle: in degrees.
      size: odd.

    Raises:
      ValueError: if length <= 0, or size is not odd and positive.

    >>> (3 * motion_kernel(3.0, 0.0, 3))[1].tolist()  # along a row
    [1.0, 1.0, 1.0]
    """
    _check_positive("length", length)
    along, across = _turned(angle, size)
    beyond = jnp.maximum(jnp.abs(along) - (length - 1) / 2, 0.0)
    weights = jnp.maximum(1 - jnp.hypot(beyond, across), 0.0)
    return weights / weights.sum()


def _turned(angle: Scalar, size: int) -> tuple[Array, Array]:
    """Coordinates of the pixels along and across a direction."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size={size}: a kernel has a middle pixel, so give an odd size >= 1")
    if not isinstance(angle, Tracer) and not np.isfinite(np.asarray(angle)):
        raise ValueError(f"angle={angle}: give a number of degrees")
    i = jnp.arange(size, dtype=float) - size // 2
    rows, columns = jnp.meshgrid(i, i, indexing="ij")
    turn = jnp.deg2rad(angle)
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return columns * cos + rows * sin, rows * cos - columns * sin


def _check_positive(name: str, value: Scalar) -> None:
    if not isinstance(value, Tracer) and not np.asarray(value) > 0:
        raise ValueError(f"{name}={value}: give a positive number of pixels")
