"""Attention of pixels whose q, k and v come from one map, as three packings of its output.

"head, qkv, channel"    ADM as it was published
"qkv, head, channel"    ADM's new attention order
"head, channel, qkv"    EDM's networks
"""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.nets.attention import attend
from jaxdiff.types import Control, Site

PACKINGS = {"head, qkv, channel": 3, "qkv, head, channel": 2, "head, channel, qkv": 4}
"""The axis of q, k and v among [b, n, ., ., .]."""


def packed(
    qkv: Float[Array, "b n w"],
    heads: int,
    packing: str,
    *,
    control: Control | None = None,
    place: Site,
) -> Float[Array, "b n d"]:
    """Attention of n pixels to one another; w = 3 d.

    >>> place = Site("", "", "middle", 0, 0, "block", (2, 2), 0)
    >>> packed(jnp.ones((1, 4, 12)), 2, "qkv, head, channel", place=place).shape
    (1, 4, 4)
    """
    b, n, wide = qkv.shape
    axis = PACKINGS[packing]
    shape = [b, n, heads, wide // (3 * heads)]
    shape.insert(axis, 3)
    q, k, v = (part.squeeze(axis) for part in jnp.split(qkv.reshape(shape), 3, axis=axis))
    place = replace(place, kind="self", heads=heads)
    return attend(q, k, v, control=control, place=place).reshape(b, n, wide // 3)
