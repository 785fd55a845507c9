"""Levels that carry the image itself along, down and up: NCSN++ as diffusers holds it.

On the way down the image is halved by a filter and added to the features by a 1x1 convolution; on
the way up each level adds an image of its own to the doubled sum of those below. Sums of two are
divided by sqrt(2), and the groups of a norm follow from its width.

Reference: Song et al. 2021, arXiv 2011.13456, appendix H (progressive growing of input and output).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdiff.nets.layers import GroupNorm, conv
from jaxdiff.nets.unet2d.levels import Call, Level, change, joined, pair
from jaxdiff.nets.unet2d.resample import SMOOTH, double, halve
from jaxdiff.nets.unet2d.residual import Resnet
from jaxdiff.types import Site

_SCALE = math.sqrt(0.5)
_COLOURS = 3
_NORM = 32  # groups of the norm before an attention, whatever the width


class PyramidDown(nnx.Module):
    """A level on the way down: `down(h, image, call, place) -> (h, skips, image)`."""

    def __init__(
        self,
        level: Level,
        inputs: int,
        *,
        last: bool,
        resnet: Callable[..., Resnet],
        look: Callable[..., Any],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width, count = level.width, level.depth
        wide = [inputs] + [width] * (count - 1)
        make = _maker(resnet, width)
        self.resnets = nnx.List([make(w, groups_of(w)) for w in wide])
        self.attentions = _looks(level.down, width, count, look)
        self.resnet_down = None if last else make(width, groups_of(width), _down, True)
        self.skip_conv = None if last else conv(_COLOURS, width, size=1, dtype=dtype, rngs=rngs)

    def __call__(
        self, h: Array, image: Array, call: Call, place: Site
    ) -> tuple[Array, list[Array], Array]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            look = None if self.attentions is None else self.attentions[i]
            h = pair(h, resnet, look, call, place, i)
            skips.append(h)
        if self.resnet_down is not None and self.skip_conv is not None:
            h = change(h, self.resnet_down, call, f"{place.path}/resnet_down", place)
            image = _down(image)
            h = self.skip_conv(image) + h
            skips.append(h)
        return h, skips, image


class PyramidUp(nnx.Module):
    """A level on the way up: `up(h, skips, image, call, place) -> (h, image)`."""

    def __init__(
        self,
        level: Level,
        inputs: Sequence[tuple[int, int]],
        *,
        last: bool,
        resnet: Callable[..., Resnet],
        look: Callable[..., Any],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width = level.width
        make = _maker(resnet, width)
        # Published code groups the norms of levels with attention in this way of its own.
        odd = level.up is not None
        self.resnets = nnx.List(
            [make(a + b, min(a + b // 4, 32) if odd else groups_of(a + b)) for a, b in inputs]
        )
        self.attentions = _looks(level.up, width, 1, look)
        self.resnet_up = None if last else make(width, groups_of(width), _up, True)
        eps = self.resnets[0].norm1.eps
        self.skip_norm = None if last else GroupNorm(width, groups=groups_of(width), eps=eps)
        self.skip_conv = None if last else conv(width, _COLOURS, dtype=dtype, rngs=rngs)

    def __call__(
        self, h: Array, skips: list[Array], image: Array | None, call: Call, place: Site
    ) -> tuple[Array, Array | None]:
        end = len(self.resnets) - 1
        for i, resnet in enumerate(self.resnets):
            look = None if self.attentions is None or i < end else self.attentions[0]
            h = pair(joined(h, skips, call, place, i), resnet, look, call, place, i, at=0)
        image = None if image is None else _up(image)
        if self.resnet_up is not None and self.skip_norm is not None and self.skip_conv is not None:
            own = self.skip_conv(jax.nn.silu(self.skip_norm(h)))
            image = own if image is None else image + own
            h = change(h, self.resnet_up, call, f"{place.path}/resnet_up", place)
        return h, image


def groups_of(width: int) -> int:
    """Groups of at least 4 channels, at most 32.

    >>> groups_of(64), groups_of(256)
    (16, 32)
    """
    return min(width // 4, 32)


def _maker(resnet: Callable[..., Resnet], width: int) -> Callable[..., Resnet]:
    def make(inputs: int, groups: int, resample: Any = None, short: bool = False) -> Resnet:
        return resnet(
            inputs,
            width,
            scale=_SCALE,
            resample=resample,
            groups=groups,
            after=groups_of(width),
            short=short,
        )

    return make


def _looks(look: Any, width: int, count: int, make: Callable[..., Any]) -> Any:
    if look is None:
        return None
    return nnx.List([make(look, width, 1, scale=_SCALE, groups=_NORM) for _ in range(count)])


def _down(x: Array) -> Array:
    return halve(x, SMOOTH)


def _up(x: Array) -> Array:
    return double(x, SMOOTH)
