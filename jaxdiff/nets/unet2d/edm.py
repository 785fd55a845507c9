"""The networks of EDM: DDPM++ and NCSN++ (`song_unet`) and ADM (`dhariwal_unet`), in their names.

One kind of block for all: norms, two convolutions, an affine map of the embedding, a skip and
attention under one name, `enc/32x32_block0/conv0`. What differs is where time enters (a shift or
FiLM), how sums are scaled, how resolution changes, and in NCSN++ a second path for the image.

Reference: Karras et al. 2022, arXiv 2206.00364, appendix F.2; Song et al. 2021, arXiv 2011.13456,
appendix H; Dhariwal and Nichol 2021, arXiv 2105.05233.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import sinusoid, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import GroupNorm, check_divisible, conv, linear
from jaxdiff.nets.unet2d.packed import packed
from jaxdiff.nets.unet2d.resample import BOX, double, halve
from jaxdiff.nets.unet2d.residual import residual
from jaxdiff.types import Net, PyTree, Site


class Style(NamedTuple):
    """What tells the networks apart; `song` is DDPM++ and NCSN++, else ADM."""

    song: bool
    head_width: int = 0
    fourier: bool = False
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[float, ...] = BOX


class Step(NamedTuple):
    """One entry of enc or dec: its name, what it is, its widths, whether it has attention."""

    name: str
    kind: str
    inputs: int
    width: int
    look: bool = False
    level: int = 0
    index: int = 0


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


class Freqs(nnx.Module):
    """Random frequencies of time, which are never trained."""

    def __init__(self, count: int, *, rngs: nnx.Rngs):
        self.freqs = nnx.Param(spread(16.0)(rngs.params(), (count,), jnp.float32))

    def __call__(self, time: Array) -> Array:
        rates = 2 * jnp.pi * jax.lax.stop_gradient(self.freqs.get_value())
        angle = time.astype(jnp.float32)[:, None] * rates[None, :]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


class Block(nnx.Module):
    """The block of EDM's networks, with its attention."""

    def __init__(self, step: Step, style: Style, embed_dim: int, dtype: DTypeLike, rngs: nnx.Rngs):
        width, song = step.width, style.song
        eps, groups = (1e-6 if song else 1e-5), _groups
        self.film, self.scale = not song, (math.sqrt(0.5) if song else 1.0)
        self.heads = _heads(step, style)
        self.resample = _resample(step.kind, style.taps)
        rest = dict(dtype=dtype, rngs=rngs)
        self.norm0 = GroupNorm(step.inputs, groups=groups(step.inputs), eps=eps)
        self.conv0 = conv(step.inputs, width, **rest)
        self.affine = linear(embed_dim, width if song else 2 * width, rngs=rngs)
        self.norm1 = GroupNorm(width, groups=groups(width), eps=eps)
        self.conv1 = conv(width, width, zero=True, **rest)
        mapped = step.inputs != width or (song and self.resample is not None)
        self.skip = conv(step.inputs, width, size=1, **rest) if mapped else None
        if self.heads:
            self.norm2 = GroupNorm(width, groups=groups(width), eps=eps)
            self.qkv = conv(width, 3 * width, size=1, **rest)
            self.proj = conv(width, width, size=1, zero=True, **rest)

    def __call__(self, x: Array, embedding: Array, given: Given, place: Site) -> Array:
        x = residual(
            x,
            self.affine(embedding),
            norm1=self.norm0,
            conv1=self.conv0,
            norm2=self.norm1,
            conv2=self.conv1,
            short=self.skip,
            resample=self.resample,
            film=self.film,
            scale=self.scale,
            control=given.control,
            place=place,
        )
        if not self.heads:
            return x
        b, h, w, c = x.shape
        qkv = self.qkv(self.norm2(x)).reshape(b, h * w, 3 * c)
        mixed = packed(qkv, self.heads, "head, channel, qkv", control=given.control, place=place)
        return (x + self.proj(mixed.reshape(x.shape))) * self.scale


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
        self.enc = _modules(down, style, embed_dim, dtype, rngs)
        self.dec = _modules(up, style, embed_dim, dtype, rngs)
        if not style.song:
            self.out_norm = GroupNorm(widths[0], groups=_groups(widths[0]))
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


