"""The block of EDM's networks, and the lists of what their encoders and decoders do."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdiff.nets.cond import Given
from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import GroupNorm, conv, linear
from jaxdiff.nets.unet2d.packed import packed
from jaxdiff.nets.unet2d.resample import BOX, double, halve
from jaxdiff.nets.unet2d.residual import residual
from jaxdiff.types import Site


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
        eps, groups = (1e-6 if song else 1e-5), groups_of
        self.film, self.scale = not song, (math.sqrt(0.5) if song else 1.0)
        self.heads = _heads(step, style)
        self.resample = _resample(step.kind, style.taps)
        rest: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
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


def modules(
    steps: Sequence[Step], style: Style, embed_dim: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> Any:
    rest: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
    make: dict[str, Callable[[Step], Any]] = {
        "conv": lambda s: conv(s.inputs, s.width, **rest),
        "aux_skip": lambda s: conv(s.inputs, s.width, size=1, **rest),
        "aux_residual": lambda s: conv(s.inputs, s.width, padding=_wide(style), **rest),
        "aux_norm": lambda s: GroupNorm(s.width, groups=groups_of(s.width), eps=1e-6),
        "aux_conv": lambda s: conv(s.inputs, s.width, zero=True, **rest),
    }
    held = [s for s in steps if s.kind not in ("aux_down", "aux_up")]
    return nnx.Dict(
        {
            s.name: make[s.kind](s) if s.kind in make else Block(s, style, embed_dim, dtype, rngs)
            for s in held
        }
    )


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


def groups_of(width: int) -> int:
    return min(32, width // 4)
