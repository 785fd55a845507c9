"""What follows a residual block in published U-Nets: attention of pixels, or a small transformer.

    SelfAttention   x + W attend(norm x)                                DDPM, NCSN++, ADM
    Transformer     x + W blocks(W norm x), each block                  latent diffusion
                    x + self(norm x); x + cross(norm x, tokens); x + ff(norm x)

The names are those of diffusers.

Reference: Rombach et al. 2022, arXiv 2112.10752, appendix E.2.1; the gated linear unit of the
feed-forward map: Shazeer 2020, arXiv 2002.05202, eq. 6 (GEGLU).
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.attention import attend
from jaxdiff.nets.cond import Given
from jaxdiff.nets.layers import GroupNorm, LayerNorm, conv, linear
from jaxdiff.types import Control, Site


class Heads(nnx.Module):
    """Multi-head attention with the projections to_q, to_k, to_v and to_out.

    >>> layer = Heads(16, 4, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "middle", 0, 0, "self", (2, 2), 4)
    >>> layer(jnp.ones((1, 4, 16)), place=place).shape
    (1, 4, 16)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_dim: int = 0,
        bias: bool = False,
        zero: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}: it must divide the width {width}")
        self.heads = heads
        source = context_dim or width
        self.to_q = linear(width, width, bias=bias, dtype=dtype, rngs=rngs)
        self.to_k = linear(source, width, bias=bias, dtype=dtype, rngs=rngs)
        self.to_v = linear(source, width, bias=bias, dtype=dtype, rngs=rngs)
        self.to_out = nnx.List([linear(width, width, zero=zero, dtype=dtype, rngs=rngs)])

    def __call__(
        self,
        x: Float[Array, "b n d"],
        tokens: Float[Array, "b m k"] | None = None,
        mask: Array | None = None,
        *,
        control: Control | None = None,
        place: Site,
    ) -> Float[Array, "b n d"]:
        source = x if tokens is None else tokens
        q, k, v = self._split(self.to_q(x)), self._split(self.to_k(source)), self.to_v(source)
        mixed = attend(q, k, self._split(v), mask=mask, control=control, place=place)
        return self.to_out[0](mixed.reshape(x.shape))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


class SelfAttention(nnx.Module):
    """(x + attention(norm x)) * scale on images; `groups` 0 leaves the norm out.

    >>> look = SelfAttention(8, 2, groups=4, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "middle", 0, 0, "block", (3, 3), 0)
    >>> look(jnp.ones((1, 3, 3, 8)), Given(), place=place).shape
    (1, 3, 3, 8)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        groups: int,
        eps: float = 1e-5,
        scale: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        inner = Heads(width, heads, bias=True, zero=True, dtype=dtype, rngs=rngs)
        self.heads, self.scale = heads, scale
        self.group_norm = GroupNorm(width, groups=groups, eps=eps) if groups else None
        # The projections lie beside the norm in published names, so they move here.
        self.to_q, self.to_k, self.to_v = inner.to_q, inner.to_k, inner.to_v
        self.to_out = inner.to_out

    def __call__(
        self, x: Float[Array, "b h w c"], given: Given, *, place: Site
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        rows = (x if self.group_norm is None else self.group_norm(x)).reshape(b, h * w, c)
        q, k, v = (
            layer(rows).reshape(b, h * w, self.heads, c // self.heads)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        place = replace(place, kind="self", heads=self.heads)
        mixed = attend(q, k, v, control=given.control, place=place).reshape(b, h * w, c)
        y = x + self.to_out[0](mixed).reshape(x.shape)
        return y * self.scale if self.scale != 1.0 else y


class Transformer(nnx.Module):
    """x + W blocks(W norm x): a stack of transformer blocks over the pixels of an image.

    >>> look = Transformer(8, 2, layers=1, context_dim=5, groups=4, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "middle", 0, 0, "block", (3, 3), 0)
    >>> look(jnp.ones((1, 3, 3, 8)), Given(tokens=jnp.ones((1, 7, 5))), place=place).shape
    (1, 3, 3, 8)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        layers: int,
        context_dim: int,
        groups: int,
        only_cross: bool = False,
        flat: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm = GroupNorm(width, groups=groups, eps=1e-6)
        if flat:
            self.proj_in = linear(width, width, dtype=dtype, rngs=rngs)
            self.proj_out = linear(width, width, zero=True, dtype=dtype, rngs=rngs)
        else:
            self.proj_in = conv(width, width, size=1, dtype=dtype, rngs=rngs)
            self.proj_out = conv(width, width, size=1, zero=True, dtype=dtype, rngs=rngs)
        self.transformer_blocks = nnx.List(
            [
                TransformerBlock(
                    width, heads, context_dim, only_cross=only_cross, dtype=dtype, rngs=rngs
                )
                for _ in range(layers)
            ]
        )

    def __call__(
        self, x: Float[Array, "b h w c"], given: Given, *, place: Site
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        rows = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for k, block in enumerate(self.transformer_blocks):
            inner = replace(place, path=f"{place.path}/transformer_blocks/{k}")
            rows = block(rows, given, place=inner)
        return x + self.proj_out(rows.reshape(b, h, w, c))


class TransformerBlock(nnx.Module):
    """Self-attention, cross-attention and a gated map of each pixel, each a residual.

    With `only_cross` the first attention looks at the tokens too.

    >>> block = TransformerBlock(8, 2, 5, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "middle", 0, 0, "block", (2, 2), 0)
    >>> block(jnp.ones((1, 4, 8)), Given(tokens=jnp.ones((1, 7, 5))), place=place).shape
    (1, 4, 8)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_dim: int,
        *,
        only_cross: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        first = context_dim if only_cross else 0
        self.only_cross = only_cross
        self.norm1 = LayerNorm(width)
        self.attn1 = Heads(width, heads, context_dim=first, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width)
        self.attn2 = Heads(width, heads, context_dim=context_dim, dtype=dtype, rngs=rngs)
        self.norm3 = LayerNorm(width)
        self.ff = FeedForward(width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], given: Given, *, place: Site
    ) -> Float[Array, "b n d"]:
        tokens, mask = (given.tokens, given.mask) if self.only_cross else (None, None)
        own = _at(place, "attn1", "cross" if self.only_cross else "self", self.attn1.heads)
        other = _at(place, "attn2", "cross", self.attn2.heads)
        control = given.control
        x = x + self.attn1(self.norm1(x), tokens, mask, control=control, place=own)
        x = x + self.attn2(self.norm2(x), given.tokens, given.mask, control=control, place=other)
        inner = self.ff(self.norm3(x))
        return x + ports.hook(control, _at(place, "ff", place.kind, 0), "resnet", inner)


class FeedForward(nnx.Module):
    """W2 (a * gelu(g)) with [a, g] = W1 x, four times as wide inside.

    >>> FeedForward(4, rngs=nnx.Rngs(0))(jnp.ones((1, 2, 4))).shape
    (1, 2, 4)
    """

    def __init__(self, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        gate = nnx.Dict({"proj": linear(width, 8 * width, dtype=dtype, rngs=rngs)})
        self.net = nnx.Dict({"0": gate, "2": linear(4 * width, width, dtype=dtype, rngs=rngs)})

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        value, gate = jnp.split(self.net["0"]["proj"](x), 2, axis=-1)
        return self.net["2"](value * jax.nn.gelu(gate, approximate=False))


def _at(place: Site, name: str, kind: str, heads: int) -> Site:
    return replace(place, path=f"{place.path}/{name}", kind=kind, heads=heads)
