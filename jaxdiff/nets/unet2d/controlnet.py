"""ControlNet: a copy of a U-Net's way down that reads a hint and adds to the U-Net's skips.

    r_i = Z_i skip_i(x + hint(c)),   r_mid = Z middle(...),   Z zero at first

so a new one changes nothing. The names are those of diffusers.

Reference: Zhang et al. 2023, arXiv 2302.05543, section 3.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.embed import times
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import conv
from jaxdiff.nets.unet2d.embedding import NOTHING, Clock, Told, attach
from jaxdiff.nets.unet2d.levels import PLAIN, Between, Call, Level, Middle
from jaxdiff.nets.unet2d.net import Residuals, check_sides, descend, read, vector
from jaxdiff.nets.unet2d.parts import (
    any_size,
    check_levels,
    downs,
    look_maker,
    resnet_maker,
    skip_widths,
)
from jaxdiff.types import Net, PyTree

_SHARED = ("conv_in", "time_proj", "time_embedding", "class_embedding", "add_embedding")
_COPIED = (*_SHARED, "encoder_hid_proj", "down_blocks", "mid_block")


def controlnet(
    *,
    levels: Sequence[Level],
    middle: Middle = PLAIN,
    channels: int = 4,
    hint_channels: int = 3,
    hint_widths: Sequence[int] = (16, 32, 96, 256),
    bgr: bool = False,
    pooled_residuals: bool = False,
    clock: Clock | None = None,
    told: Told = NOTHING,
    embed_dim: int | None = None,
    context_dim: int = 0,
    groups: int = 32,
    eps: float = 1e-5,
    film: bool = False,
    flat: bool = False,
    padding: int = 1,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """A ControlNet; what is not named here is as for `unet2d`.

    Args:
      levels: those of the U-Net; what they say of the way up is not looked at.
      middle: that of the U-Net.
      channels: of x.
      hint_channels: of the hint.
      hint_widths: of the convolutions that bring the hint to the resolution of x; each but the
        first halves it, so the hint has 2^(len - 1) times the sides of x.
      bgr: the network was trained on hints whose channels are reversed.
      pooled_residuals: the residuals are means over the pixels.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, c], time [b], cond) -> Residuals`, which goes
      into cond["residuals"] of the U-Net, perhaps through `scaled`. cond["image"] is the hint
      [b, 8 h, 8 w, hint_channels] in [0, 1]; the rest of cond is as for the U-Net.

    >>> net = controlnet(levels=[Level(8, 1), Level(8, 1)], groups=4, hint_widths=(4, 4))
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> x, time, cond = jnp.ones((1, 4, 4, 4)), jnp.zeros(1), {"image": jnp.ones((1, 8, 8, 3))}
    >>> len(jax.eval_shape(net.apply, params, x, time, cond).skips)
    4
    """

    def make(rngs: nnx.Rngs) -> ControlNet:
        return ControlNet(
            levels=levels,
            middle=middle,
            channels=channels,
            hint=(hint_channels, *hint_widths),
            bgr=bgr,
            pooled_residuals=pooled_residuals,
            clock=clock or Clock(levels[0].width),
            told=told,
            embed_dim=embed_dim or 4 * levels[0].width,
            context_dim=context_dim,
            groups=groups,
            eps=eps,
            film=film,
            flat=flat,
            padding=padding,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )

    check_levels([level._replace(up=level.down) for level in levels], middle, context_dim)
    init, module = bridge(make)

    def apply(params: PyTree, x: Array, time: Array, cond: PyTree = None) -> Any:
        return module(params)(x, time, cond)

    return Net(init, apply)


def scaled(
    residuals: Residuals, scale: float | Float[Array, ""] = 1.0, *, guess: bool = False
) -> Residuals:
    """Residuals times a scale; with `guess` the shallow ones count less.

        r_i * scale * 10^(-1 + i / n),   i = 0 .. n, the middle last

    Args:
      residuals: from a control network; `inner` is left as it is.
      scale: number, or array scalar.
      guess: for use without a prompt (Zhang et al.'s guess mode).

    >>> made = scaled(Residuals((jnp.ones(1),), jnp.ones(1)), 2.0, guess=True)
    >>> made.skips[0].round(3), made.middle.round(3)
    (Array([0.2], dtype=float32), Array([2.], dtype=float32))
    """
    count = len(residuals.skips)
    weights = np.logspace(-1, 0, count + 1, dtype=np.float32) if guess else np.ones(count + 1)
    skips = tuple(r * (scale * float(w)) for r, w in zip(residuals.skips, weights))
    middle = None if residuals.middle is None else residuals.middle * scale
    return residuals._replace(skips=skips, middle=middle)


def copied(control: PyTree, unet: PyTree) -> PyTree:
    """Parameters of a new ControlNet: those of a U-Net's way down, the rest from `control`.

    Args:
      control: fresh parameters, `controlnet(...).init(key)`.
      unet: parameters of the U-Net with the same levels.

    Raises:
      ValueError: if a part is not of the same shape in both.

    >>> copied({"conv_in": jnp.zeros(2), "hint": 1}, {"conv_in": jnp.ones(2), "conv_out": 2})
    {'conv_in': Array([1., 1.], dtype=float32), 'hint': 1}
    """
    parts = [name for name in _COPIED if name in control]
    for name in parts:
        if name not in unet or _shapes(control[name]) != _shapes(unet[name]):
            raise ValueError(
                f"{name} is not the same in the ControlNet and in the U-Net: build it with the "
                "U-Net's levels and widths"
            )
    return {**control, **{name: unet[name] for name in parts}}


class Hint(nnx.Module):
    """Convolutions that bring an image to the resolution and width of latents.

    >>> Hint((3, 4, 4), 8, rngs=nnx.Rngs(0))(jnp.ones((1, 8, 8, 3))).shape
    (1, 4, 4, 8)
    """

    def __init__(
        self, widths: Sequence[int], out: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        self.conv_in = conv(widths[0], widths[1], dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([])
        for a, b in zip(widths[1:-1], widths[2:]):
            self.blocks.append(conv(a, a, dtype=dtype, rngs=rngs))
            self.blocks.append(conv(a, b, stride=2, dtype=dtype, rngs=rngs))
        self.conv_out = conv(widths[-1], out, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        h = jax.nn.silu(self.conv_in(image))
        for layer in self.blocks:
            h = jax.nn.silu(layer(h))
        return self.conv_out(h)


class ControlNet(nnx.Module):
    """The module of `controlnet`, whose arguments it takes; `hint` is (channels, *widths)."""

    def __init__(
        self,
        *,
        levels: Sequence[Level],
        middle: Middle,
        channels: int,
        hint: Sequence[int],
        bgr: bool,
        pooled_residuals: bool,
        clock: Clock,
        told: Told,
        embed_dim: int,
        context_dim: int,
        groups: int,
        eps: float,
        film: bool,
        flat: bool,
        padding: int,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.channels, self.remat, self.dtype = channels, remat, dtype
        self.bgr, self.pooled, self.hint = bgr, pooled_residuals, tuple(hint)
        self.any_size = any_size([level._replace(grow="conv") for level in levels], padding)
        width, deep = levels[0].width, levels[-1].width
        self.conv_in = conv(channels, width, dtype=dtype, rngs=rngs)
        inner = attach(self, clock, told, embed_dim, context_dim, rngs)
        resnet = resnet_maker(inner, groups, eps, film, dtype, rngs)
        look = look_maker(groups, eps, context_dim, flat, dtype, rngs)
        rest = dict(resnet=resnet, look=look, dtype=dtype, rngs=rngs)
        self.controlnet_cond_embedding = Hint(hint, width, dtype=dtype, rngs=rngs)
        self.down_blocks = downs(levels, padding, rest)
        self.mid_block = Between(middle, deep, resnet=resnet, look=look)
        self.controlnet_down_blocks = nnx.List(
            [conv(w, w, size=1, zero=True, dtype=dtype, rngs=rngs) for w in skip_widths(levels)]
        )
        self.controlnet_mid_block = conv(deep, deep, size=1, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Residuals:
        given = read(self, cond, x.shape[0], ("image",))
        _check_hint(self, x, given.image)
        check_sides(self, x.shape)
        time = times(time, x.shape[0])
        call = Call(vector(self, time, given, x.shape), given, self.remat)
        image = given.image[..., ::-1] if self.bgr else given.image
        hint = self.controlnet_cond_embedding(image.astype(self.dtype))
        h, skips = descend(self, self.conv_in(x.astype(self.dtype)) + hint, call)
        made = [zero(skip) for zero, skip in zip(self.controlnet_down_blocks, skips)]
        made.append(self.controlnet_mid_block(h))
        if self.pooled:
            made = [jnp.mean(r, axis=(1, 2), keepdims=True) for r in made]
        return Residuals(tuple(made[:-1]), made[-1])


def _check_hint(net: ControlNet, x: Array, image: Array) -> None:
    factor = 2 ** (len(net.hint) - 2)
    wanted = (x.shape[0], factor * x.shape[1], factor * x.shape[2], net.hint[0])
    if image.shape != wanted:
        raise ValueError(
            f"cond['image'] has shape {list(image.shape)}: the hint of x {list(x.shape)} has "
            f"{list(wanted)}"
        )
    if x.shape[-1] != net.channels:
        raise ValueError(
            f"x has {x.shape[-1]} channels: this network was built with channels={net.channels}"
        )


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.shape, tree)
