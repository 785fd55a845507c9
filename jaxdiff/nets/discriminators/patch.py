"""The discriminator over patches: a few convolutions, and a number for every patch of an image.

Each number sees a patch of 70 x 70 pixels (at depth 3). The norms are group norms, not the batch
norms of the original: they need no running statistics, and a sample does not see its batch. So
checkpoints of the original do not fit.

Reference: Isola et al. 2016, arXiv 1611.07004, section 3.2.2; Rombach et al. 2021, arXiv
2112.10752, appendix G.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.functional import bridge
from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import GroupNorm
from jaxdiff.types import PyTree

_MOST = 8  # times the first width


class Discriminator(NamedTuple):
    """`init(key) -> params`; `apply(params, ...) -> logits`, large where it takes x for real."""

    init: Callable[[Any], PyTree]
    apply: Callable[..., Array]


def patch_gan(
    *,
    channels: int = 3,
    width: int = 64,
    depth: int = 3,
    groups: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Discriminator:
    """The discriminator over patches as pure functions.

    Args:
      channels: of the images.
      width: of the first convolution; doubles `depth` times, at most to 8 times.
      depth: convolutions that halve the resolution.
      groups: of the norms; by default at most 32 of at least 4 channels.
      dtype: of the arithmetic.

    Returns:
      `Discriminator`; `apply(params, x [b, h, w, channels]) -> logits [b, h', w']`.

    Raises:
      ValueError: a depth below 1; later other channels, or images too small for one patch.

    Reference: Isola et al. 2016, arXiv 1611.07004.

    >>> net = patch_gan(width=8, depth=2)
    >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((2, 32, 32, 3))).shape
    (2, 6, 6)
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}: at least one convolution has to halve the resolution")
    init, module = bridge(lambda rngs: PatchGAN(channels, width, depth, groups, dtype, rngs))
    least = 2 ** (depth + 1) + 2**depth

    def apply(params: PyTree, x: Array) -> Array:
        if x.ndim != 4 or x.shape[-1] != channels or min(x.shape[1:3]) < least:
            raise ValueError(
                f"x has shape {x.shape}: this discriminator takes [b, h, w, {channels}] with sides "
                f"of at least {least}"
            )
        return module(params)(x)

    return Discriminator(init, apply)


class PatchGAN(nnx.Module):
    """4x4 convolutions with leaky rectifiers, and norms on all but the first and the last."""

    def __init__(
        self,
        channels: int,
        width: int,
        depth: int,
        groups: int | None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        widths = [width * min(2**i, _MOST) for i in range(depth + 1)]
        pairs = list(zip(widths, widths[1:]))
        self.first = _four(channels, width, 2, True, dtype, rngs)
        # The last of these keeps the resolution.
        self.convs = nnx.List(
            [
                _four(a, b, 1 if i + 1 == depth else 2, False, dtype, rngs)
                for i, (a, b) in enumerate(pairs)
            ]
        )
        self.norms = nnx.List([GroupNorm(b, groups=groups) for _, b in pairs])
        self.last = _four(widths[-1], 1, 1, True, dtype, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2"]:
        h = jax.nn.leaky_relu(self.first(x.astype(self.dtype)), 0.2)
        for conv, norm in zip(self.convs, self.norms):
            h = jax.nn.leaky_relu(norm(conv(h)), 0.2)
        return self.last(h)[..., 0].astype(jnp.float32)


def _four(
    inputs: int, outputs: int, stride: int, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (4, 4),
        strides=stride,
        padding=[(1, 1), (1, 1)],
        use_bias=bias,
        kernel_init=spread(0.02),
        dtype=dtype,
        rngs=rngs,
    )
