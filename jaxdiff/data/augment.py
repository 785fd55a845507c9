"""Augmentations: functions of a key and ONE image, which the loaders map over the batch.

    augment(key, image [h, w, c] in [-1, 1]) -> image [h, w, c]

They are pure, so the same key gives the same picture, on the host as inside a compiled step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.trees import keys_for

Augment = Callable[[jax.Array, jax.Array], jax.Array]
"""`augment(key, image [h, w, c]) -> image [h, w, c]`."""


def flip(key: Key[Array, ""], image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The image, mirrored left to right with probability 1/2.

    >>> image = jnp.arange(3.0).reshape(1, 3, 1)
    >>> sorted({tuple(flip(jax.random.key(i), image).ravel().tolist()) for i in range(8)})
    [(0.0, 1.0, 2.0), (2.0, 1.0, 0.0)]
    """
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def crop(key: Key[Array, ""], image: Float[Array, "h w c"], pad: int) -> Float[Array, "h w c"]:
    """A random crop of the image's own size from the image, widened by `pad` reflected pixels.

    Errors: ValueError unless 0 <= pad < min(h, w).

    >>> crop(jax.random.key(0), jnp.zeros((8, 8, 1)), 2).shape
    (8, 8, 1)
    """
    if not 0 <= pad < min(image.shape[:2]):
        raise ValueError(f"pad={pad}: a reflection needs 0 <= pad < {min(image.shape[:2])}")
    wide = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    top, left = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(wide, (top, left, 0), image.shape)


def pad_crop(pad: int) -> Augment:
    """The augmentation `crop` with its `pad`, in pixels.

    >>> pad_crop(2)(jax.random.key(0), jnp.zeros((8, 8, 1))).shape
    (8, 8, 1)
    """
    return lambda key, image: crop(key, image, pad)


def compose(*augments: Augment) -> Augment:
    """One augmentation after the other, the j-th with fold_in(key, j).

    >>> both = compose(flip, pad_crop(2))
    >>> both(jax.random.key(0), jnp.zeros((8, 8, 1))).shape
    (8, 8, 1)
    """

    def composed(key: Array, image: Array) -> Array:
        for j, augment in enumerate(augments):
            image = augment(jax.random.fold_in(key, j), image)
        return image

    return composed


def augmented(
    augment: Augment,
    key: Key[Array, ""],
    rows: Array,
    x: Float[Array, "b h w c"],
) -> Float[Array, "b h w c"]:
    """`augment` on every image of a batch, image i with fold_in(key, rows[i]).

    `rows` [b] positions in the global batch, so an image does not depend on how it is spread.

    >>> augmented(flip, jax.random.key(0), jnp.arange(2), jnp.zeros((2, 4, 4, 1))).shape
    (2, 4, 4, 1)
    """
    return jax.vmap(augment)(keys_for(key, rows), x)
