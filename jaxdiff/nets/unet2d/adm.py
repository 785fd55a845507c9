"""The U-Net of Dhariwal and Nichol (ADM) and its noise-aware classifier, in their names.

A stack of input blocks, a middle, a stack of output blocks; each block is a residual block, maybe
an attention, maybe a change of resolution. The names `input_blocks/n/m/...` are those of the public
checkpoints of guided-diffusion, whose attentions pack q, k and v into one map in two ways.

Reference: Dhariwal and Nichol 2021, arXiv 2105.05233, section 3 and appendix I; the attention pool
of the classifier: Radford et al. 2021, arXiv 2103.00020, section 2.4.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import sinusoid, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import GroupNorm, Table, check_divisible, conv, linear
from jaxdiff.nets.unet2d.adm_blocks import Layers, Pool, numbered
from jaxdiff.types import Net, PyTree, Site


def adm_unet(
    *,
    widths: Sequence[int],
    attention: Sequence[int],
    channels: int = 3,
    out: int = 3,
    depth: int = 2,
    base: int | None = None,
    heads: int = 4,
    up_heads: int | None = None,
    head_width: int = 0,
    labels: int = 0,
    film: bool = True,
    resnet_resample: bool = False,
    new_order: bool = False,
    groups: int = 32,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """The U-Net of guided-diffusion as two pure functions.

    Args:
      widths: of the levels, from the finest.
      attention: the levels with attention (0 is the finest); the middle always has it.
      channels: of x; twice those of an image for super-resolution, with the smaller image, resized,
        as cond["image"].
      out: of the output: 6 for images with learned variances, of which the first 3 are the mean.
      depth: residual blocks of a level on the way down; one more on the way up.
      base: features of time, a quarter of the embedding's width (default: the first width).
      heads: of every attention.
      up_heads: of those on the way up, if other.
      head_width: if not 0, heads are as many as fit at this width.
      labels: rows of the table of classes; 0: unconditional.
      film: time scales and shifts, instead of shifting only.
      resnet_resample: residual blocks change the resolution, instead of convolutions.
      new_order: q, k, v are packed before the heads.
      groups: of every norm.
      remat: recompute each block in the backward pass.
      dtype: of the arithmetic.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, channels], time [b], cond) -> [b, h, w, out]`;
      cond is None, or integer labels [b] in 0 .. labels - 1, or a dict with label, image, control.

    >>> net = adm_unet(widths=(8, 8), attention=(1,), depth=1, heads=2, groups=4)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> jax.eval_shape(net.apply, params, jnp.ones((2, 8, 8, 3)), jnp.zeros(2)).shape
    (2, 8, 8, 3)
    """
    _check(widths, attention, depth, labels)

    def make(rngs: nnx.Rngs) -> ADM:
        features = base or widths[0]
        layers = Layers(
            4 * features, heads, up_heads or heads, head_width, film, new_order, groups, dtype, rngs
        )
        return ADM(
            layers,
            widths=widths,
            attention=attention,
            channels=channels,
            out=out,
            depth=depth,
            base=features,
            labels=labels,
            resnet_resample=resnet_resample,
            remat=remat,
        )

    return functional(make)


def adm_classifier(
    *,
    size: int,
    widths: Sequence[int],
    attention: Sequence[int],
    channels: int = 3,
    out: int = 1000,
    depth: int = 2,
    base: int | None = None,
    head_width: int = 64,
    film: bool = True,
    resnet_resample: bool = True,
    groups: int = 32,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """The classifier of noisy images: the way down of the U-Net and an attention pool.

    Args:
      size: height and width of the images, which it is bound to.
      out: number of classes.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, size, size, channels], time [b]) -> logits [b, out]`.
      The other arguments are those of `adm_unet`.

    >>> net = adm_classifier(size=8, widths=(8, 8), attention=(1,), depth=1, head_width=4, groups=4)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> jax.eval_shape(net.apply, params, jnp.ones((2, 8, 8, 3)), jnp.zeros(2)).shape
    (2, 1000)
    """
    _check(widths, attention, depth, 0)

    def make(rngs: nnx.Rngs) -> Classifier:
        features = base or widths[0]
        layers = Layers(4 * features, 1, 1, head_width, film, False, groups, dtype, rngs)
        return Classifier(
            layers,
            size=size,
            widths=widths,
            attention=attention,
            channels=channels,
            out=out,
            depth=depth,
            base=features,
            resnet_resample=resnet_resample,
            remat=remat,
        )

    return functional(make)


class ADM(nnx.Module):
    """The module of `adm_unet`."""

    def __init__(
        self,
        layers: Layers,
        *,
        widths: Sequence[int],
        attention: Sequence[int],
        channels: int,
        out: int,
        depth: int,
        base: int,
        labels: int,
        resnet_resample: bool,
        remat: bool,
    ):
        rngs, dtype = layers.rngs, layers.dtype
        self.base, self.labels, self.channels, self.remat = base, labels, channels, remat
        self.dtype, self.levels = dtype, len(widths)
        self.time_embed = _time_embed(base, rngs)
        self.label_emb = Table(labels, 4 * base, rngs=rngs) if labels else None
        blocks, skips, down = layers.descend(channels, widths, attention, depth, resnet_resample)
        self.input_blocks = nnx.List([numbered(block) for block in blocks])
        self.middle_block = layers.middle(widths[-1])
        back, up = layers.ascend(widths, attention, skips, resnet_resample, depth)
        self.output_blocks = nnx.List([numbered(block) for block in back])
        self.down_levels, self.up_levels = tuple(down), tuple(up)
        last = conv(widths[0], out, zero=True, dtype=dtype, rngs=rngs)
        self.out = nnx.Dict({"0": GroupNorm(widths[0], groups=layers.groups), "2": last})

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        classes = max(0, self.labels - 1)
        given = read_cond(cond, batch=x.shape[0], classes=classes, extra=("image?",))
        x = _beside(x, given, self.channels, self.levels)
        embedding = _embedding(self, times(time, x.shape[0]), given, x)
        h, skips = _descend(self, x.astype(self.dtype), embedding, given)
        for n, block in enumerate(self.output_blocks):
            place = _place("up", f"output_blocks/{n}", self.up_levels[n], n, h)
            skip = ports.hook(given.control, place, "skip", skips.pop())
            h = jnp.concatenate([h, skip], axis=-1)
            h = _run(block, place, h, embedding, given, self.remat)
        return self.out["2"](jax.nn.silu(self.out["0"](h))).astype(jnp.float32)


class Classifier(nnx.Module):
    """The module of `adm_classifier`."""

    def __init__(
        self,
        layers: Layers,
        *,
        size: int,
        widths: Sequence[int],
        attention: Sequence[int],
        channels: int,
        out: int,
        depth: int,
        base: int,
        resnet_resample: bool,
        remat: bool,
    ):
        rngs, dtype, deep = layers.rngs, layers.dtype, widths[-1]
        self.base, self.channels, self.remat = base, channels, remat
        self.dtype, self.size, self.label_emb = dtype, size, None
        self.time_embed = _time_embed(base, rngs)
        blocks, _, down = layers.descend(channels, widths, attention, depth, resnet_resample)
        self.down_levels = tuple(down)
        self.input_blocks = nnx.List([numbered(block) for block in blocks])
        self.middle_block = layers.middle(deep)
        small, heads = size // 2 ** (len(widths) - 1), deep // layers.head_width
        pool = Pool(small, deep, out, heads, dtype=dtype, rngs=rngs)
        self.out: Any = nnx.Dict({"0": GroupNorm(deep, groups=layers.groups), "2": pool})

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b k"]:
        if x.shape[1:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"x has shape {list(x.shape)}: this classifier takes [b, {self.size}, {self.size}, "
                f"{self.channels}]"
            )
        given = read_cond(cond, batch=x.shape[0])
        embedding = _embedding(self, times(time, x.shape[0]), given, x)
        h, _ = _descend(self, x.astype(self.dtype), embedding, given)
        place = _place("middle", "out/2", max(self.down_levels), 0, h)
        h = jax.nn.silu(self.out["0"](h))
        return self.out["2"](h, given.control, place).astype(jnp.float32)


def _time_embed(base: int, rngs: nnx.Rngs) -> Any:
    first, second = linear(base, 4 * base, rngs=rngs), linear(4 * base, 4 * base, rngs=rngs)
    return nnx.Dict({"0": first, "2": second})


def _embedding(net: Any, time: Array, given: Given, x: Array) -> Array:
    vector = net.time_embed["0"](sinusoid(time, net.base))
    vector = net.time_embed["2"](jax.nn.silu(vector))
    if net.label_emb is not None:
        vector = vector + net.label_emb(given.label)
    return ports.hook(given.control, _place("embed", "temb", 0, 0, x), "temb", vector)


def _descend(net: Any, h: Array, embedding: Array, given: Given) -> tuple[Array, list[Array]]:
    h = net.input_blocks[0]["0"](h)
    skips = [h]
    for n, block in enumerate(net.input_blocks):
        if n > 0:
            place = _place("down", f"input_blocks/{n}", net.down_levels[n], n, h)
            h = _run(block, place, h, embedding, given, net.remat)
            skips.append(h)
    place = _place("middle", "middle_block", max(net.down_levels), 0, h)
    return _run(net.middle_block, place, h, embedding, given, net.remat), skips


def _run(block: Any, place: Site, h: Array, embedding: Array, given: Given, remat: bool) -> Array:
    def run(h: Array, embedding: Array) -> Array:
        for m in range(len(block)):
            inner = _place(place.stage, f"{place.path}/{m}", place.level, place.index, h)
            h = block[str(m)](h, embedding, given.control, inner)
        return ports.hook(given.control, place, "block", h)

    return (jax.checkpoint(run) if remat else run)(h, embedding)


def _place(stage: str, path: str, level: int, index: int, h: Array) -> Site:
    kind = "embed" if stage == "embed" else "block"
    return Site(path, "", stage, level, index, kind, (h.shape[1], h.shape[2]), 0)


def _beside(x: Array, given: Given, channels: int, levels: int) -> Array:
    if given.image is not None:
        x = jnp.concatenate([x, given.image.astype(x.dtype)], axis=-1)
    if x.shape[-1] != channels:
        raise ValueError(
            f"x (with cond['image'], if any) has {x.shape[-1]} channels: this network was built "
            f"with channels={channels}"
        )
    check_divisible(x.shape, 2 ** (levels - 1), f"{levels} levels")
    return x


def _check(widths: Sequence[int], attention: Sequence[int], depth: int, labels: int) -> None:
    if not widths or depth < 1:
        raise ValueError(f"widths is {widths} and depth {depth}: give at least one of each")
    for level in attention:
        if not 0 <= level < len(widths):
            raise ValueError(
                f"attention names level {level}: with {len(widths)} widths the levels are 0 .. "
                f"{len(widths) - 1}"
            )
    if labels == 1:
        raise ValueError("labels is 1: a table of classes needs at least 2 rows")
