"""The value range of images, in one place: uint8 in files, float32 in [-1, 1] in models.

    unit  = (2 u - 255) / 255        u = 0 ... 255, both ends exact, symmetric about 0
    u     = round(127.5 (unit + 1))  clipped to 0 ... 255

2 u - 255 is a whole number and is multiplied once, so numpy and a compiled step agree to the bit.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Float32, UInt8

_STEP = np.float32(1 / 255)


def images_to_unit(
    images: UInt8[np.ndarray | jax.Array, "*shape"],
) -> Float32[np.ndarray | jax.Array, "*shape"]:
    """Images as a model sees them: (2 u - 255) / 255, from 0 ... 255 to [-1, 1].

    `images` uint8 of any shape, numpy or jax; the answer is of the same kind, float32.

    >>> images_to_unit(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    return (2 * images.astype(np.float32) - 255) * _STEP


def to_uint8(
    x: Float[np.ndarray | jax.Array, "*shape"],
) -> UInt8[np.ndarray | jax.Array, "*shape"]:
    """Images as a file holds them: round(127.5 (x + 1)), clipped to 0 ... 255.

    `x` any shape, in [-1, 1] up to what a sampler overshoots. The inverse of `images_to_unit`.
    Errors: ValueError where a concrete `x` holds NaN, which no byte stands for.

    >>> to_uint8(jnp.array([-1.0, 0.0, 2.0])).tolist()
    [0, 128, 255]
    """
    if not isinstance(x, Tracer):
        _check_not_nan(np.asarray(x), "x")
    numbers = jnp if isinstance(x, jax.Array) else np
    wide = x.astype(np.float32) * np.float32(127.5) + np.float32(127.5)
    return numbers.clip(numbers.round(wide), 0, 255).astype(np.uint8)


def check_finite(values: np.ndarray, name: str) -> None:
    """Raise ValueError where `values` holds NaN or infinity, with the count and the first index."""
    _check_not_nan(values, name)
    infinite = np.isinf(values)
    if infinite.any():
        raise ValueError(f"{name} holds {_found(infinite, 'infinite values')}: remove them")


def check_images(images: Any, name: str = "images") -> None:
    """Raise unless `images` are [n, h, w, c]: uint8, or finite floats in [-1, 1].

    Errors: ValueError that names the shape, type or range found and the way to mend it.

    >>> check_images(np.full((1, 2, 2, 1), 255.0))
    Traceback (most recent call last):
    ValueError: images has values from 255.0 to 255.0: float images lie in [-1, 1]; ...
    """
    if images.ndim != 4:
        raise ValueError(
            f"{name} has shape {images.shape}: images are [n, h, w, c]; grey ones need their "
            "channel axis, images[..., None]"
        )
    if 0 in images.shape:
        raise ValueError(f"{name} has shape {images.shape}: there is nothing in it")
    if images.dtype == np.uint8:
        return
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {images.dtype}: images are uint8 in 0 ... 255 "
            "(images.astype(np.uint8)), or floats in [-1, 1]"
        )
    check_finite(images, name)
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 1:
        raise ValueError(
            f"{name} has values from {low} to {high}: float images lie in [-1, 1]; pass bytes as "
            "uint8 (they are scaled when a batch is made) or scale them yourself"
        )


def unit(values: np.ndarray, name: str) -> np.ndarray:
    """A batch as float32: bytes scaled to [-1, 1], finite floats as they are."""
    if values.dtype == np.uint8:
        return np.asarray(images_to_unit(values))
    check_finite(values, name)
    return values.astype(np.float32)


def _check_not_nan(values: np.ndarray, name: str) -> None:
    missing = np.isnan(values)
    if missing.any():
        raise ValueError(f"{name} holds {_found(missing, 'NaN values')}: remove or replace them")


def _found(mask: np.ndarray, what: str) -> str:
    first = tuple(int(i) for i in np.argwhere(mask)[0])
    return f"{int(mask.sum())} {what}, the first at index {first}"
