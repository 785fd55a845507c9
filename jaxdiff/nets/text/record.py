"""What a text encoder is to everyone else, and the checks at its door."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.types import PyTree


class Encoded(NamedTuple):
    """What an encoder says of a text or of an image.

    `last` [b, n, d] after the final norm; `hidden` the inputs of the first layer and the results of
    every layer before the final norm, each [b, n, d], so hidden[-2] is the penultimate layer;
    `pooled` [b, e], one vector for the whole, or None where the network has none.
    """

    last: Float[Array, "b n d"]
    hidden: tuple[Float[Array, "b n d"], ...]
    pooled: Float[Array, "b e"] | None = None


class TextEncoder(NamedTuple):
    """`init(key) -> params`; `apply(params, ids [b, n], mask [b, n] or None) -> Encoded`.

    `width` d of the tokens and `tokens`, the most that it takes (None: any number).
    """

    init: Callable[[Any], PyTree]
    apply: Callable[..., Encoded]
    width: int
    tokens: int | None


def read_mask(
    ids: Int[Array, "*b"], mask: Array | None, most: int | None
) -> Bool[Array, "b n"] | None:
    """Check ids and mask of a text encoder; the mask as True where a token counts.

    Raises:
      ValueError: ids that are not [b, n], more tokens than the encoder takes, a mask of another
        shape.

    >>> read_mask(jnp.zeros((1, 2), int), jnp.array([[1, 0]]), 77)
    Array([[ True, False]], dtype=bool)
    """
    if ids.ndim != 2:
        raise ValueError(f"ids has shape {ids.shape}: give [b, n], a row of tokens for each text")
    if most is not None and ids.shape[1] > most:
        raise ValueError(
            f"ids has {ids.shape[1]} tokens and this encoder takes {most} at most: truncate, or "
            "encode windows one by one"
        )
    if mask is None:
        return None
    if mask.shape != ids.shape:
        raise ValueError(f"mask has shape {mask.shape} and ids {ids.shape}: they must be equal")
    return mask != 0


def check_heads(width: int, heads: int) -> None:
    """Raise unless `heads` divides `width`.

    >>> check_heads(8, 2)
    """
    if heads < 1 or width % heads:
        raise ValueError(f"heads is {heads}: it must divide the width {width}")


def sentence(
    last: Float[Array, "b n d"], mask: Array | None = None, *, unit: bool = True
) -> Float[Array, "b d"]:
    """One vector for a sentence: the mean over its tokens, of unit length.

    Args:
      last: [b, n, d], of an encoder such as `bert`.
      mask: [b, n], not 0 where a token counts; None counts all.
      unit: divide by the length.

    Reference: Reimers and Gurevych 2019, arXiv 1908.10084, section 3.

    >>> sentence(jnp.array([[[3.0, 4.0], [9.0, 9.0]]]), jnp.array([[1, 0]]))
    Array([[0.6, 0.8]], dtype=float32)
    """
    weight = jnp.ones(last.shape[:2]) if mask is None else (mask != 0)
    weight = weight.astype(jnp.float32)[:, :, None]
    total = jnp.sum(last.astype(jnp.float32) * weight, axis=1)
    mean = total / jnp.maximum(jnp.sum(weight, axis=1), 1e-9)
    if not unit:
        return mean
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