def encoder_steps(
    style: Style,
    size: int,
    channels: int,
    first: int,
    widths: Sequence[int],
    depth: int,
    attention: Sequence[int],
) -> list[Step]:
    """What the encoder does, in order."""
    steps, now, aux = [], channels, channels
    for level, width in enumerate(widths):
        res = size >> level
        name = f"{res}x{res}"
        if level == 0:
            steps.append(Step(f"{name}_conv", "conv", now, first))
            now = first
        else:
            steps.append(Step(f"{name}_down", "down", now, now, level=level))
            if style.encoder == "skip":
                steps.append(Step(f"{name}_aux_down", "aux_down", aux, aux))
                steps.append(Step(f"{name}_aux_skip", "aux_skip", aux, now))
            if style.encoder == "residual":
                steps.append(Step(f"{name}_aux_residual", "aux_residual", aux, now))
                aux = now
        for i in range(depth):
            look = res in attention
            steps.append(Step(f"{name}_block{i}", "block", now, width, look, level, i))
            now = width
    return steps


def decoder_steps(
    style: Style,
    size: int,
    out: int,
    down: Sequence[Step],
    widths: Sequence[int],
    depth: int,
    attention: Sequence[int],
) -> list[Step]:
    """What the decoder does, in order; blocks take a skip each."""
    skips = [step.width for step in down if not step.kind.startswith("aux")]
    steps, now, last = [], down[-1].width, len(widths) - 1
    for level, width in reversed(list(enumerate(widths))):
        res = size >> level
        name = f"{res}x{res}"
        if level == last:
            steps.append(Step(f"{name}_in0", "in", now, now, True, level, 0))
            steps.append(Step(f"{name}_in1", "in", now, now, False, level, 1))
        else:
            steps.append(Step(f"{name}_up", "up", now, now, level=level))
        for i in range(depth + 1):
            look = res in attention and (i == depth or not style.song)
            wide = now + skips.pop()
            steps.append(Step(f"{name}_block{i}", "block", wide, width, look, level, i))
            now = width
        if style.song and (style.decoder == "skip" or level == 0):
            if style.decoder == "skip" and level < last:
                steps.append(Step(f"{name}_aux_up", "aux_up", out, out))
            steps.append(Step(f"{name}_aux_norm", "aux_norm", now, now))
            steps.append(Step(f"{name}_aux_conv", "aux_conv", now, out))
    return steps


def _modules(
    steps: Sequence[Step], style: Style, embed_dim: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> Any:
    rest = dict(dtype=dtype, rngs=rngs)
    make: dict[str, Callable[[Step], Any]] = {
        "conv": lambda s: conv(s.inputs, s.width, **rest),
        "aux_skip": lambda s: conv(s.inputs, s.width, size=1, **rest),
        "aux_residual": lambda s: conv(s.inputs, s.width, padding=_wide(style), **rest),
        "aux_norm": lambda s: GroupNorm(s.width, groups=_groups(s.width), eps=1e-6),
        "aux_conv": lambda s: conv(s.inputs, s.width, zero=True, **rest),
    }
    held = [s for s in steps if s.kind not in ("aux_down", "aux_up")]
    return nnx.Dict(
        {
            s.name: make[s.kind](s) if s.kind in make else Block(s, style, embed_dim, dtype, rngs)
            for s in held
        }
    )


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
            aux = double(aux, net.style.taps)
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


def _resample(kind: str, taps: tuple[float, ...]) -> Callable[[Array], Array] | None:
    if kind == "down":
        return jax.tree_util.Partial(halve, taps=taps)
    return jax.tree_util.Partial(double, taps=taps) if kind == "up" else None


def _heads(step: Step, style: Style) -> int:
    if not step.look:
        return 0
    return step.width // style.head_width if style.head_width else 1


def _wide(style: Style) -> int:
    return 1 + (len(style.taps) - 1) // 2


def _groups(width: int) -> int:
    return min(32, width // 4)


def _check(size: int, multipliers: Sequence[int], depth: int) -> None:
    if not multipliers or depth < 1:
        raise ValueError(f"multipliers is {multipliers} and depth {depth}: give at least one")
    if size % 2 ** (len(multipliers) - 1):
        raise ValueError(
            f"size is {size}: with {len(multipliers)} levels it must be a multiple of "
            f"{2 ** (len(multipliers) - 1)}"
        )
