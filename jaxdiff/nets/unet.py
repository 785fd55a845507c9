"""The U-Net: down through a pyramid of resolutions, through a middle, and up again with skips.

Level l has `widths[l]` channels at 1/2^l of the resolution. The deepest level is the middle; every
level above it has `depth` blocks on the way down and as many on the way up, each joined to its
mirror image by a skip. Resolution changes without loss: space-to-depth and a 1x1 convolution down,
a 1x1 convolution and depth-to-space up. Sites are named as the parameters are: down/0/1 is the
second block of the first level.

Reference: Ronneberger et al. 2015, arXiv 1505.04597; Ho et al. 2020, arXiv 2006.11239, appendix B.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.blocks import Block
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import Embedding, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import (
    GroupNorm,
    check_divisible,
    conv,
    depth_to_space,
    linear,
    space_to_depth,
)
from jaxdiff.types import Net, PyTree, Site


def unet(
    *,
    channels: int,
    out: int | None = None,
    widths: Sequence[int] = (16, 48, 96),
    depth: int = 1,
    middle: int = 2,
    heads: int = 4,
    attention: Sequence[int] = (2,),
    embed_dim: int = 128,
    classes: int = 0,
    context_dim: int = 0,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """A U-Net as two pure functions; the arguments are those of `UNet`.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, channels], time [b], cond) -> [b, h, w, out]`.

    >>> net = unet(channels=1, widths=(8, 16), attention=(1,), heads=2, embed_dim=16)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    >>> jax.eval_shape(net.apply, params, x, jax.ShapeDtypeStruct((2,), jnp.float32)).shape
    (2, 8, 8, 1)
    """

    def make(rngs: nnx.Rngs) -> UNet:
        return UNet(
            channels=channels,
            out=out,
            widths=widths,
            depth=depth,
            middle=middle,
            heads=heads,
            attention=attention,
            embed_dim=embed_dim,
            classes=classes,
            context_dim=context_dim,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


class UNet(nnx.Module):
    """U-Net with FiLM conditioning, attention at chosen levels, and an output that starts at zero.

    Args:
      channels: channels of x.
      out: channels of the output (default: those of x).
      widths: channels of each level; the last is the middle.
      depth: blocks on each level, down and up, above the middle.
      middle: blocks in the middle; attention sits between them (after the only one if 1).
      heads: heads of every attention; must divide the widths that have one.
      attention: levels with self-attention (0 is the finest).
      embed_dim: width of the embedding of time and class.
      classes: number of classes; label `classes` is the null label. 0: unconditional.
      context_dim: width of tokens; > 0 adds cross-attention at those levels and in the middle.
      remat: recompute each block in the backward pass instead of keeping what is inside.
      dtype: of the arithmetic; parameters and output are float32.
      rngs: for the initial parameters. The network itself is deterministic.

    Raises:
      ValueError: a level outside the pyramid, heads that do not divide, an image whose sides are
        no multiples of 2^(levels - 1), a condition that does not fit.

    >>> net = UNet(channels=1, widths=(8, 16), attention=(1,), embed_dim=16, rngs=nnx.Rngs(0))
    >>> net(jnp.ones((2, 8, 8, 1)), jnp.zeros(2)).shape
    (2, 8, 8, 1)
    """

    def __init__(
        self,
        *,
        channels: int,
        out: int | None = None,
        widths: Sequence[int] = (16, 48, 96),
        depth: int = 1,
        middle: int = 2,
        heads: int = 4,
        attention: Sequence[int] = (2,),
        embed_dim: int = 128,
        classes: int = 0,
        context_dim: int = 0,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        _check_build(widths, depth, middle, attention)
        self.channels, self.classes, self.context_dim = channels, classes, context_dim
        self.remat, self.dtype = remat, dtype

        def block(inputs: int, width: int, own: bool, cross: bool) -> Block:
            return Block(
                inputs,
                width,
                embed_dim=embed_dim,
                self_heads=heads if own else 0,
                cross_heads=heads if cross else 0,
                context_dim=context_dim,
                dtype=dtype,
                rngs=rngs,
            )

        def level(width: int, inputs: int, looks: bool) -> nnx.List:
            return nnx.List([block(inputs, width, looks, looks) for _ in range(depth)])

        steps = list(itertools.pairwise(widths))
        looks = [i in attention for i in range(len(widths))]
        between = [i < max(1, middle - 1) for i in range(middle)]
        bottom = widths[-1]
        self.embedding = Embedding(embed_dim, classes=classes, rngs=rngs)
        self.entry = conv(channels, widths[0], dtype=dtype, rngs=rngs)
        self.down = nnx.List([level(w, w, look) for w, look in zip(widths[:-1], looks)])
        self.shrink = nnx.List([linear(4 * a, b, dtype=dtype, rngs=rngs) for a, b in steps])
        self.middle = nnx.List([block(bottom, bottom, looks[-1] and b, b) for b in between])
        self.grow = nnx.List([linear(b, 4 * a, dtype=dtype, rngs=rngs) for a, b in steps])
        self.up = nnx.List([level(w, 2 * w, look) for w, look in zip(widths[:-1], looks)])
        self.norm = GroupNorm(widths[0])
        self.exit = conv(widths[0], out or channels, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        given = self._read(x, cond)
        place = Site("temb", "", "embed", 0, 0, "embed", _hw(x), 0)
        embedding = self.embedding(times(time, x.shape[0]), given.label)
        embedding = ports.hook(given.control, place, "temb", embedding)
        h, skips = self._descend(self.entry(x.astype(self.dtype)), embedding, given)
        for i, block in enumerate(self.middle):
            place = Site(f"middle/{i}", "", "middle", len(self.down), i, "block", _hw(h), 0)
            h = self._run(block, place, given)(h, embedding)
        h = self._ascend(h, skips, embedding, given)
        return self.exit(jax.nn.silu(self.norm(h))).astype(jnp.float32)

    def _run(self, block: Block, place: Site, given: Given) -> Callable[..., Array]:
        def run(h: Array, embedding: Array) -> Array:
            return block(h, embedding, given, place=place)

        return jax.checkpoint(run) if self.remat else run

    def _read(self, x: Array, cond: PyTree) -> Given:
        if x.shape[-1] != self.channels:
            raise ValueError(
                f"x has {x.shape[-1]} channels: this network was built with channels="
                f"{self.channels}"
            )
        levels = len(self.down) + 1
        check_divisible(x.shape, 2 ** (levels - 1), f"{levels} levels")
        return read_cond(cond, batch=x.shape[0], classes=self.classes, context_dim=self.context_dim)

    def _descend(self, h: Array, embedding: Array, given: Given) -> tuple[Array, list[Array]]:
        skips = []
        for level, (blocks, shrink) in enumerate(zip(self.down, self.shrink)):
            for i, block in enumerate(blocks):
                place = Site(f"down/{level}/{i}", "", "down", level, i, "block", _hw(h), 0)
                h = self._run(block, place, given)(h, embedding)
                skips.append(h)
            h = shrink(space_to_depth(h))
        return h, skips

    def _ascend(self, h: Array, skips: list[Array], embedding: Array, given: Given) -> Array:
        for level in reversed(range(len(self.up))):
            h = depth_to_space(self.grow[level](h))
            for i, block in enumerate(self.up[level]):
                place = Site(f"up/{level}/{i}", "", "up", level, i, "block", _hw(h), 0)
                skip = ports.hook(given.control, place, "skip", skips.pop())
                h = self._run(block, place, given)(jnp.concatenate([h, skip], axis=-1), embedding)
        return h


def _hw(x: Array) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


def _check_build(widths: Sequence[int], depth: int, middle: int, attention: Sequence[int]) -> None:
    for name, value in (("len(widths)", len(widths)), ("depth", depth), ("middle", middle)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    for level in attention:
        if not 0 <= level < len(widths):
            raise ValueError(
                f"attention names level {level}: with {len(widths)} widths the levels are 0 .. "
                f"{len(widths) - 1}"
            )
