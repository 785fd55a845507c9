"""The parts of a published U-Net: its levels on the way down, its middle, its levels on the way up.

A level has residual blocks, each followed by attention where the level has one, and then a change
of resolution. Every output on the way down becomes a skip. The names are those of diffusers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given
from jaxdiff.nets.unet2d.resample import Downsample, Upsample, double, halve
from jaxdiff.nets.unet2d.residual import Resnet
from jaxdiff.types import Site


class Look(NamedTuple):
    """The attention after each residual block of a level.

    `kind` is "self" (of pixels, DDPM) or "cross" (a transformer that looks at tokens too, latent
    diffusion); `heads` its heads; `layers` the depth of the transformer, one number or one for
    each block; `only_cross` lets both attentions of a transformer block look at the tokens.
    """

    kind: str
    heads: int
    layers: int | Sequence[int] = 1
    only_cross: bool = False


class Level(NamedTuple):
    """One resolution: its width, its blocks down (one more up), their attention, its changes.

    `shrink` and `grow` are "conv" or "resnet" (a residual block changes the resolution); on
    "pyramid" the image itself is carried along, as NCSN++ does.
    """

    width: int
    depth: int = 2
    down: Look | None = None
    up: Look | None = None
    shrink: str = "conv"
    grow: str = "conv"


class Middle(NamedTuple):
    """Between down and up: `blocks` residual blocks (1 or 2) with attention after the first.

    `scale` multiplies sums; `groups` is that of the norm of a self-attention (0: none).
    """

    look: Look | None = None
    blocks: int = 2
    scale: float = 1.0
    groups: int | None = None


PLAIN = Middle()


class Call(NamedTuple):
    """What a forward pass carries along: the embedding [b, e], the condition, and remat."""

    embedding: Array
    given: Given
    remat: bool


def layers_of(look: Look, count: int) -> tuple[int, ...]:
    """The depth of the transformer after each of `count` blocks.

    >>> layers_of(Look("cross", 8, 2), 3)
    (2, 2, 2)
    """
    layers = (look.layers,) * count if isinstance(look.layers, int) else tuple(look.layers)
    if len(layers) != count:
        raise ValueError(f"layers is {look.layers}: the level has {count} blocks; give one each")
    return layers


class Down(nnx.Module):
    """A level on the way down: `down(h, call, place) -> (h, skips)`."""

    def __init__(
        self,
        level: Level,
        inputs: int,
        *,
        last: bool,
        padding: int,
        resnet: Callable[..., Resnet],
        look: Callable[..., Any],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width, count = level.width, level.depth
        self.resnets = nnx.List([resnet(width if i else inputs, width) for i in range(count)])
        self.attentions = _attentions(level.down, width, count, look)
        if last:
            self.downsamplers = None
        elif level.shrink == "resnet":
            self.downsamplers = nnx.List([resnet(width, width, resample=halve)])
        else:
            shrink = Downsample(width, padding=padding, dtype=dtype, rngs=rngs)
            self.downsamplers = nnx.List([shrink])

    def __call__(
        self, h: Array, call: Call, place: Site, inner: Array | None = None
    ) -> tuple[Array, list[Array]]:
        """`inner` is added to the output of the last attention, or of a level without."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            look = None if self.attentions is None else self.attentions[i]
            h = pair(h, resnet, look, call, place, i)
            if inner is not None and look is not None and i == len(self.resnets) - 1:
                h = h + inner
            skips.append(h)
        if self.downsamplers is not None:
            h = change(h, self.downsamplers[0], call, f"{place.path}/downsamplers/0", place)
            skips.append(h)
        if inner is not None and self.attentions is None:
            h = skips[-1] = h + inner
        return h, skips


