"""The transformer of Stable Diffusion 3 and 3.5: image and text in two streams, one attention.

Each stream has its own modulation, projections and MLP; queries, keys and values of both are joined
(image first). Of the last block's text only keys and values matter. In 3.5 queries and keys are
normed by head, and the image stream of some blocks looks at itself once more:

    x <- x + gate_1 joint(x_1, text_1) [+ gate_3 attention(x_3)] + ...,   x_i = norm(x)(1+s_i) + t_i

Reference: Esser et al. 2024, arXiv 2403.03206, figure 2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import read_cond
from jaxdiff.nets.embed import times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import depth_to_space, linear
from jaxdiff.nets.transformers import parts
from jaxdiff.nets.transformers.heads import Heads, Joint
from jaxdiff.nets.transformers.places import grid, middle
from jaxdiff.nets.transformers.walk import walk
from jaxdiff.types import Control, Net, PyTree, Site


def sd3(
    *,
    size: int,
    table: int,
    patch: int = 2,
    channels: int = 16,
    out: int | None = None,
    width: int,
    depth: int,
    heads: int,
    context_dim: int,
    pooled_dim: int,
    norm: bool = False,
    dual: Sequence[int] = (),
    remat: bool = False,
    scan: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """The transformer of Stable Diffusion 3 as two pure functions.

    Args:
      size: side of x in training, which sets the scale of the table's initial values.
      table: side of the stored table of positions, in patches; x takes its middle.
      patch: side of a patch; divides the sides of x.
      channels: channels of x.
      out: channels of the output (default: those of x).
      width: of the tokens, a multiple of 4 and of heads.
      depth: number of blocks.
      heads: heads of every attention.
      context_dim: width of the tokens of text.
      pooled_dim: width of the pooled text.
      norm: RMS norms of queries and keys (3.5).
      dual: the blocks whose image looks at itself once more (3.5 medium).
      remat: recompute each block in the backward pass instead of keeping what is inside.
      scan: walk equal neighbours among the blocks in one loop, compiled once; with a control they
        are walked one by one.
      dtype: of the arithmetic; parameters and output are float32.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, channels], time [b] in 0 .. 1000, cond) ->
      [b, h, w, out]`, cond {"tokens": [b, n, context_dim], "pooled": [b, pooled_dim]}. The table of
      positions is a parameter that gets no gradient: checkpoints hold it.

    Raises:
      ValueError: sizes that do not divide one another, here or in apply; an x beyond the table; a
        condition that does not fit.

    Reference: Esser et al. 2024, arXiv 2403.03206.

    >>> net = sd3(size=8, table=6, width=16, depth=2, heads=2, context_dim=6, pooled_dim=5)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> cond = {"tokens": jnp.zeros((2, 5, 6)), "pooled": jnp.zeros((2, 5))}
    >>> jax.eval_shape(net.apply, params, jnp.zeros((2, 8, 8, 16)), jnp.zeros(2), cond).shape
    (2, 8, 8, 16)
    """

    def make(rngs: nnx.Rngs) -> SD3:
        return SD3(
            size=size,
            table=table,
            patch=patch,
            channels=channels,
            out=out or channels,
            width=width,
            depth=depth,
            heads=heads,
            context_dim=context_dim,
            pooled_dim=pooled_dim,
            norm=norm,
            dual=dual,
            remat=remat,
            scan=scan,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


class SD3(nnx.Module):
    """The module behind `sd3`."""

    def __init__(
        self,
        *,
        size: int,
        table: int,
        patch: int,
        channels: int,
        out: int,
        width: int,
        depth: int,
        heads: int,
        context_dim: int,
        pooled_dim: int,
        norm: bool,
        dual: Sequence[int],
        remat: bool,
        scan: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if any(i not in range(depth) for i in dual):
            raise ValueError(f"dual is {tuple(dual)}: it names blocks 0 .. {depth - 1}")
        self.patch, self.channels = patch, channels
        self.context_dim, self.pooled_dim = context_dim, pooled_dim
        self.remat, self.scan, self.dtype = remat, scan, dtype
        self.pos_embed = Placed(channels, width, patch, table, size, dtype=dtype, rngs=rngs)
        self.time_text_embed = parts.TimeText(width, pooled_dim, dtype=dtype, rngs=rngs)
        self.context_embedder = linear(context_dim, width, dtype=dtype, rngs=rngs)
        blocks = [
            Block(
                width,
                heads,
                last=i == depth - 1,
                norm=norm,
                dual=i in dual,
                dtype=dtype,
                rngs=rngs,
            )
            for i in range(depth)
        ]
        self.transformer_blocks = nnx.List(blocks)
        self.norm_out = parts.Modulation(width, 2, dtype=dtype, rngs=rngs)
        self.proj_out = linear(width, patch**2 * out, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        hw = parts.check_image(x, self.channels, self.patch)
        given = read_cond(cond, batch=x.shape[0], context_dim=self.context_dim, extra=("pooled",))
        parts.check_text(given, self.pooled_dim)
        place = Site("temb", "", "embed", 0, 0, "embed", hw, 0)
        embedding = self.time_text_embed(times(time, x.shape[0]), given.pooled)
        embedding = ports.hook(given.control, place, "temb", embedding)

        def run(block: Block, i: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            place = Site(f"transformer_blocks/{i}", "", "blocks", 0, i, "block", hw, 0)
            return block(*carry, embedding, control=given.control, place=place)

        carry = self.pos_embed(x.astype(self.dtype), hw), self.context_embedder(given.tokens)
        scan = self.scan and given.control is None
        h, _ = walk(self.transformer_blocks, carry, run, remat=self.remat, scan=scan)
        scale, shift = self.norm_out(embedding)
        h = self.proj_out(parts.modulated(h, shift, scale)).reshape(x.shape[0], *hw, -1)
        return depth_to_space(h, self.patch).astype(jnp.float32)


class Placed(nnx.Module):
    """Patches as tokens, plus the middle of a stored table of positions."""

    def __init__(
        self,
        channels: int,
        width: int,
        patch: int,
        table: int,
        size: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.proj = parts.Patches(channels, width, patch, dtype=dtype, rngs=rngs).proj
        self.pos_embed = nnx.Param(grid(table, table, width, base=size // patch)[None])

    def __call__(self, x: Float[Array, "b h w c"], hw: tuple[int, int]) -> Float[Array, "b n d"]:
        h = self.proj(x)
        # A buffer where the checkpoints come from: it is stored but not trained.
        table = jax.lax.stop_gradient(jnp.asarray(self.pos_embed.get_value()))
        return h.reshape(x.shape[0], -1, h.shape[-1]) + middle(table, *hw).astype(x.dtype)[None]


class Block(nnx.Module):
    """One block of two streams; behind the `last` one the text is gone (it returns as it came)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        last: bool,
        norm: bool,
        dual: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = parts.Modulation(width, 9 if dual else 6, dtype=dtype, rngs=rngs)
        self.norm1_context = parts.Modulation(width, 2 if last else 6, dtype=dtype, rngs=rngs)
        self.attn = Joint(
            width, heads, norm=norm, text_first=False, last=last, dtype=dtype, rngs=rngs
        )
        self.attn2 = Heads(width, heads, norm=norm, dtype=dtype, rngs=rngs) if dual else None
        self.ff = parts.FeedForward(width, dtype=dtype, rngs=rngs)
        self.ff_context = None if last else parts.FeedForward(width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        text: Float[Array, "b m d"],
        embedding: Float[Array, "b d"],
        *,
        control: Control | None,
        place: Site,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
        shift1, scale1, gate1, shift2, scale2, gate2, *more = self.norm1(embedding)
        said = self.norm1_context(embedding)
        # The last text is only looked at; its norm says (scale, shift), all others (shift, scale).
        text_shift, text_scale = said[::-1] if self.ff_context is None else said[:2]
        where = parts.inside(place, "attn", "joint", self.attn.heads)
        h, other = self.attn(
            parts.modulated(x, shift1, scale1),
            parts.modulated(text, text_shift, text_scale),
            control=control,
            place=where,
        )
        branch = gate1.astype(x.dtype) * h
        if self.attn2 is not None:
            branch = branch + self._again(x, more, control, place)
        x = x + branch
        h = parts.modulated(x, shift2, scale2)
        x = x + parts.feed(self.ff, h, gate2, control, parts.inside(place, "ff", "mlp"))
        if self.ff_context is not None and other is not None:
            where = parts.inside(place, "ff_context", "mlp")
            text = parts.answer(self.ff_context, text, other, said[2:], control, where)
        return ports.hook(control, place, "block", x), text

    def _again(self, x: Array, said: list[Array], control: Control | None, place: Site) -> Array:
        assert self.attn2 is not None
        shift, scale, gate = said
        where = parts.inside(place, "attn2", "self", self.attn2.heads)
        h = self.attn2(parts.modulated(x, shift, scale), control=control, place=where)
        return gate.astype(x.dtype) * h
