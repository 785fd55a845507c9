"""U-ViT: everything is a token, and long skips join early blocks to late ones.

    h = [label or text, time, patches] + table
    h_i = B_i(h_{i-1}),  i <= n;   h = B_mid(h_n);   h = B'_i(W_i [h, h_{n-i}]);
    B(h): h <- h + attention(norm h), h <- h + mlp(norm h)

Reference: Bao et al. 2022, arXiv 2209.12152, figure 1.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.attention import attend
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import sinusoid, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import LayerNorm, Table, conv, depth_to_space, linear
from jaxdiff.nets.transformers import parts
from jaxdiff.nets.transformers.heads import check_heads, split
from jaxdiff.types import Control, Net, PyTree, Site


def uvit(
    *,
    size: int,
    patch: int,
    channels: int,
    width: int,
    depth: int,
    heads: int,
    classes: int = 0,
    context_dim: int = 0,
    texts: int = 77,
    bias: bool = False,
    ratio: float = 4.0,
    time_layers: bool = False,
    smooth: bool = True,
    skip: bool = True,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """U-ViT as two pure functions.

    Args:
      size: side of x, which is square: the table of positions is stored (`stretched` makes it fit
        another size).
      patch: side of a patch; divides the size.
      channels: channels of x.
      width: of the tokens, even, a multiple of heads.
      depth: number of blocks, the middle one not counted: half of them before it, half behind.
      heads: heads of every attention.
      classes: number of classes; the label `classes` is the null label. 0: none.
      context_dim: width of tokens of text; 0: none.
      texts: how many tokens of text, exactly.
      bias: whether queries, keys and values have one.
      ratio: width inside the MLP, over the width.
      time_layers: two layers between the sinusoid of time and its token.
      smooth: a 3 x 3 convolution on the output.
      skip: the long skips.
      remat: recompute each block in the backward pass instead of keeping what is inside.
      dtype: of the arithmetic; parameters and output are float32.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, size, size, channels], time [b] in 0 .. 1000, cond)
      -> [b, size, size, channels]`, cond labels [b] or {"tokens": [b, texts, context_dim]}.

    Raises:
      ValueError: sizes that do not divide one another, both classes and text, an x of another size,
        a condition that does not fit.

    Reference: Bao et al. 2022, arXiv 2209.12152.

    >>> net = uvit(size=8, patch=2, channels=3, width=16, depth=2, heads=2, classes=3)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> x, t = jnp.zeros((2, 8, 8, 3)), jnp.zeros(2)
    >>> jax.eval_shape(net.apply, params, x, t, jnp.array([0, 3])).shape
    (2, 8, 8, 3)
    """

    def make(rngs: nnx.Rngs) -> UViT:
        return UViT(
            size=size,
            patch=patch,
            channels=channels,
            width=width,
            depth=depth,
            heads=heads,
            classes=classes,
            context_dim=context_dim,
            texts=texts,
            bias=bias,
            ratio=ratio,
            time_layers=time_layers,
            smooth=smooth,
            skip=skip,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


class UViT(nnx.Module):
    """The module behind `uvit`."""

    def __init__(
        self,
        *,
        size: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        context_dim: int,
        texts: int,
        bias: bool,
        ratio: float,
        time_layers: bool,
        smooth: bool,
        skip: bool,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        _check(size, patch, classes, context_dim, depth)
        self.size, self.patch, self.channels, self.width = size, patch, channels, width
        self.classes, self.context_dim, self.texts = classes, context_dim, texts
        self.remat, self.dtype = remat, dtype

        def linear_(inputs: int, outputs: int) -> nnx.Linear:
            return linear(inputs, outputs, dtype=dtype, rngs=rngs)

        def block(long: bool = False) -> Block:
            return Block(width, heads, bias=bias, ratio=ratio, long=long, dtype=dtype, rngs=rngs)

        layers = {"0": linear_(width, 4 * width), "2": linear_(4 * width, width)}
        self.patch_embed = parts.Patches(channels, width, patch, dtype=dtype, rngs=rngs)
        self.time_embed = nnx.Dict(layers) if time_layers else None
        self.label_emb = Table(classes + 1, width, rngs=rngs) if classes else None
        self.context_embed = linear_(context_dim, width) if context_dim else None
        self.extras = 1 + bool(classes) + (texts if context_dim else 0)
        places = (1, self.extras + (size // patch) ** 2, width)
        self.pos_embed = nnx.Param(spread(0.02)(rngs.params(), places, jnp.float32))
        self.in_blocks = nnx.List([block() for _ in range(depth // 2)])
        self.mid_block = block()
        self.out_blocks = nnx.List([block(skip) for _ in range(depth // 2)])
        self.norm = LayerNorm(width)
        self.decoder_pred = linear_(width, patch**2 * channels)
        self.final_layer = conv(channels, channels, dtype=dtype, rngs=rngs) if smooth else None

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w c"]:
        given = self._read(x, cond)
        hw = parts.check_image(x, self.channels, self.patch)
        h = self._tokens(x, times(time, x.shape[0]), given, hw)
        h = self.norm(self._walk(h, given.control, hw))
        h = self.decoder_pred(h)[:, self.extras :]
        image = depth_to_space(h.reshape(x.shape[0], *hw, -1), self.patch)
        image = image if self.final_layer is None else self.final_layer(image)
        return image.astype(jnp.float32)

    def _tokens(self, x: Array, time: Array, given: Given, hw: tuple[int, int]) -> Array:
        place = Site("temb", "", "embed", 0, 0, "embed", hw, 0)
        token = sinusoid(time, self.width).astype(self.dtype)
        if self.time_embed is not None:
            token = self.time_embed["2"](jax.nn.silu(self.time_embed["0"](token)))
        row = [ports.hook(given.control, place, "temb", token)[:, None, :]]
        if self.label_emb is not None:
            row = [self.label_emb(given.label)[:, None, :].astype(self.dtype), *row]
        if self.context_embed is not None:
            row = [*row, self.context_embed(given.tokens)]
        h = jnp.concatenate([*row, self.patch_embed(x.astype(self.dtype))], axis=1)
        return h + self.pos_embed.get_value().astype(h.dtype)

    def _walk(self, h: Array, control: Control | None, hw: tuple[int, int]) -> Array:
        def run(block: Block, place: Site, h: Array, skip: Array | None = None) -> Array:
            def act(h: Array, skip: Array | None) -> Array:
                return block(h, skip, control=control, place=place)

            return (jax.checkpoint(act) if self.remat else act)(h, skip)

        skips: list[Array] = []
        for i, block in enumerate(self.in_blocks):
            h = run(block, Site(f"in_blocks/{i}", "", "down", 0, i, "block", hw, 0), h)
            skips.append(h)
        h = run(self.mid_block, Site("mid_block", "", "middle", 0, 0, "block", hw, 0), h)
        for i, block in enumerate(self.out_blocks):
            place = Site(f"out_blocks/{i}", "", "up", 0, i, "block", hw, 0)
            h = run(block, place, h, skips.pop())
        return h

    def _read(self, x: Array, cond: PyTree) -> Given:
        if x.shape[1:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"x has shape {list(x.shape)}: this network takes [b, {self.size}, {self.size}, "
                f"{self.channels}]; for another size build it with size= and `stretched` positions"
            )
        given = read_cond(
            cond, batch=x.shape[0], classes=self.classes, context_dim=self.context_dim
        )
        if given.mask is not None:
            raise ValueError("cond holds a mask, but U-ViT looks at all tokens: leave it out")
        if given.tokens is not None and given.tokens.shape[1] != self.texts:
            raise ValueError(
                f"cond['tokens'] holds {given.tokens.shape[1]} tokens: this network has places for "
                f"exactly {self.texts}"
            )
        return given


class Block(nnx.Module):
    """Attention and MLP behind norms; a `long` block first joins what an early one left."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool,
        ratio: float,
        long: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attn = Packed(width, heads, bias=bias, dtype=dtype, rngs=rngs)
        self.mlp = Perceptron(width, int(ratio * width), dtype=dtype, rngs=rngs)
        self.skip_linear = linear(2 * width, width, dtype=dtype, rngs=rngs) if long else None

    def __call__(
        self,
        x: Float[Array, "b n d"],
        skip: Float[Array, "b n d"] | None,
        *,
        control: Control | None,
        place: Site,
    ) -> Float[Array, "b n d"]:
        if self.skip_linear is not None and skip is not None:
            early = ports.hook(control, place, "skip", skip)
            x = self.skip_linear(jnp.concatenate([x, early], axis=-1))
        where = parts.inside(place, "attn", "self", self.attn.heads)
        x = x + self.attn(self.norm1(x), control=control, place=where)
        h = self.mlp(self.norm2(x))
        x = x + ports.hook(control, parts.inside(place, "mlp", "mlp"), "resnet", h)
        return ports.hook(control, place, "block", x)


class Packed(nnx.Module):
    """Attention whose queries, keys and values come from one linear map."""

    def __init__(self, width: int, heads: int, *, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        check_heads(width, heads)
        self.heads = heads
        self.qkv = linear(width, 3 * width, bias=bias, dtype=dtype, rngs=rngs)
        self.proj = linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], *, control: Control | None, place: Site
    ) -> Float[Array, "b n d"]:
        q, k, v = (split(p, self.heads) for p in jnp.split(self.qkv(x), 3, axis=-1))
        return self.proj(attend(q, k, v, control=control, place=place).reshape(x.shape))


class Perceptron(nnx.Module):
    """Two linear maps with the exact GELU between."""

    def __init__(self, width: int, inner: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.fc1 = linear(width, inner, dtype=dtype, rngs=rngs)
        self.fc2 = linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


def _check(size: int, patch: int, classes: int, context_dim: int, depth: int) -> None:
    if size % patch:
        raise ValueError(f"patch is {patch}: it must divide the size {size}")
    if depth % 2:
        raise ValueError(f"depth is {depth}: it must be even, half before the middle block")
    if classes and context_dim:
        raise ValueError(
            f"classes is {classes} and context_dim {context_dim}: U-ViT takes labels or text, not "
            "both"
        )
