"""DiT as it was published: patches as tokens, modulated by time and class.

In each block, with (shift, scale, gate) x 2 a linear map of silu(e) that starts at zero, and e the
embedding of time and label,

    x <- x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
    x <- x + gate_2 mlp(norm(x) (1 + scale_2) + shift_2)

The original network embeds time and label once; diffusers' copy of it holds the embedder again in
every block, and has slightly other rates of the sinusoid. Both are here. SiT is the original
network, trained to predict a velocity, with the second half of its output dropped.

Reference: Peebles and Xie 2022, arXiv 2212.09748, figure 3; Ma et al. 2024, arXiv 2401.08740.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import TwoLayers, sinusoid, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import Table, depth_to_space, linear
from jaxdiff.nets.transformers import parts
from jaxdiff.nets.transformers.heads import Heads, check_heads
from jaxdiff.nets.transformers.places import grid
from jaxdiff.nets.transformers.walk import walk
from jaxdiff.types import Net, PyTree, Site


def labelled_dit(
    *,
    size: int,
    patch: int = 2,
    channels: int = 4,
    out: int | None = None,
    width: int,
    depth: int,
    heads: int,
    classes: int,
    shared: bool = True,
    shift: float = 0.0,
    eps: float = 1e-6,
    bias: bool = True,
    tanh: bool = True,
    halved: bool = False,
    remat: bool = False,
    scan: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """The published DiT as two pure functions.

    Args:
      size: side of x in training, which sets the scale of the positions; x may have another size.
      patch: side of a patch; divides the sides of x.
      channels: channels of x.
      out: channels of the output; 2 channels with a learned variance (default: those of x).
      width: of the tokens, a multiple of 4 and of heads.
      depth: number of blocks.
      heads: heads of every attention.
      classes: number of classes; the label `classes` is the null label.
      shared: one embedder of time and label (the original), or one in every block (diffusers).
      shift: of the sinusoid: 0 in the original, 1 in diffusers.
      eps: of the norm before the MLP: 1e-6 in the original, 1e-5 by default in diffusers.
      bias: whether queries, keys and values have one.
      tanh: the approximation of the GELU.
      halved: return only the first half of the output's channels (SiT).
      remat: recompute each block in the backward pass instead of keeping what is inside.
      scan: walk the blocks in one loop, compiled once. With a control they are walked one by one.
      dtype: of the arithmetic; parameters and output are float32.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, channels], time [b], cond) -> [b, h, w, out]`,
      time counted as the network was trained (DiT: 0 .. 999; SiT: 0 .. 1), cond labels [b] or
      {"label": labels}.

    Raises:
      ValueError: sizes that do not divide one another, here or in apply; labels out of range.

    Reference: Peebles and Xie 2022, arXiv 2212.09748.

    >>> net = labelled_dit(size=8, width=16, depth=1, heads=2, classes=3)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> x, t = jnp.zeros((2, 8, 8, 4)), jnp.zeros(2)
    >>> jax.eval_shape(net.apply, params, x, t, jnp.array([0, 3])).shape
    (2, 8, 8, 4)
    """

    def make(rngs: nnx.Rngs) -> LabelledDiT:
        return LabelledDiT(
            size=size,
            patch=patch,
            channels=channels,
            out=out or channels,
            width=width,
            depth=depth,
            heads=heads,
            classes=classes,
            shared=shared,
            shift=shift,
            eps=eps,
            bias=bias,
            tanh=tanh,
            halved=halved,
            remat=remat,
            scan=scan,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


class LabelledDiT(nnx.Module):
    """The module behind `labelled_dit`."""

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
        classes: int,
        shared: bool,
        shift: float,
        eps: float,
        bias: bool,
        tanh: bool,
        halved: bool,
        remat: bool,
        scan: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        check_heads(width, heads)
        if width % 4:
            raise ValueError(f"width is {width}: 2-D positions need a multiple of 4")
        self.base, self.patch, self.channels, self.width = size // patch, patch, channels, width
        self.classes, self.halved = classes, halved
        self.remat, self.scan, self.dtype = remat, scan, dtype

        def embedder() -> Embedder:
            return Embedder(width, classes, shift, dtype=dtype, rngs=rngs)

        self.emb = embedder() if shared else None
        self.pos_embed = parts.Patches(channels, width, patch, dtype=dtype, rngs=rngs)
        blocks = [
            Block(
                width,
                heads,
                emb=None if shared else embedder(),
                eps=eps,
                bias=bias,
                tanh=tanh,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(depth)
        ]
        self.transformer_blocks = nnx.List(blocks)
        self.proj_out_1 = linear(width, 2 * width, zero=True, dtype=dtype, rngs=rngs)
        self.proj_out_2 = linear(width, patch**2 * out, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        hw = parts.check_image(x, self.channels, self.patch)
        given = read_cond(cond, batch=x.shape[0], classes=self.classes)
        time = times(time, x.shape[0])
        h = self.pos_embed(x.astype(self.dtype))
        h = h + grid(*hw, self.width, base=self.base).astype(self.dtype)[None]
        shared = self._embedding(time, given, hw)

        def run(block: Block, i: int, h: Array) -> Array:
            place = Site(f"transformer_blocks/{i}", "", "blocks", 0, i, "block", hw, 0)
            return block(h, shared, time, given, place=place)

        scan = self.scan and given.control is None
        h = walk(self.transformer_blocks, h, run, remat=self.remat, scan=scan)
        return self._exit(h, self._last(shared, time, given), hw)

    def _embedding(self, time: Array, given: Given, hw: tuple[int, int]) -> Array | None:
        if self.emb is None:
            return None
        place = Site("temb", "", "embed", 0, 0, "embed", hw, 0)
        return ports.hook(given.control, place, "temb", self.emb(time, given.label))

    def _last(self, shared: Array | None, time: Array, given: Given) -> Array:
        if shared is not None:
            return shared
        first = self.transformer_blocks[0].norm1.emb
        assert first is not None
        return first(time, given.label)

    def _exit(self, h: Array, embedding: Array, hw: tuple[int, int]) -> Array:
        said = self.proj_out_1(jax.nn.silu(embedding)).astype(jnp.float32)[:, None, :]
        shift, scale = jnp.split(said, 2, axis=-1)
        h = self.proj_out_2(parts.modulated(h, shift, scale))
        image = depth_to_space(h.reshape(h.shape[0], *hw, -1), self.patch).astype(jnp.float32)
        return image[..., : image.shape[-1] // 2] if self.halved else image


class Embedder(nnx.Module):
    """Time and label as one vector: MLP(sinusoid(t)) + table[label]."""

    def __init__(self, width: int, classes: int, shift: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.shift = shift
        self.timestep_embedder = TwoLayers(parts.FEATURES, width, dtype=dtype, rngs=rngs)
        self.class_embedder = nnx.Dict({"embedding_table": Table(classes + 1, width, rngs=rngs)})

    def __call__(self, time: Float[Array, " b"], label: Int[Array, " b"]) -> Float[Array, "b d"]:
        features = sinusoid(time, parts.FEATURES, shift=self.shift)
        return self.timestep_embedder(features) + self.class_embedder["embedding_table"](label)


class Block(nnx.Module):
    """One block: modulated attention and MLP, gated from zero; with its own embedder if `emb`."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        emb: Embedder | None,
        eps: float,
        bias: bool,
        tanh: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.eps = eps
        self.norm1 = parts.Modulation(width, 6, emb=emb, dtype=dtype, rngs=rngs)
        self.attn1 = Heads(width, heads, bias=bias, dtype=dtype, rngs=rngs)
        self.ff = parts.FeedForward(width, tanh=tanh, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        shared: Float[Array, "b d"] | None,
        time: Float[Array, " b"],
        given: Given,
        *,
        place: Site,
    ) -> Float[Array, "b n d"]:
        control = given.control
        shift1, scale1, gate1, shift2, scale2, gate2 = self.norm1(
            self._own(time, given, place) if shared is None else shared
        )
        where = parts.inside(place, "attn1", "self", self.attn1.heads)
        h = self.attn1(parts.modulated(x, shift1, scale1), control=control, place=where)
        x = x + gate1.astype(x.dtype) * h
        h = parts.modulated(x, shift2, scale2, self.eps)
        x = x + parts.feed(self.ff, h, gate2, control, parts.inside(place, "ff", "mlp"))
        return ports.hook(control, place, "block", x)

    def _own(self, time: Array, given: Given, place: Site) -> Array:
        where = parts.inside(place, "norm1/emb", "embed")
        assert self.norm1.emb is not None
        return ports.hook(given.control, where, "temb", self.norm1.emb(time, given.label))
