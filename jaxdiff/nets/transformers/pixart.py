"""PixArt-alpha and PixArt-sigma: a diffusion transformer that looks at tokens of text.

One linear map of the embedding of time (and, at 1024 pixels, of the picture's size) serves all
blocks: m = W silu(e), [6, d]. A block adds a table of its own,

    (shift, scale, gate) x 2 = m + table
    x <- x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
    x <- x + cross-attention(x, tokens)                          (no norm before it)
    x <- x + gate_2 mlp(norm(x) (1 + scale_2) + shift_2)

Reference: Chen et al. 2023, arXiv 2310.00426, section 2.3; sigma: Chen et al. 2024,
arXiv 2403.04692.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import TwoLayers, sinusoid, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import depth_to_space, linear
from jaxdiff.nets.transformers import parts
from jaxdiff.nets.transformers.heads import Heads
from jaxdiff.nets.transformers.places import grid
from jaxdiff.nets.transformers.walk import walk
from jaxdiff.types import Net, PyTree, Site


def pixart(
    *,
    size: int,
    patch: int = 2,
    channels: int = 4,
    out: int = 8,
    width: int,
    depth: int,
    heads: int,
    caption_dim: int,
    project: bool = True,
    sizes: bool = False,
    scale: float = 1.0,
    eps: float = 1e-6,
    bias: bool = True,
    tanh: bool = True,
    remat: bool = False,
    scan: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """PixArt as two pure functions.

    Args:
      size: side of x in training, which sets the scale of the positions; x may have another size.
      patch: side of a patch; divides the sides of x.
      channels: channels of x.
      out: channels of the output; twice those of x, the second half a learned variance.
      width: of the tokens, a multiple of 4 and of heads.
      depth: number of blocks.
      heads: heads of every attention.
      caption_dim: width of the tokens of text.
      project: bring them to `width` by two layers first; else the blocks take them as they are.
      sizes: embed the picture's size: `cond["sizes"]` is then needed; width a multiple of 3.
      scale: the interpolation scale of the positions (1 at 512 pixels, 2 at 1024, 4 at 2048).
      eps: of the norms in the blocks.
      bias: whether queries, keys and values have one.
      tanh: the approximation of the GELU.
      remat: recompute each block in the backward pass instead of keeping what is inside.
      scan: walk the blocks in one loop, compiled once. With a control they are walked one by one.
      dtype: of the arithmetic; parameters and output are float32.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, channels], time [b] in 0 .. 999, cond) ->
      [b, h, w, out]`, cond {"tokens": [b, n, caption_dim], "mask": bool [b, n] (optional),
      "sizes": [b, 3] = height and width in pixels, height / width}.

    Raises:
      ValueError: sizes that do not divide one another, here or in apply; a condition that does not
        fit.

    Reference: Chen et al. 2023, arXiv 2310.00426.

    >>> net = pixart(size=8, width=16, depth=1, heads=2, caption_dim=6)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> cond = {"tokens": jnp.zeros((2, 5, 6))}
    >>> jax.eval_shape(net.apply, params, jnp.zeros((2, 8, 8, 4)), jnp.zeros(2), cond).shape
    (2, 8, 8, 8)
    """

    def make(rngs: nnx.Rngs) -> PixArt:
        return PixArt(
            size=size,
            patch=patch,
            channels=channels,
            out=out,
            width=width,
            depth=depth,
            heads=heads,
            caption_dim=caption_dim,
            project=project,
            sizes=sizes,
            scale=scale,
            eps=eps,
            bias=bias,
            tanh=tanh,
            remat=remat,
            scan=scan,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


class PixArt(nnx.Module):
    """The module behind `pixart`."""

    def __init__(
        self,
        *,
        size: int,
        patch: int,
        channels: int,
        out: int,
        width: int,
        depth: int,
        heads: int,
        caption_dim: int,
        project: bool,
        sizes: bool,
        scale: float,
        eps: float,
        bias: bool,
        tanh: bool,
        remat: bool,
        scan: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if width % 4 or (sizes and width % 3):
            raise ValueError(
                f"width is {width}: 2-D positions need a multiple of 4, and sizes=True one of 3"
            )
        self.base, self.patch, self.channels, self.width = size // patch, patch, channels, width
        self.caption_dim, self.sizes, self.scale = caption_dim, sizes, scale
        self.remat, self.scan, self.dtype = remat, scan, dtype
        gelu = partial(jax.nn.gelu, approximate=True)
        self.pos_embed = parts.Patches(channels, width, patch, dtype=dtype, rngs=rngs)
        self.adaln_single = Single(width, sizes=sizes, dtype=dtype, rngs=rngs)
        self.caption_projection = (
            TwoLayers(caption_dim, width, act=gelu, dtype=dtype, rngs=rngs) if project else None
        )
        context = width if project else caption_dim
        blocks = [
            Block(width, heads, context, eps=eps, bias=bias, tanh=tanh, dtype=dtype, rngs=rngs)
            for _ in range(depth)
        ]
        self.transformer_blocks = nnx.List(blocks)
        self.scale_shift_table = _table(2, width, rngs)
        self.proj_out = linear(width, patch**2 * out, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        hw = parts.check_image(x, self.channels, self.patch)
        given = self._read(cond, x.shape[0])
        place = Site("temb", "", "embed", 0, 0, "embed", hw, 0)
        embedding = self.adaln_single.emb(times(time, x.shape[0]), given.sizes)
        embedding = ports.hook(given.control, place, "temb", embedding)
        said = self.adaln_single(embedding)
        h = self.pos_embed(x.astype(self.dtype))
        h = h + grid(*hw, self.width, base=self.base, scale=self.scale).astype(self.dtype)[None]

        def run(block: Block, i: int, h: Array) -> Array:
            place = Site(f"transformer_blocks/{i}", "", "blocks", 0, i, "block", hw, 0)
            return block(h, said, given, place=place)

        scan = self.scan and given.control is None
        h = walk(self.transformer_blocks, h, run, remat=self.remat, scan=scan)
        shift, scale = _plus(self.scale_shift_table, embedding[:, None, :])
        h = self.proj_out(parts.modulated(h, shift, scale))
        h = h.reshape(h.shape[0], *hw, -1)
        return depth_to_space(h, self.patch).astype(jnp.float32)

    def _read(self, cond: PyTree, batch: int) -> Given:
        extra = ("sizes",) if self.sizes else ()
        given = read_cond(cond, batch=batch, context_dim=self.caption_dim, extra=extra)
        if given.sizes is not None and given.sizes.shape != (batch, 3):
            raise ValueError(
                f"cond['sizes'] has shape {list(given.sizes.shape)}: give [{batch}, 3], height and "
                "width in pixels and height / width"
            )
        tokens = given.tokens.astype(self.dtype)
        if self.caption_projection is not None:
            tokens = self.caption_projection(tokens)
        return given._replace(tokens=tokens)


class Single(nnx.Module):
    """The one modulation of all blocks, [b, 6, d], and the embedding before it."""

    def __init__(self, width: int, *, sizes: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.emb = Embedder(width, sizes=sizes, dtype=dtype, rngs=rngs)
        self.linear = linear(width, 6 * width, dtype=dtype, rngs=rngs)

    def __call__(self, embedding: Float[Array, "b d"]) -> Float[Array, "b 6 d"]:
        said = self.linear(jax.nn.silu(embedding))
        return said.reshape(said.shape[0], 6, -1)


class Embedder(nnx.Module):
    """Time, plus height, width and aspect ratio as a third of the width each."""

    def __init__(self, width: int, *, sizes: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        def embedder(width: int) -> TwoLayers:
            return TwoLayers(parts.FEATURES, width, dtype=dtype, rngs=rngs)

        self.timestep_embedder = embedder(width)
        self.resolution_embedder = embedder(width // 3) if sizes else None
        self.aspect_ratio_embedder = embedder(width // 3) if sizes else None

    def __call__(
        self, time: Float[Array, " b"], sizes: Float[Array, "b 3"] | None
    ) -> Float[Array, "b d"]:
        vector = self.timestep_embedder(sinusoid(time, parts.FEATURES))
        if sizes is None or not self.resolution_embedder or not self.aspect_ratio_embedder:
            return vector
        sides = [sinusoid(sizes[:, i], parts.FEATURES) for i in range(3)]
        said = [self.resolution_embedder(side) for side in sides[:2]]
        return vector + jnp.concatenate([*said, self.aspect_ratio_embedder(sides[2])], axis=1)


class Block(nnx.Module):
    """One block: attention, cross-attention without a norm, and an MLP."""

    def __init__(
        self,
        width: int,
        heads: int,
        context_dim: int,
        *,
        eps: float,
        bias: bool,
        tanh: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.eps = eps
        self.attn1 = Heads(width, heads, bias=bias, dtype=dtype, rngs=rngs)
        self.attn2 = Heads(
            width, heads, context_dim=context_dim, bias=bias, zero=True, dtype=dtype, rngs=rngs
        )
        self.ff = parts.FeedForward(width, tanh=tanh, dtype=dtype, rngs=rngs)
        self.scale_shift_table = _table(6, width, rngs)

    def __call__(
        self, x: Float[Array, "b n d"], said: Float[Array, "b 6 d"], given: Given, *, place: Site
    ) -> Float[Array, "b n d"]:
        control, heads = given.control, self.attn1.heads
        shift1, scale1, gate1, shift2, scale2, gate2 = _plus(self.scale_shift_table, said)
        h = parts.modulated(x, shift1, scale1, self.eps)
        h = self.attn1(h, control=control, place=parts.inside(place, "attn1", "self", heads))
        x = x + gate1.astype(x.dtype) * h
        where = parts.inside(place, "attn2", "cross", heads)
        x = x + self.attn2(x, given.tokens, given.mask, control=control, place=where)
        h = parts.modulated(x, shift2, scale2, self.eps)
        x = x + parts.feed(self.ff, h, gate2, control, parts.inside(place, "ff", "mlp"))
        return ports.hook(control, place, "block", x)


def _table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(spread(width**-0.5)(rngs.params(), (rows, width), jnp.float32))


def _plus(table: nnx.Param, said: Array) -> list[Array]:
    """The rows of a table [k, d], each plus what was said ([b, k, d] or [b, 1, d]); [b, 1, d]."""
    rows = table.get_value()[None] + said.astype(jnp.float32)
    return jnp.split(rows, rows.shape[1], axis=1)
