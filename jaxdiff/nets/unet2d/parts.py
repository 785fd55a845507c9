"""From a list of levels to the parts of a U-Net, and what is refused on the way."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from jaxdiff.nets.unet2d.levels import Down, Level, Look, Middle, Up
from jaxdiff.nets.unet2d.looks import SelfAttention, Transformer
from jaxdiff.nets.unet2d.pyramid import PyramidDown, PyramidUp
from jaxdiff.nets.unet2d.residual import Resnet


def downs(levels: Sequence[Level], padding: int, rest: dict[str, Any]) -> nnx.List:
    """The levels on the way down."""
    widths = [levels[0].width, *(level.width for level in levels)]
    last = len(levels) - 1
    if levels[0].pyramid:
        steps = [PyramidDown(l, widths[i], last=i == last, **rest) for i, l in enumerate(levels)]
        return nnx.List(steps)
    return nnx.List(
        [
            Down(level, widths[i], last=i == last, padding=padding, **rest)
            for i, level in enumerate(levels)
        ]
    )


def skip_widths(levels: Sequence[Level]) -> list[int]:
    """The widths of the skips, in the order of the way down.

    >>> skip_widths([Level(8, 1), Level(16, 1)])
    [8, 8, 8, 16]
    """
    widths = [levels[0].width]
    for i, level in enumerate(levels):
        widths += [level.width] * (level.depth + (i < len(levels) - 1))
    return widths


def resnet_maker(
    embed_dim: int, groups: int, eps: float, film: bool, dtype: DTypeLike, rngs: nnx.Rngs
) -> Callable[..., Resnet]:
    """`make(inputs, width, ...)` of this network's residual blocks."""
    norm_groups = groups

    def make(
        inputs: int,
        width: int,
        *,
        scale: float = 1.0,
        resample: Any = None,
        groups: int | None = None,
        after: int | None = None,
        short: bool = False,
    ) -> Resnet:
        return Resnet(
            inputs,
            width,
            embed_dim=embed_dim,
            groups=norm_groups if groups is None else groups,
            after=after,
            short=short,
            eps=eps,
            film=film,
            scale=scale,
            resample=resample,
            dtype=dtype,
            rngs=rngs,
        )

    return make


def look_maker(
    norm_groups: int, eps: float, context_dim: int, flat: bool, dtype: DTypeLike, rngs: nnx.Rngs
) -> Callable[..., SelfAttention | Transformer]:
    """`make(look, width, layers, scale=, groups=)` of this network's attentions."""

    def make(
        look: Look, width: int, layers: int, *, scale: float = 1.0, groups: int | None = None
    ) -> SelfAttention | Transformer:
        groups = norm_groups if groups is None else groups
        if look.kind == "self":
            return SelfAttention(
                width, look.heads, groups=groups, eps=eps, scale=scale, dtype=dtype, rngs=rngs
            )
        return Transformer(
            width,
            look.heads,
            layers=layers,
            context_dim=context_dim,
            groups=groups,
            only_cross=look.only_cross,
            flat=flat,
            dtype=dtype,
            rngs=rngs,
        )

    return make


def check_levels(levels: Sequence[Level], middle: Middle | None, context_dim: int) -> None:
    """Raise for levels that make no network."""
    if not levels:
        raise ValueError("levels is empty: give at least one Level")
    looks = [look for level in levels for look in (level.down, level.up)]
    looks.append(None if middle is None else middle.look)
    for look in looks:
        if look is not None and look.kind not in ("self", "cross"):
            raise ValueError(f"look.kind is {look.kind!r}: it must be 'self' or 'cross'")
    for level in levels:
        for name, way in (("shrink", level.shrink), ("grow", level.grow)):
            if way not in ("conv", "resnet"):
                raise ValueError(f"level.{name} is {way!r}: it must be 'conv' or 'resnet'")
        if level.depth < 1:
            raise ValueError(f"level.depth is {level.depth}: it must be at least 1")
    if len({level.pyramid for level in levels}) > 1:
        raise ValueError("level.pyramid is set for some levels only: set it for all, or for none")
    crossing = any(look is not None and look.kind == "cross" for look in looks)
    if crossing != (context_dim > 0):
        said = "looks at tokens" if crossing else "looks at no tokens"
        raise ValueError(f"context_dim is {context_dim} but the network {said}: make them agree")


def any_size(levels: Sequence[Level], padding: int) -> bool:
    """Whether the way up meets the skips at any size, instead of at multiples only."""
    ways = [way for level in levels[:-1] for way in (level.shrink,)]
    return (
        not levels[0].pyramid
        and padding == 1
        and all(way == "conv" for way in [*ways, *(l.grow for l in levels[1:])])
    )


def ups(levels: Sequence[Level], rest: dict[str, Any]) -> nnx.List:
    """The levels on the way up."""
    skips, wide, made = skip_widths(levels), levels[-1].width, []
    for i, level in reversed(list(enumerate(levels))):
        before = [wide, *[level.width] * level.depth]
        if level.pyramid:
            made.append(PyramidUp(level, [(w, skips.pop()) for w in before], last=i == 0, **rest))
        else:
            made.append(Up(level, [w + skips.pop() for w in before], last=i == 0, **rest))
        wide = level.width
    return nnx.List(made)