class Up(nnx.Module):
    """A level on the way up: `up(h, skips, call, place, hw) -> h`, at resolution `hw`."""

    def __init__(
        self,
        level: Level,
        inputs: Sequence[int],
        *,
        last: bool,
        resnet: Callable[..., Resnet],
        look: Callable[..., Any],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width = level.width
        self.resnets = nnx.List([resnet(wide, width) for wide in inputs])
        self.attentions = _attentions(level.up, width, len(inputs), look)
        if last:
            self.upsamplers = None
        elif level.grow == "resnet":
            self.upsamplers = nnx.List([resnet(width, width, resample=double)])
        else:
            self.upsamplers = nnx.List([Upsample(width, dtype=dtype, rngs=rngs)])

    def __call__(
        self, h: Array, skips: list[Array], call: Call, place: Site, hw: tuple[int, int]
    ) -> Array:
        for i, resnet in enumerate(self.resnets):
            look = None if self.attentions is None else self.attentions[i]
            h = pair(joined(h, skips, call, place, i), resnet, look, call, place, i)
        if self.upsamplers is not None:
            h = change(h, self.upsamplers[0], call, f"{place.path}/upsamplers/0", place, hw)
        return h


class Between(nnx.Module):
    """The middle: `between(h, call, place) -> h`."""

    def __init__(
        self,
        middle: Middle,
        width: int,
        *,
        resnet: Callable[..., Resnet],
        look: Callable[..., Any],
    ):
        if middle.blocks not in (1, 2):
            raise ValueError(f"middle.blocks is {middle.blocks}: it must be 1 or 2")
        count = middle.blocks
        self.resnets = nnx.List([resnet(width, width, scale=middle.scale) for _ in range(count)])
        self.attentions = _middle_attention(middle, width, look)

    def __call__(self, h: Array, call: Call, place: Site) -> Array:
        for i, resnet in enumerate(self.resnets):
            look = self.attentions[0] if self.attentions is not None and i == 0 else None
            h = pair(h, resnet, look, call, place, i)
        return h


def pair(h: Array, resnet: Any, look: Any, call: Call, place: Site, i: int) -> Array:
    """Residual block `i` of the part at `place`, then its attention: the unit of remat."""
    control = call.given.control
    hw = h.shape[1], h.shape[2]
    block = replace(place, path=f"{place.path}/resnets/{i}", index=i, hw=hw)
    seeing = replace(block, path=f"{place.path}/attentions/{i}")

    def run(h: Array, embedding: Array) -> Array:
        h = resnet(h, embedding, control=control, place=block)
        h = h if look is None else look(h, call.given, place=seeing)
        return ports.hook(control, block, "block", h)

    return (jax.checkpoint(run) if call.remat else run)(h, call.embedding)


def joined(h: Array, skips: list[Array], call: Call, place: Site, i: int) -> Array:
    """h with the last of the skips, which is taken off, beside it in the channels."""
    skip = skips.pop()
    hw = skip.shape[1], skip.shape[2]
    block = replace(place, path=f"{place.path}/resnets/{i}", index=i, hw=hw)
    skip = ports.hook(call.given.control, block, "skip", skip)
    return jnp.concatenate([h, skip], axis=-1)


def change(
    h: Array,
    layer: Any,
    call: Call,
    path: str,
    place: Site,
    hw: tuple[int, int] | None = None,
) -> Array:
    """Another resolution, by a residual block or by a convolution."""
    if not isinstance(layer, Resnet):
        return layer(h) if hw is None else layer(h, hw)
    place = replace(place, path=path, index=0, hw=(h.shape[1], h.shape[2]))

    def run(h: Array, embedding: Array) -> Array:
        return layer(h, embedding, control=call.given.control, place=place)

    return (jax.checkpoint(run) if call.remat else run)(h, call.embedding)


def _attentions(look: Look | None, width: int, count: int, make: Callable[..., Any]) -> Any:
    if look is None:
        return None
    return nnx.List([make(look, width, layers) for layers in layers_of(look, count)])


def _middle_attention(middle: Middle, width: int, make: Callable[..., Any]) -> Any:
    look = middle.look
    if look is None:
        return None
    layers = look.layers if isinstance(look.layers, int) else look.layers[0]
    if look.kind == "cross":
        return nnx.List([make(look, width, layers)])
    return nnx.List([make(look, width, layers, scale=middle.scale, groups=middle.groups)])
