"""Blocks of the convolutional encoders and decoders of latent diffusion.

A residual block is x + conv(silu(norm(conv(silu(norm(x)))))), the middle is block, attention over
all places with one head, block. Norms have eps 1e-6. Downsampling pads one row below and one column
to the right, as those encoders were trained; upsampling repeats pixels. Attributes carry the names
of the checkpoints.

Reference: Esser et al. 2020, arXiv 2012.09841; Rombach et al. 2021, arXiv 2112.10752.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.attention import attend
from jaxdiff.nets.layers import GroupNorm, conv, linear
from jaxdiff.types import Site

_EPS = 1e-6


class Residual(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution where the width changes.

    >>> Residual(8, 16, groups=4, rngs=nnx.Rngs(0))(jnp.ones((1, 4, 4, 8))).shape
    (1, 4, 4, 16)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(inputs, groups=groups, eps=_EPS)
        self.conv1 = conv(inputs, outputs, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(outputs, groups=groups, eps=_EPS)
        self.conv2 = conv(outputs, outputs, dtype=dtype, rngs=rngs)
        same = inputs == outputs
        self.conv_shortcut = None if same else conv(inputs, outputs, size=1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Look(nnx.Module):
    """x + attention of every place over all places, with one head.

    >>> Look(8, groups=4, rngs=nnx.Rngs(0))(jnp.ones((1, 4, 4, 8))).shape
    (1, 4, 4, 8)
    """

    def __init__(self, width: int, *, groups: int, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(width, groups=groups, eps=_EPS)
        self.to_q = linear(width, width, dtype=dtype, rngs=rngs)
        self.to_k = linear(width, width, dtype=dtype, rngs=rngs)
        self.to_v = linear(width, width, dtype=dtype, rngs=rngs)
        self.to_out = nnx.List([linear(width, width, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        place = Site("middle", "", "middle", 0, 0, "self", (h, w), 1)
        tokens = self.group_norm(x).reshape(b, h * w, 1, c)
        q, k, v = (layer(tokens) for layer in (self.to_q, self.to_k, self.to_v))
        return x + self.to_out[0](attend(q, k, v, place=place)).reshape(x.shape)


class Middle(nnx.Module):
    """Block, attention if wanted, block, at the lowest resolution."""

    def __init__(
        self,
        width: int,
        *,
        groups: int,
        attention: bool,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        def block() -> Residual:
            return Residual(width, width, groups=groups, dtype=dtype, rngs=rngs)

        self.resnets = nnx.List([block(), block()])
        looks = [Look(width, groups=groups, dtype=dtype, rngs=rngs)] if attention else []
        self.attentions = nnx.List(looks)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        first, second = self.resnets
        h = first(x)
        for look in self.attentions:
            h = look(h)
        return second(h)


class Resample(nnx.Module):
    """A change of resolution by 2: a convolution of stride 2, or pixels repeated and a convolution.

    >>> Resample(8, up=True, rngs=nnx.Rngs(0))(jnp.ones((1, 4, 4, 8))).shape
    (1, 8, 8, 8)
    """

    def __init__(self, width: int, *, up: bool, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.up = up
        stride, padding = (1, ((1, 1), (1, 1))) if up else (2, ((0, 1), (0, 1)))
        self.conv = conv(width, width, stride=stride, padding=padding, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(repeated(x, 2) if self.up else x)


class Level(nnx.Module):
    """All blocks of one resolution, with attention after each if wanted, and the way to the next.

    `to` is "down", "up" or None: what follows the blocks.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        depth: int,
        groups: int,
        attention: bool,
        to: str | None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = [inputs] + [outputs] * depth
        self.resnets = nnx.List(
            [
                Residual(a, b, groups=groups, dtype=dtype, rngs=rngs)
                for a, b in zip(widths, widths[1:])
            ]
        )
        looks = range(depth if attention else 0)
        self.attentions = nnx.List(
            [Look(outputs, groups=groups, dtype=dtype, rngs=rngs) for _ in looks]
        )
        ways = [Resample(outputs, up=to == "up", dtype=dtype, rngs=rngs)] if to else []
        self.downsamplers = nnx.List(ways if to == "down" else [])
        self.upsamplers = nnx.List(ways if to == "up" else [])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        for i, block in enumerate(self.resnets):
            x = block(x)
            x = self.attentions[i](x) if self.attentions else x
        for way in (*self.downsamplers, *self.upsamplers):
            x = way(x)
        return x


def repeated(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c"]:
    """Every pixel factor x factor times.

    >>> repeated(jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), 2)[0, :, :, 0]
    Array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]], dtype=float32)
    """
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return wide.reshape(b, h * factor, w * factor, c)
