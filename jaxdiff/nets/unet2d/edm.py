"""The networks of EDM: DDPM++ and NCSN++ (`song_unet`) and ADM (`dhariwal_unet`), in their names.

One kind of block for all: norms, two convolutions, an affine map of the embedding, a skip and
attention under one name, `enc/32x32_block0/conv0`. What differs is where time enters (a shift or
FiLM), how sums are scaled, how resolution changes, and in NCSN++ a second path for the image.

Reference: Karras et al. 2022, arXiv 2206.00364, appendix F.2; Song et al. 2021, arXiv 2011.13456,
appendix H; Dhariwal and Nichol 2021, arXiv 2105.05233.
"""

import math
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
from jaxdiff.nets.layers import GroupNorm, check_divisible, conv, linear
from jaxdiff.nets.unet2d.edm_blocks import (
    Freqs,
    Step,
    Style,
    decoder_steps,
    encoder_steps,
    groups_of,
    modules,
)
from jaxdiff.nets.unet2d.resample import BOX, double, halve
from jaxdiff.types import Net, PyTree, Site


def song_unet(
    *,
    size: int,
    channels: int = 3,
    out: int | None = None,
    width: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    depth: int = 4,
    attention: Sequence[int] = (16,),
    classes: int = 0,
    augment_dim: int = 0,
    embed_factor: int = 4,
    noise_factor: int = 1,
    fourier: bool = False,
    encoder: str = "standard",
    decoder: str = "standard",
    taps: Sequence[float] = BOX,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """DDPM++ (the defaults) or NCSN++ (fourier, encoder="residual", taps (1, 3, 3, 1)).

    Args:
      size: resolution that the names of the levels count from.
      channels: of x.
      out: of the output (default: those of x).
      width: channels at multiplier 1.
      multipliers: of the levels, from the finest.
      depth: blocks of a level on the way down; one more on the way up.
      attention: resolutions with attention.
      classes: number of classes; label `classes` is the null label, a row of zeros.
      augment_dim: width of cond["augment"], which may be left out; 0: none.
      embed_factor: width of the embedding by `width`.
      noise_factor: number of features of time by `width`.
      fourier: random Fourier features of time, instead of sinusoids.
      encoder: "standard", or with a path for the image, "skip" or "residual".
      decoder: "standard" or "skip".
      taps: of the filter at changes of resolution.
      remat: recompute each block in the backward pass.
      dtype: of the arithmetic.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, c], time [b], cond) -> [b, h, w, out]`, where
      time is EDM's c_noise; cond may hold label, augment [b, augment_dim] and control.

    >>> net = song_unet(size=8, width=8, multipliers=(1, 1), depth=1, attention=(4,))
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> jax.eval_shape(net.apply, params, jnp.ones((2, 8, 8, 3)), jnp.zeros(2)).shape
    (2, 8, 8, 3)
    """
    for name, value, known in (
        ("encoder", encoder, ("standard", "skip", "residual")),
        ("decoder", decoder, ("standard", "skip")),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
    if len(taps) % 2:
        raise ValueError(f"taps is {tuple(taps)}: their number must be even")
    style = Style(True, 0, fourier, encoder, decoder, tuple(float(tap) for tap in taps))
    _check(size, multipliers, depth)

    def make(rngs: nnx.Rngs) -> EDM:
        return EDM(
            style,
            size=size,
            channels=channels,
            out=out or channels,
            width=width,
            multipliers=multipliers,
            depth=depth,
            attention=attention,
            classes=classes,
            augment_dim=augment_dim,
            embed_dim=embed_factor * width,
            features=noise_factor * width,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


def dhariwal_unet(
    *,
    size: int,
    channels: int = 3,
    out: int | None = None,
    width: int = 192,
    multipliers: Sequence[int] = (1, 2, 3, 4),
    depth: int = 3,
    attention: Sequence[int] = (32, 16, 8),
    classes: int = 0,
    augment_dim: int = 0,
    embed_factor: int = 4,
    head_width: int = 64,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """ADM as EDM trained it; the arguments are those of `song_unet`, `head_width` of one head.

    >>> net = dhariwal_unet(
    ...     size=8, width=8, multipliers=(1, 1), depth=1, attention=(4,), head_width=4
    ... )
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> jax.eval_shape(net.apply, params, jnp.ones((2, 8, 8, 3)), jnp.zeros(2)).shape
    (2, 8, 8, 3)
    """
    _check(size, multipliers, depth)

    def make(rngs: nnx.Rngs) -> EDM:
        return EDM(
            Style(False, head_width),
            size=size,
            channels=channels,
            out=out or channels,
            width=width,
            multipliers=multipliers,
            depth=depth,
            attention=attention,
            classes=classes,
            augment_dim=augment_dim,
            embed_dim=embed_factor * width,
            features=width,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


class EDM(nnx.Module):
    """The module of `song_unet` and `dhariwal_unet`."""

    def __init__(
        self,
        style: Style,
        *,
        size: int,
        channels: int,
        out: int,
        width: int,
        multipliers: Sequence[int],
        depth: int,
        attention: Sequence[int],
        classes: int,
        augment_dim: int,
        embed_dim: int,
        features: int,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.style, self.channels, self.classes = style, channels, classes
        self.augment_dim, self.features, self.remat = augment_dim, features, remat
        self.dtype, self.levels = dtype, len(multipliers)
        inner = features if style.song else embed_dim
        self.map_noise = Freqs(features // 2, rngs=rngs) if style.fourier else None
        self.map_label = linear(classes, inner, bias=style.song, rngs=rngs) if classes else None
        self.map_augment = (
            linear(augment_dim, features, bias=False, zero=not style.song, rngs=rngs)
            if augment_dim
            else None
        )
        self.map_layer0 = linear(features, embed_dim, rngs=rngs)
        self.map_layer1 = linear(embed_dim, embed_dim, rngs=rngs)
        widths = [width * factor for factor in multipliers]
        first = width if style.song else widths[0]
        down = encoder_steps(style, size, channels, first, widths, depth, attention)
        up = decoder_steps(style, size, out, down, widths, depth, attention)
        self.down, self.up = tuple(down), tuple(up)
        self.enc = modules(down, style, embed_dim, dtype, rngs)
        self.dec = modules(up, style, embed_dim, dtype, rngs)
        if not style.song:
            self.out_norm = GroupNorm(widths[0], groups=groups_of(widths[0]))
            self.out_conv = conv(widths[0], out, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        given = _read(self, x, cond)
        place = Site("temb", "", "embed", 0, 0, "embed", (x.shape[1], x.shape[2]), 0)
        embedding = _embedding(self, times(time, x.shape[0]), given)
        embedding = ports.hook(given.control, place, "temb", embedding)
        h, skips = _encode(self, x.astype(self.dtype), embedding, given)
        h, aux = _decode(self, h, skips, embedding, given)
        y = aux if self.style.song else self.out_conv(jax.nn.silu(self.out_norm(h)))
        return y.astype(jnp.float32)


def _encode(net: EDM, h: Array, embedding: Array, given: Given) -> tuple[Array, list[Array]]:
    taps, skips, aux = net.style.taps, [], h
    for step in net.down:
        if step.kind == "aux_down":
            aux = halve(aux, taps)
        elif step.kind == "aux_skip":
            h = skips[-1] = h + net.enc[step.name](aux)
        elif step.kind == "aux_residual":
            # The filter comes after the convolution here, whose padding leaves room for both.
            side = halve(net.enc[step.name](aux), taps, padding=0)
            h = skips[-1] = aux = (h + side) * math.sqrt(0.5)
        else:
            h = _run(net, net.enc[step.name], step, "enc", h, embedding, given)
            skips.append(h)
    return h, skips


def _decode(
    net: EDM, h: Array, skips: list[Array], embedding: Array, given: Given
) -> tuple[Array, Array]:
    aux, normed = None, h
    for step in net.up:
        if step.kind == "aux_up":
            aux = None if aux is None else double(aux, net.style.taps)
        elif step.kind == "aux_norm":
            normed = net.dec[step.name](h)
        elif step.kind == "aux_conv":
            made = net.dec[step.name](jax.nn.silu(normed))
            aux = made if aux is None else made + aux
        else:
            if step.kind == "block":
                skip = ports.hook(given.control, _place(step, "dec", h), "skip", skips.pop())
                h = jnp.concatenate([h, skip], axis=-1)
            h = _run(net, net.dec[step.name], step, "dec", h, embedding, given)
    return h, h if aux is None else aux


def _run(
    net: EDM, layer: Any, step: Step, part: str, h: Array, embedding: Array, given: Given
) -> Array:
    if step.kind == "conv":
        return layer(h)
    place = _place(step, part, h)

    def run(h: Array, embedding: Array) -> Array:
        return ports.hook(given.control, place, "block", layer(h, embedding, given, place))

    return (jax.checkpoint(run) if net.remat else run)(h, embedding)


def _place(step: Step, part: str, h: Array) -> Site:
    stage = "middle" if step.kind == "in" else {"enc": "down", "dec": "up"}[part]
    hw = h.shape[1], h.shape[2]
    return Site(f"{part}/{step.name}", "", stage, step.level, step.index, "block", hw, 0)


def _embedding(net: EDM, time: Array, given: Given) -> Array:
    song = net.style.song
    if net.map_noise is not None:
        vector = net.map_noise(time)
    else:
        vector = sinusoid(time, net.features, sine_first=song, shift=1.0 if song else 0.0)
    label = None
    if net.map_label is not None:
        # The null label is outside of the rows, so it becomes zeros.
        label = jax.nn.one_hot(given.label, net.classes)
        label = net.map_label(label * math.sqrt(net.classes) if song else label)
    vector = vector + label if song and label is not None else vector
    if net.map_augment is not None and given.augment is not None:
        vector = vector + net.map_augment(given.augment.astype(jnp.float32))
    vector = net.map_layer1(jax.nn.silu(net.map_layer0(vector)))
    return jax.nn.silu(vector + label if not song and label is not None else vector)


def _read(net: EDM, x: Array, cond: PyTree) -> Given:
    if x.shape[-1] != net.channels:
        raise ValueError(
            f"x has {x.shape[-1]} channels: this network was built with channels={net.channels}"
        )
    check_divisible(x.shape, 2 ** (net.levels - 1), f"{net.levels} levels")
    extra = ("augment?",) if net.augment_dim else ()
    given = read_cond(cond, batch=x.shape[0], classes=net.classes, extra=extra)
    if given.augment is not None and given.augment.shape != (x.shape[0], net.augment_dim):
        raise ValueError(
            f"cond['augment'] has shape {list(given.augment.shape)}: the network takes "
            f"[{x.shape[0]}, {net.augment_dim}]"
        )
    return given


def _check(size: int, multipliers: Sequence[int], depth: int) -> None:
    if not multipliers or depth < 1:
        raise ValueError(f"multipliers is {multipliers} and depth {depth}: give at least one")
    if size % 2 ** (len(multipliers) - 1):
        raise ValueError(
            f"size is {size}: with {len(multipliers)} levels it must be a multiple of "
            f"{2 ** (len(multipliers) - 1)}"
        )
