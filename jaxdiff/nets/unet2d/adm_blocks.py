"""The blocks of ADM's networks, in the names of guided-diffusion, and how they are stacked."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import GroupNorm, conv, linear
from jaxdiff.nets.unet2d.packed import packed
from jaxdiff.nets.unet2d.resample import double, halve, nearest
from jaxdiff.nets.unet2d.residual import residual
from jaxdiff.types import Control, Site


class ResBlock(nnx.Module):
    """The residual block in the names of guided-diffusion."""

    def __init__(
        self,
        inputs: int,
        width: int,
        embed_dim: int,
        *,
        groups: int,
        film: bool,
        resample: Callable[[Array], Array] | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.film, self.resample = film, resample
        first = conv(inputs, width, dtype=dtype, rngs=rngs)
        last = conv(width, width, zero=True, dtype=dtype, rngs=rngs)
        self.in_layers: Any = nnx.Dict({"0": GroupNorm(inputs, groups=groups), "2": first})
        self.emb_layers = nnx.Dict({"1": linear(embed_dim, (1 + film) * width, rngs=rngs)})
        self.out_layers: Any = nnx.Dict({"0": GroupNorm(width, groups=groups), "3": last})
        short = None if inputs == width else conv(inputs, width, size=1, dtype=dtype, rngs=rngs)
        self.skip_connection = short

    def __call__(self, x: Array, embedding: Array, control: Control | None, place: Site) -> Array:
        return residual(
            x,
            self.emb_layers["1"](jax.nn.silu(embedding)),
            norm1=self.in_layers["0"],
            conv1=self.in_layers["2"],
            norm2=self.out_layers["0"],
            conv2=self.out_layers["3"],
            short=self.skip_connection,
            resample=self.resample,
            film=self.film,
            control=control,
            place=place,
        )


class AttentionBlock(nnx.Module):
    """x + W attention(norm x), with q, k and v packed in one map."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        groups: int,
        new_order: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}: it must divide the width {width}")
        self.heads = heads
        self.packing = "qkv, head, channel" if new_order else "head, qkv, channel"
        self.norm = GroupNorm(width, groups=groups)
        self.qkv = row_map(width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj_out = row_map(width, width, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, embedding: Array, control: Control | None, place: Site) -> Array:
        b, h, w, c = x.shape
        qkv = self.qkv(self.norm(x).reshape(b, h * w, c))
        mixed = packed(qkv, self.heads, self.packing, control=control, place=place)
        return x + self.proj_out(mixed).reshape(x.shape)


class Resize(nnx.Module):
    """Half or double resolution by a convolution."""

    def __init__(self, width: int, *, up: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        if up:
            self.conv = conv(width, width, dtype=dtype, rngs=rngs)
        else:
            self.op = conv(width, width, stride=2, dtype=dtype, rngs=rngs)
        self.up = up

    def __call__(self, x: Array, embedding: Array, control: Control | None, place: Site) -> Array:
        if not self.up:
            return self.op(x)
        return self.conv(nearest(x, (2 * x.shape[1], 2 * x.shape[2])))


class Pool(nnx.Module):
    """One query, the mean over pixels, looks at all pixels; its answer is mapped to logits."""

    def __init__(
        self,
        size: int,
        width: int,
        out: int,
        heads: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        start = spread(width**-0.5)
        place = start(rngs.params(), (width, size**2 + 1), jnp.float32)
        self.positional_embedding = nnx.Param(place)
        self.qkv_proj = row_map(width, 3 * width, dtype=dtype, rngs=rngs)
        self.c_proj = row_map(width, out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, control: Control | None, place: Site) -> Array:
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        rows = jnp.concatenate([jnp.mean(rows, axis=1, keepdims=True), rows], axis=1)
        rows = rows + self.positional_embedding.get_value().T[None].astype(rows.dtype)
        qkv = self.qkv_proj(rows)
        mixed = packed(qkv, self.heads, "qkv, head, channel", control=control, place=place)
        return self.c_proj(mixed)[:, 0]


class Layers:
    """What all blocks of a network share, and the makers of its blocks."""

    def __init__(
        self,
        embed_dim: int,
        heads: int,
        up_heads: int,
        head_width: int,
        film: bool,
        new_order: bool,
        groups: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.embed_dim, self.heads, self.up_heads = embed_dim, heads, up_heads
        self.head_width, self.film, self.new_order = head_width, film, new_order
        self.groups, self.dtype, self.rngs = groups, dtype, rngs

    def resnet(self, inputs: int, width: int, resample: Any = None) -> ResBlock:
        return ResBlock(
            inputs,
            width,
            self.embed_dim,
            groups=self.groups,
            film=self.film,
            resample=resample,
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def look(self, width: int, up: bool = False) -> AttentionBlock:
        heads = self.up_heads if up else self.heads
        return AttentionBlock(
            width,
            width // self.head_width if self.head_width else heads,
            groups=self.groups,
            new_order=self.new_order,
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def change(self, width: int, resnet: bool, up: bool) -> ResBlock | Resize:
        if resnet:
            return self.resnet(width, width, double if up else halve)
        return Resize(width, up=up, dtype=self.dtype, rngs=self.rngs)

    def descend(
        self, channels: int, widths: Sequence[int], attention: Sequence[int], depth: int, own: bool
    ) -> tuple[list[list[Any]], list[int], list[int]]:
        """The input blocks, the width after each, and the level of each."""
        blocks: list[list[Any]] = [[conv(channels, widths[0], dtype=self.dtype, rngs=self.rngs)]]
        after, levels = [widths[0]], [0]
        for i, width in enumerate(widths):
            for _ in range(depth):
                block = [self.resnet(after[-1], width)]
                blocks.append(block + [self.look(width)] * (i in attention))
                after.append(width)
                levels.append(i)
            if i < len(widths) - 1:
                blocks.append([self.change(width, own, False)])
                after.append(width)
                levels.append(i)
        return blocks, after, levels

    def middle(self, width: int) -> Any:
        parts = [self.resnet(width, width), self.look(width), self.resnet(width, width)]
        return numbered(parts)

    def ascend(
        self, widths: Sequence[int], attention: Sequence[int], skips: list[int], own: bool, n: int
    ) -> tuple[list[list[Any]], list[int]]:
        """The output blocks and the level of each."""
        blocks, levels, wide = [], [], widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            for j in range(n + 1):
                block: list[Any] = [self.resnet(wide + skips.pop(), width)]
                block += [self.look(width, True)] if i in attention else []
                block += [self.change(width, own, True)] if i and j == n else []
                blocks.append(block)
                levels.append(i)
                wide = width
        return blocks, levels


def row_map(
    inputs: int, outputs: int, *, zero: bool = False, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Conv:
    """A linear map of rows, kept as the convolution of width 1 that the checkpoints hold."""
    start = nnx.initializers.zeros if zero else spread(inputs**-0.5)
    return nnx.Conv(inputs, outputs, (1,), kernel_init=start, dtype=dtype, rngs=rngs)


def numbered(layers: Sequence[Any]) -> Any:
    """Layers under the names "0", "1", ..."""
    return nnx.Dict({str(i): layer for i, layer in enumerate(layers)})
