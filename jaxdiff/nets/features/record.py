"""What a feature network is to everyone else."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from jaxdiff.types import PyTree


class Features(NamedTuple):
    """`maps`, feature maps [b, h, w, c] from fine to coarse; `pooled` [b, d]; `logits` or None."""

    maps: tuple[Float[Array, "b h w c"], ...]
    pooled: Float[Array, "b d"]
    logits: Float[Array, "b k"] | None = None


class Extractor(NamedTuple):
    """`init(key) -> params`; `apply(params, image [b, h, w, 3] in [-1, 1]) -> Features`."""

    init: Callable[[Any], PyTree]
    apply: Callable[[PyTree, Array], Features]


class Distance(NamedTuple):
    """A distance of images.

    `init(key) -> params`; `apply(params, x, y) -> [b]` for images [b, h, w, 3] in [-1, 1];
    `maps(params, x) -> tuple` of the feature maps that it compares, each of unit length in c.
    """

    init: Callable[[Any], PyTree]
    apply: Callable[[PyTree, Array, Array], Array]
    maps: Callable[[PyTree, Array], tuple[Array, ...]]


def check_picture(image: Array, least: int, name: str = "image") -> None:
    """Raise unless `image` is [b, h, w, 3] with sides of at least `least`.

    >>> import jax.numpy as jnp
    >>> check_picture(jnp.zeros((1, 8, 8, 3)), 8)
    """
    if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < least:
        raise ValueError(
            f"{name} has shape {image.shape}: this network takes [b, h, w, 3] in [-1, 1] with "
            f"sides of at least {least}; resize or repeat grey"
        )
