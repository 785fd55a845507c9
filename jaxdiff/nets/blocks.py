"""The block of the U-Net: two convolutions with FiLM, then attention where it is wanted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.attention import Attention
from jaxdiff.nets.cond import Given
from jaxdiff.nets.layers import GroupNorm, conv, linear
from jaxdiff.types import Control, Site


class Residual(nnx.Module):
    """x + conv(silu(film(norm(conv(silu(norm x)))))), the second convolution starting at zero.

    The scale and shift of FiLM are a linear map of the embedding of time and class.

    Reference: Dhariwal and Nichol 2021, arXiv 2105.05233, section 3 (adaptive group norm).

    >>> block = Residual(4, 8, embed_dim=6, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "down", 0, 0, "conv", (4, 4), 0)
    >>> block(jnp.ones((1, 4, 4, 4)), jnp.ones((1, 6)), place=place).shape
    (1, 4, 4, 8)
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        embed_dim: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(inputs)
        self.conv1 = conv(inputs, width, dtype=dtype, rngs=rngs)
        self.film = linear(embed_dim, 2 * width, rngs=rngs)
        self.norm2 = GroupNorm(width)
        self.conv2 = conv(width, width, zero=True, dtype=dtype, rngs=rngs)
        self.short = linear(inputs, width, dtype=dtype, rngs=rngs) if inputs != width else None

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        embedding: Float[Array, "b e"],
        *,
        control: Control | None = None,
        place: Site,
    ) -> Float[Array, "b h w d"]:
        scale, shift = jnp.split(self.film(jax.nn.silu(embedding)), 2, axis=1)
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h, (scale, shift))))
        h = ports.hook(control, place, "resnet", h)
        return (x if self.short is None else self.short(x)) + h


class Look(nnx.Module):
    """x + attention(norm x): pixels look at one another, or at tokens.

    >>> look = Look(8, 2, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "middle", 0, 0, "self", (3, 3), 2)
    >>> look(jnp.ones((1, 3, 3, 8)), Given(), place=place).shape
    (1, 3, 3, 8)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_dim: int = 0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm = GroupNorm(width)
        self.attention = Attention(
            width, heads, context_dim=context_dim, zero=True, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "b h w c"], given: Given, *, place: Site
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        tokens, mask = (given.tokens, given.mask) if place.kind == "cross" else (None, None)
        pixels = self.norm(x).reshape(b, h * w, c)
        mixed = self.attention(pixels, tokens, mask, control=given.control, place=place)
        return x + mixed.reshape(x.shape)


class Block(nnx.Module):
    """A residual block, then self-attention if `heads` > 0, then cross-attention if asked for.

    `context_dim` > 0 adds the cross-attention, with `cross_heads` heads.

    >>> block = Block(4, 8, embed_dim=6, self_heads=2, rngs=nnx.Rngs(0))
    >>> place = Site("middle/0", "", "middle", 0, 0, "block", (4, 4), 0)
    >>> block(jnp.ones((1, 4, 4, 4)), jnp.ones((1, 6)), Given(), place=place).shape
    (1, 4, 4, 8)
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        embed_dim: int,
        self_heads: int = 0,
        cross_heads: int = 0,
        context_dim: int = 0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.residual = Residual(inputs, width, embed_dim=embed_dim, dtype=dtype, rngs=rngs)

        def look(heads: int, source: int) -> Look:
            return Look(width, heads, context_dim=source, dtype=dtype, rngs=rngs)

        self.own = look(self_heads, 0) if self_heads else None
        self.cross = look(cross_heads, context_dim) if cross_heads and context_dim else None

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        embedding: Float[Array, "b e"],
        given: Given,
        *,
        place: Site,
    ) -> Float[Array, "b h w d"]:
        inner = _inside(place, "residual", "conv", 0)
        x = self.residual(x, embedding, control=given.control, place=inner)
        if self.own is not None:
            heads = self.own.attention.heads
            x = self.own(x, given, place=_inside(place, "own", "self", heads))
        if self.cross is not None:
            heads = self.cross.attention.heads
            x = self.cross(x, given, place=_inside(place, "cross", "cross", heads))
        return ports.hook(given.control, place, "block", x)


def _inside(place: Site, name: str, kind: str, heads: int) -> Site:
    return replace(place, path=f"{place.path}/{name}", kind=kind, heads=heads)
