"""FLUX: two streams of image and text, then one, with rotations for places.

The first blocks are those of Stable Diffusion 3 with the text first, RMS norms of queries and keys,
and rotations. In the others text and image are one row of tokens, and attention and MLP stand side
by side:

    h <- h + gate W [attention(y), gelu(V y)],   y = norm(h) (1 + scale) + shift

The network takes 2 x 2 pixels of the latent image as one token, packed here: x comes and goes as an
image. Channels of a token are ordered (channel, row, column).

Reference: Black Forest Labs 2024 (announcement and code); the parallel block: Dehghani et al. 2023,
arXiv 2302.05442, section 2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import linear
from jaxdiff.nets.transformers import parts
from jaxdiff.nets.transformers.heads import Heads, Joint, check_heads
from jaxdiff.nets.transformers.places import angles
from jaxdiff.nets.transformers.walk import walk
from jaxdiff.types import Control, Net, PyTree, Site

_PACK = 2


def flux(
    *,
    channels: int = 16,
    out: int | None = None,
    width: int,
    depth: int,
    single: int,
    heads: int,
    context_dim: int,
    pooled_dim: int,
    axes: Sequence[int],
    guidance: bool = False,
    remat: bool = False,
    scan: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """FLUX as two pure functions.

    Args:
      channels: of the latent image that the network reads, an image laid beside it included; a
        quarter of the checkpoint's `in_channels`.
      out: channels of the output (default: those of x).
      width: of the tokens, a multiple of heads.
      depth: number of blocks with two streams.
      single: number of blocks with one.
      heads: heads of every attention.
      context_dim: width of the tokens of text.
      pooled_dim: width of the pooled text.
      axes: widths of the rotations by (nothing, row, column): even, width / heads together.
      guidance: the network was distilled and is told the scale of guidance.
      remat: recompute each block in the backward pass instead of keeping what is inside.
      scan: walk the blocks of each kind in one loop, compiled once; with a control they are walked
        one by one.
      dtype: of the arithmetic; parameters and output are float32.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, c], time [b] in 0 .. 1, cond) -> [b, h, w,
      out]`, h and w even, cond {"tokens": [b, n, context_dim], "pooled": [b, pooled_dim],
      "guidance": [b] if built for it, e.g. 3.5, "image": [b, h, w, channels - c] (optional), laid
      behind x in the channels}.

    Raises:
      ValueError: axes that do not add up, sides that are odd, a condition that does not fit.

    Reference: Black Forest Labs 2024.

    >>> kind = dict(width=16, depth=1, single=1, heads=2, axes=(2, 2, 4))
    >>> net = flux(context_dim=6, pooled_dim=5, guidance=True, **kind)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> text = {"tokens": jnp.zeros((2, 5, 6)), "pooled": jnp.zeros((2, 5))}
    >>> cond = text | {"guidance": jnp.full(2, 3.5)}
    >>> jax.eval_shape(net.apply, params, jnp.zeros((2, 8, 8, 16)), jnp.zeros(2), cond).shape
    (2, 8, 8, 16)
    """

    def make(rngs: nnx.Rngs) -> Flux:
        return Flux(
            channels=channels,
            out=out or channels,
            width=width,
            depth=depth,
            single=single,
            heads=heads,
            context_dim=context_dim,
            pooled_dim=pooled_dim,
            axes=axes,
            guidance=guidance,
            remat=remat,
            scan=scan,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


def packed(x: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
    """2 x 2 pixels as one token, row by row, channels (channel, row, column).

    >>> packed(jnp.zeros((1, 4, 6, 3))).shape
    (1, 6, 12)
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // _PACK, _PACK, w // _PACK, _PACK, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, -1, c * _PACK**2)


def unpacked(x: Float[Array, "b n d"], h: int, w: int) -> Float[Array, "b h w c"]:
    """The inverse of `packed` for an image of h x w pixels.

    >>> x = jnp.arange(48.0).reshape(1, 4, 4, 3)
    >>> bool((unpacked(packed(x), 4, 4) == x).all())
    True
    """
    x = x.reshape(x.shape[0], h // _PACK, w // _PACK, -1, _PACK, _PACK)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(x.shape[0], h, w, -1)


class Flux(nnx.Module):
    """The module behind `flux`."""

    def __init__(
        self,
        *,
        channels: int,
        out: int,
        width: int,
        depth: int,
        single: int,
        heads: int,
        context_dim: int,
        pooled_dim: int,
        axes: Sequence[int],
        guidance: bool,
        remat: bool,
        scan: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        check_heads(width, heads)
        if len(axes) != 3 or any(n % 2 for n in axes) or sum(axes) != width // heads:
            raise ValueError(
                f"axes is {tuple(axes)}: give three even numbers that add up to "
                f"width / heads = {width // heads}"
            )
        self.channels, self.guidance, self.axes = channels, guidance, tuple(axes)
        self.context_dim, self.pooled_dim = context_dim, pooled_dim
        self.remat, self.scan, self.dtype = remat, scan, dtype
        self.time_text_embed = parts.TimeText(
            width, pooled_dim, guidance=guidance, dtype=dtype, rngs=rngs
        )
        self.context_embedder = linear(context_dim, width, dtype=dtype, rngs=rngs)
        self.x_embedder = linear(_PACK**2 * channels, width, dtype=dtype, rngs=rngs)
        doubles = [Double(width, heads, dtype=dtype, rngs=rngs) for _ in range(depth)]
        singles = [Single(width, heads, dtype=dtype, rngs=rngs) for _ in range(single)]
        self.transformer_blocks = nnx.List(doubles)
        self.single_transformer_blocks = nnx.List(singles)
        self.norm_out = parts.Modulation(width, 2, dtype=dtype, rngs=rngs)
        self.proj_out = linear(width, _PACK**2 * out, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        given = self._read(cond, x.shape[0])
        if given.image is not None:
            x = jnp.concatenate([x, given.image.astype(x.dtype)], axis=-1)
        hw = parts.check_image(x, self.channels, _PACK)
        embedding = self._embedding(times(time, x.shape[0]), given, hw)
        text = self.context_embedder(given.tokens)
        h = self.x_embedder(packed(x.astype(self.dtype)))
        angle = angles(*hw, self.axes, texts=text.shape[1])
        h = self._walk(h, text, embedding, angle, given.control, hw)
        scale, shift = self.norm_out(embedding)
        h = self.proj_out(parts.modulated(h, shift, scale))
        return unpacked(h, *x.shape[1:3]).astype(jnp.float32)

    def _walk(
        self,
        h: Array,
        text: Array,
        embedding: Array,
        angle: Array,
        control: Control | None,
        hw: tuple[int, int],
    ) -> Array:
        def double(block: Double, i: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            place = Site(f"transformer_blocks/{i}", "", "blocks", 0, i, "block", hw, 0)
            return block(*carry, embedding, angle, control=control, place=place)

        def single(block: Single, i: int, both: Array) -> Array:
            index = len(self.transformer_blocks) + i
            path = f"single_transformer_blocks/{i}"
            place = Site(path, "", "blocks", 0, index, "block", hw, 0)
            return block(both, embedding, angle, control=control, place=place)

        scan = self.scan and control is None
        h, text = walk(self.transformer_blocks, (h, text), double, remat=self.remat, scan=scan)
        both = jnp.concatenate([text, h], axis=1)
        both = walk(self.single_transformer_blocks, both, single, remat=self.remat, scan=scan)
        return both[:, text.shape[1] :]

    def _embedding(self, time: Array, given: Given, hw: tuple[int, int]) -> Array:
        place = Site("temb", "", "embed", 0, 0, "embed", hw, 0)
        guidance = None if given.guidance is None else 1000 * given.guidance.astype(jnp.float32)
        embedding = self.time_text_embed(1000 * time, given.pooled, guidance)
        return ports.hook(given.control, place, "temb", embedding)

    def _read(self, cond: PyTree, batch: int) -> Given:
        extra = ("pooled", "image?", *(("guidance",) if self.guidance else ()))
        given = read_cond(cond, batch=batch, context_dim=self.context_dim, extra=extra)
        parts.check_text(given, self.pooled_dim)
        if given.guidance is not None and given.guidance.shape != (batch,):
            raise ValueError(
                f"cond['guidance'] has shape {list(given.guidance.shape)}: give [{batch}], the "
                "scale for each sample"
            )
        return given


class Double(nnx.Module):
    """A block of two streams with one attention."""

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm1 = parts.Modulation(width, 6, dtype=dtype, rngs=rngs)
        self.norm1_context = parts.Modulation(width, 6, dtype=dtype, rngs=rngs)
        self.attn = Joint(width, heads, norm=True, text_first=True, dtype=dtype, rngs=rngs)
        self.ff = parts.FeedForward(width, dtype=dtype, rngs=rngs)
        self.ff_context = parts.FeedForward(width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        text: Float[Array, "b m d"],
        embedding: Float[Array, "b d"],
        angle: Float[Array, "k half"],
        *,
        control: Control | None,
        place: Site,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
        shift, scale, *said = self.norm1(embedding)
        text_shift, text_scale, *text_said = self.norm1_context(embedding)
        h, other = self.attn(
            parts.modulated(x, shift, scale),
            parts.modulated(text, text_shift, text_scale),
            angle=angle,
            control=control,
            place=parts.inside(place, "attn", "joint", self.attn.heads),
        )
        x = parts.answer(self.ff, x, h, said, control, parts.inside(place, "ff", "mlp"))
        assert other is not None
        where = parts.inside(place, "ff_context", "mlp")
        text = parts.answer(self.ff_context, text, other, text_said, control, where)
        return ports.hook(control, place, "block", x), text


class Single(nnx.Module):
    """A block of one stream, text first, with attention and MLP side by side."""

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = parts.Modulation(width, 3, dtype=dtype, rngs=rngs)
        self.proj_mlp = linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.proj_out = linear(5 * width, width, dtype=dtype, rngs=rngs)
        self.attn = Heads(width, heads, norm=True, exit=False, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        both: Float[Array, "b k d"],
        embedding: Float[Array, "b d"],
        angle: Float[Array, "k half"],
        *,
        control: Control | None,
        place: Site,
    ) -> Float[Array, "b k d"]:
        shift, scale, gate = self.norm(embedding)
        h = parts.modulated(both, shift, scale)
        where = parts.inside(place, "attn", "joint", self.attn.heads)
        looked = self.attn(h, angle=angle, control=control, place=where)
        wide = jax.nn.gelu(self.proj_mlp(h), approximate=True)
        branch = gate.astype(h.dtype) * self.proj_out(jnp.concatenate([looked, wide], axis=2))
        branch = ports.hook(control, parts.inside(place, "proj_out", "mlp"), "resnet", branch)
        return ports.hook(control, place, "block", both + branch)
