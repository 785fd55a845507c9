"""The discriminator of a step of diffusion: is x_s a true step from x_t?

It sees both and the time, so each step is a small problem of its own. Residual blocks take the time
as an offset between their convolutions and halve the resolution after a blur; before the end one
channel says how much the samples of a group differ, against collapse.

Reference: Xiao et al. 2021, arXiv 2112.07804 (denoising diffusion GANs), section 4 and appendix C;
the channel of differences: Karras et al. 2017, arXiv 1710.10196, section 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.discriminators.patch import Discriminator
from jaxdiff.nets.embed import TwoLayers, sinusoid, times
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import check_divisible, conv, linear
from jaxdiff.types import PyTree

_BLUR = (1.0, 3.0, 3.0, 1.0)


def timed_gan(
    *,
    channels: int = 3,
    widths: Sequence[int] = (128, 256, 512, 512),
    embed_dim: int = 128,
    group: int = 4,
    dtype: DTypeLike = jnp.float32,
) -> Discriminator:
    """The discriminator of denoising diffusion GANs as pure functions.

    Args:
      channels: of x_t, and as many of x_s.
      widths: after each block; each block but the first halves the resolution.
      embed_dim: width of the embedding of time.
      group: samples that are compared with one another, rows i, i + b/group, ...; 1 for none, so
        that a sample does not see its batch.
      dtype: of the arithmetic.

    Returns:
      `Discriminator`; `apply(params, x_s, x_t, time [b] or scalar) -> logits [b]`, both images
      [b, h, w, channels], time in steps.

    Raises:
      ValueError: later images of different shapes, sides that are no multiples of
        2^(len(widths) - 1), a batch that the group does not divide.

    Reference: Xiao et al. 2021, arXiv 2112.07804.

    >>> net = timed_gan(widths=(8, 16), embed_dim=8, group=1)
    >>> x = jnp.zeros((2, 8, 8, 3))
    >>> net.apply(net.init(jax.random.key(0)), x, x, jnp.zeros(2)).shape
    (2,)
    """
    init, module = bridge(
        lambda rngs: TimedGAN(channels, tuple(widths), embed_dim, group, dtype, rngs)
    )

    def apply(params: PyTree, x_s: Array, x_t: Array, time: Array) -> Array:
        if x_s.shape != x_t.shape or x_s.ndim != 4 or x_s.shape[-1] != channels:
            raise ValueError(
                f"x_s has shape {x_s.shape} and x_t {x_t.shape}: both must be [b, h, w, {channels}]"
            )
        if x_s.shape[0] % group:
            raise ValueError(
                f"the batch {x_s.shape[0]} is no multiple of group = {group}: take another batch, "
                "or group=1"
            )
        check_divisible(x_s.shape, 2 ** (len(widths) - 1), f"{len(widths)} widths")
        return module(params)(x_s, x_t, times(time, x_s.shape[0]))

    return Discriminator(init, apply)


class TimedGAN(nnx.Module):
    """Embedding of time, blocks downward, differences within a group, one number."""

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        embed_dim: int,
        group: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.embed_dim, self.group, self.dtype = embed_dim, group, dtype
        self.embedding = TwoLayers(embed_dim, embed_dim, act=_leaky, rngs=rngs)
        self.entry = linear(2 * channels, widths[0], dtype=dtype, rngs=rngs)
        pairs = zip((widths[0], *widths[:-1]), widths)
        self.blocks = nnx.List([_Down(a, b, embed_dim, dtype, rngs) for a, b in pairs])
        more = 1 if group > 1 else 0
        self.final = conv(widths[-1] + more, widths[-1], dtype=dtype, rngs=rngs)
        self.exit = linear(widths[-1], 1, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_s: Float[Array, "b h w c"], x_t: Float[Array, "b h w c"], time: Float[Array, " b"]
    ) -> Float[Array, " b"]:
        embedding = _leaky(self.embedding(sinusoid(time, self.embed_dim)))
        h = self.entry(jnp.concatenate([x_s, x_t], axis=-1).astype(self.dtype))
        for i, block in enumerate(self.blocks):
            h = block(h, embedding, down=i > 0)
        if self.group > 1:
            h = jnp.concatenate([h, differences(h, self.group)], axis=-1)
        h = _leaky(self.final(h))
        pooled = jnp.sum(h.astype(jnp.float32), axis=(1, 2))
        return self.exit(pooled)[:, 0].astype(jnp.float32)


def differences(x: Float[Array, "b h w c"], group: int) -> Float[Array, "b h w 1"]:
    """The mean over places and channels of the deviation within each group, as a channel.

    >>> differences(jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1), 2).ravel().round(3)
    Array([1., 1.], dtype=float32)
    """
    b, h, w, _ = x.shape
    grouped = x.astype(jnp.float32).reshape(group, b // group, *x.shape[1:])
    deviation = jnp.sqrt(jnp.var(grouped, axis=0) + 1e-8)
    mean = jnp.mean(deviation, axis=(1, 2, 3))
    return jnp.broadcast_to(jnp.tile(mean, group)[:, None, None, None], (b, h, w, 1)).astype(
        x.dtype
    )


class _Down(nnx.Module):
    """(conv(leaky(conv(leaky x) + time)) + shortcut) / sqrt(2), at half the resolution."""

    def __init__(self, inputs: int, outputs: int, embed_dim: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.first = conv(inputs, outputs, dtype=dtype, rngs=rngs)
        self.time = linear(embed_dim, outputs, dtype=dtype, rngs=rngs)
        self.second = conv(outputs, outputs, dtype=dtype, rngs=rngs)
        self.shortcut = linear(inputs, outputs, bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, embedding: Array, *, down: bool) -> Array:
        h = self.first(_leaky(x)) + self.time(embedding)[:, None, None, :]
        h = _leaky(h)
        h, x = (halved(h), halved(x)) if down else (h, x)
        return (self.second(h) + self.shortcut(x)) * 0.5**0.5


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Half the resolution after a blur with [1, 3, 3, 1] / 8 each way, zeros outside.

    >>> halved(jnp.ones((1, 8, 8, 1)))[0, 1, 1, 0].item()
    1.0
    """
    taps = jnp.array(_BLUR, x.dtype) / sum(_BLUR)
    kernel = jnp.broadcast_to(
        (taps[:, None] * taps[None, :])[:, :, None, None], (4, 4, 1, x.shape[-1])
    )
    return lax.conv_general_dilated(
        x,
        kernel,
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.2)
