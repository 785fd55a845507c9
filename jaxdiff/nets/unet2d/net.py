"""The U-Net of DDPM, latent diffusion and their kin, by arguments, in the names of diffusers.

Its parameters are named as those of the public checkpoints (`down_blocks/0/resnets/0/conv1/kernel`
and so on), and so are its sites. Stable Diffusion 1, 2 and XL, their inpainting and instruction
variants, and the pixel-space networks of Ho et al. and Song et al. are arguments of this one.

Reference: Ho et al. 2020, arXiv 2006.11239; Rombach et al. 2022, arXiv 2112.10752; Podell et al.
2023, arXiv 2307.01952.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import GroupNorm, check_divisible, conv
from jaxdiff.nets.unet2d.embedding import NOTHING, Clock, Told, attach, embed, extras
from jaxdiff.nets.unet2d.levels import PLAIN, Between, Call, Level, Middle
from jaxdiff.nets.unet2d.parts import (
    any_size,
    check_levels,
    downs,
    look_maker,
    resnet_maker,
    ups,
)
from jaxdiff.nets.unet2d.pyramid import PyramidDown, PyramidUp
from jaxdiff.types import Net, PyTree, Site


class Residuals(NamedTuple):
    """What other networks add to a U-Net, cond["residuals"].

    `skips`: one for each skip, in the order of the way down (ControlNet); `middle`: for the output
    of the middle; `inner`: one for each level, added on the way down (T2I-Adapter), and perhaps one
    more for the middle.
    """

    skips: tuple[Array, ...] = ()
    middle: Array | None = None
    inner: tuple[Array, ...] = ()


def unet2d(
    *,
    levels: Sequence[Level],
    middle: Middle | None = PLAIN,
    channels: int = 4,
    out: int | None = None,
    clock: Clock | None = None,
    told: Told = NOTHING,
    embed_dim: int | None = None,
    context_dim: int = 0,
    groups: int = 32,
    eps: float = 1e-5,
    film: bool = False,
    flat: bool = False,
    padding: int = 1,
    sizes: tuple[int, int] = (3, 3),
    centred: bool = False,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """A published U-Net as two pure functions.

    Args:
      levels: from the finest to the coarsest.
      middle: what lies between down and up; None leaves it out.
      channels: of x, together with those of cond["image"] if it is given: 4 for latents, 9 for
        inpainting, 8 for InstructPix2Pix.
      out: channels of the output (default: `channels`).
      clock: how time becomes features (default: sinusoids, as many as the first width).
      told: what else the network is told as a vector.
      embed_dim: width of that vector (default: 4 times the first width).
      context_dim: width of the tokens; 0 where no level looks at tokens.
      groups: of every group norm.
      eps: of every group norm but those before a transformer, which have 1e-6.
      film: time scales and shifts after the second norm, instead of a shift before it.
      flat: the projections around a transformer are linear maps, not 1x1 convolutions.
      padding: of the convolutions of stride 2; 0 pads below and to the right only.
      sizes: kernels of the first and the last convolution.
      centred: x in [0, 1] is brought to [-1, 1] first.
      remat: recompute each block in the backward pass.
      dtype: of the arithmetic; parameters and output are float32.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, c], time [b], cond) -> [b, h, w, out]`. cond
      holds what the network was built for (tokens [b, n, context_dim] with mask, label, pooled,
      sizes, level, guidance) and, always optional, image, residuals (`Residuals`) and control.

    Raises:
      ValueError: heads that do not divide a width, sides of x that cannot be halved, a condition
        that does not fit.

    Reference: see the module.

    >>> from jaxdiff.nets.unet2d import Look
    >>> look = Look("cross", heads=2)
    >>> net = unet2d(levels=[Level(8, 1, look, look), Level(8, 1)], context_dim=5, groups=4)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> cond = {"tokens": jnp.ones((2, 7, 5))}
    >>> x, time = jnp.ones((2, 8, 8, 4)), jnp.zeros(2)
    >>> jax.eval_shape(net.apply, params, x, time, cond).shape
    (2, 8, 8, 4)
    """

    def make(rngs: nnx.Rngs) -> UNet2D:
        return UNet2D(
            levels=levels,
            middle=middle,
            channels=channels,
            out=out or channels,
            clock=clock or Clock(levels[0].width),
            told=told,
            embed_dim=embed_dim or 4 * levels[0].width,
            context_dim=context_dim,
            groups=groups,
            eps=eps,
            film=film,
            flat=flat,
            padding=padding,
            sizes=sizes,
            centred=centred,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )

    check_levels(levels, middle, context_dim)
    return functional(make)


class UNet2D(nnx.Module):
    """The module of `unet2d`, whose arguments it takes."""

    def __init__(
        self,
        *,
        levels: Sequence[Level],
        middle: Middle | None,
        channels: int,
        out: int,
        clock: Clock,
        told: Told,
        embed_dim: int,
        context_dim: int,
        groups: int,
        eps: float,
        film: bool,
        flat: bool,
        padding: int,
        sizes: tuple[int, int],
        centred: bool,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.channels, self.centred, self.remat, self.dtype = channels, centred, remat, dtype
        self.any_size, self.divided = any_size(levels, padding), clock.kind == "log_fourier"
        width = levels[0].width
        self.conv_in = conv(channels, width, size=sizes[0], dtype=dtype, rngs=rngs)
        inner = attach(self, clock, told, embed_dim, context_dim, rngs)
        resnet = resnet_maker(inner, groups, eps, film, dtype, rngs)
        look = look_maker(groups, eps, context_dim, flat, dtype, rngs)
        rest = dict(resnet=resnet, look=look, dtype=dtype, rngs=rngs)
        self.down_blocks = downs(levels, padding, rest)
        deep = levels[-1].width
        between = None if middle is None else Between(middle, deep, resnet=resnet, look=look)
        self.mid_block = between
        self.up_blocks = ups(levels, rest)
        self.conv_norm_out = GroupNorm(width, groups=groups, eps=eps)
        self.conv_out = conv(width, out, size=sizes[1], zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        given = read(self, cond, x.shape[0], ("image?", "residuals?"))
        x, time = with_image(self, x, given), times(time, x.shape[0])
        call = Call(vector(self, time, given, x.shape), given, self.remat)
        added = _added(given.residuals, self)
        x = x.astype(self.dtype)
        h, skips = descend(self, self.conv_in(x), call, added.inner, x)
        skips = [s + a for s, a in zip(skips, added.skips)] if added.skips else skips
        h = h if added.middle is None else h + added.middle
        h, image = _ascend(self, h, skips, call)
        h = self.conv_out(jax.nn.silu(self.conv_norm_out(h)))
        h = (h if image is None else h + image).astype(jnp.float32)
        return h / time[:, None, None, None] if self.divided else h


def read(net: Any, cond: PyTree, batch: int, extra: Sequence[str]) -> Given:
    """The condition, with the tokens mapped to the width of the network."""
    given = read_cond(
        cond,
        batch=batch,
        classes=max(0, net.told.labels - 1),
        context_dim=net.context_dim,
        extra=(*extras(net.told), *extra),
    )
    if net.encoder_hid_proj is None:
        return given
    return given._replace(tokens=net.encoder_hid_proj(given.tokens))


def with_image(net: Any, x: Array, given: Given) -> Array:
    """x beside cond["image"], centred, with as many channels as the network takes."""
    if given.image is not None:
        if given.image.shape[:3] != x.shape[:3]:
            raise ValueError(
                f"cond['image'] has shape {list(given.image.shape)}: it lies beside x, which has "
                f"{list(x.shape)}"
            )
        x = jnp.concatenate([x, given.image.astype(x.dtype)], axis=-1)
    if x.shape[-1] != net.channels:
        beside = 0 if given.image is None else given.image.shape[-1]
        raise ValueError(
            f"x has {x.shape[-1] - beside} channels and cond['image'] {beside}: this network was "
            f"built with channels={net.channels}"
        )
    check_sides(net, x.shape)
    return 2 * x - 1 if net.centred else x


def check_sides(net: Any, shape: Sequence[int]) -> None:
    """Raise where the sides cannot be halved as often as the network does."""
    levels = len(net.down_blocks)
    if not net.any_size:
        check_divisible(shape, 2 ** (levels - 1), f"{levels} levels")


def vector(net: Any, time: Array, given: Given, shape: Sequence[int]) -> Array:
    """The embedding, after the port temb."""
    place = Site("temb", "", "embed", 0, 0, "embed", (shape[1], shape[2]), 0)
    return ports.hook(given.control, place, "temb", embed(net, time, given))


def descend(
    net: Any, h: Array, call: Call, inner: Sequence[Array] = (), image: Array | None = None
) -> tuple[Array, list[Array]]:
    """Down and through the middle: its output, and the skips."""
    skips, count = [h], len(net.down_blocks)
    for i, block in enumerate(net.down_blocks):
        place = _place("down", i, count, h)
        if isinstance(block, PyramidDown):
            h, made, image = block(h, image, call, place)
        else:
            h, made = block(h, call, place, inner[i] if i < len(inner) else None)
        skips += made
    if net.mid_block is not None:
        h = net.mid_block(h, call, _place("middle", 0, count, h))
    return (h + inner[count] if len(inner) > count else h), skips


def _ascend(net: UNet2D, h: Array, skips: list[Array], call: Call) -> tuple[Array, Array | None]:
    """Up: the last features, and the image of a pyramid."""
    image = None
    for i, block in enumerate(net.up_blocks):
        place = _place("up", i, len(net.up_blocks), h)
        if isinstance(block, PyramidUp):
            h, image = block(h, skips, image, call, place)
        else:
            h = block(h, skips, call, place, _shape_after(skips, len(block.resnets)))
    return h, image


def _added(residuals: Any, net: UNet2D) -> Residuals:
    if residuals is None:
        return Residuals()
    if not isinstance(residuals, Residuals):
        raise ValueError(
            f"cond['residuals'] is a {type(residuals).__name__}: give Residuals(skips, middle, "
            "inner), as a control network returns them"
        )
    levels = net.down_blocks
    count = sum(len(d.resnets) + 1 for d in levels)
    if len(residuals.skips) not in (0, count):
        raise ValueError(
            f"cond['residuals'] has {len(residuals.skips)} skips: the network has {count}"
        )
    if len(residuals.inner) not in (0, len(levels), len(levels) + 1):
        raise ValueError(
            f"cond['residuals'] has {len(residuals.inner)} inner: the network has {len(levels)} "
            "levels, and one more for the middle"
        )
    return residuals


def _shape_after(skips: list[Array], taken: int) -> tuple[int, int]:
    """The resolution of the skip that comes after the next `taken`; of the first at the end."""
    skip = skips[max(0, len(skips) - taken - 1)]
    return skip.shape[1], skip.shape[2]


def _place(stage: str, i: int, count: int, h: Array) -> Site:
    names = {"down": f"down_blocks/{i}", "middle": "mid_block", "up": f"up_blocks/{i}"}
    level = {"down": i, "middle": count - 1, "up": count - 1 - i}[stage]
    return Site(names[stage], "", stage, level, 0, "block", (h.shape[1], h.shape[2]), 0)
