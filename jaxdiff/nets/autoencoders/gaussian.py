"""The autoencoder of latent diffusion, with a Gaussian code.

The encoder is a pyramid of residual blocks, `depth` on each level and half the resolution from one
to the next, a middle with attention, and a convolution to 2 c channels: mean and log-variance. The
decoder is its mirror image with one block more on each level. Two 1x1 convolutions around the code
are there in some (quant, post_quant).

Reference: Rombach et al. 2021, arXiv 2112.10752, appendix G.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.autoencoders.blocks import Level, Middle
from jaxdiff.nets.autoencoders.record import Autoencoder, Code, code_of, scaling
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import GroupNorm, check_divisible, conv
from jaxdiff.types import PyTree


def autoencoder_kl(
    *,
    channels: int = 3,
    out: int | None = None,
    latent: int = 4,
    widths: Sequence[int] = (128, 256, 512, 512),
    depth: int = 2,
    groups: int = 32,
    attention: Sequence[int] = (),
    middle_attention: bool = True,
    quant: bool = True,
    post_quant: bool = True,
    scale: float | Sequence[float] = 0.18215,
    shift: float | Sequence[float] = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> Autoencoder:
    """The Gaussian autoencoder of Stable Diffusion, SDXL, SD3 and FLUX as pure functions.

    Args:
      channels: of the image.
      out: channels of the decoded image; by default those of the image.
      latent: channels of the code, 4 or 16.
      widths: channels of each level, the finest first; f = 2^(levels - 1).
      depth: blocks on each level of the encoder; the decoder has one more.
      groups: of every norm; must divide the widths.
      attention: levels with attention after each block (0 is the finest).
      middle_attention: attention in the middle.
      quant: a 1x1 convolution after the encoder.
      post_quant: a 1x1 convolution before the decoder.
      scale: of the latents, a number or one for each channel.
      shift: likewise, taken away before the scale.
      dtype: of the arithmetic; parameters and results are float32.

    Returns:
      `Autoencoder`, whose `encode` gives mean and log-variance.

    Raises:
      ValueError: groups that do not divide; later an image whose sides are no multiples of f, or
        a code with another number of channels.

    Reference: Rombach et al. 2021, arXiv 2112.10752.

    >>> net = autoencoder_kl(widths=(8, 8), depth=1, groups=4)
    >>> params = net.init(jax.random.key(0))
    >>> net.encode(params, jnp.zeros((1, 8, 8, 3))).mean.shape
    (1, 4, 4, 4)
    """

    def make(rngs: nnx.Rngs) -> AutoencoderKL:
        return AutoencoderKL(
            channels=channels,
            out=out or channels,
            latent=latent,
            widths=tuple(widths),
            depth=depth,
            groups=groups,
            attention=attention,
            middle_attention=middle_attention,
            quant=quant,
            post_quant=post_quant,
            dtype=dtype,
            rngs=rngs,
        )

    init, module = bridge(make)

    def encode(params: PyTree, image: Array) -> Code:
        return code_of(module(params).encode(image))

    def decode(params: PyTree, code: Array) -> Array:
        return module(params).decode(code)

    return Autoencoder(init, encode, decode, *scaling(scale, shift), 2 ** (len(widths) - 1), latent)


class AutoencoderKL(nnx.Module):
    """Encoder and decoder with the names of the checkpoints; the arguments of `autoencoder_kl`."""

    def __init__(
        self,
        *,
        channels: int,
        out: int,
        latent: int,
        widths: tuple[int, ...],
        depth: int,
        groups: int,
        attention: Sequence[int],
        middle_attention: bool,
        quant: bool,
        post_quant: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shared: dict[str, Any] = dict(
            groups=groups, middle=middle_attention, dtype=dtype, rngs=rngs
        )
        self.channels, self.latent, self.factor = channels, latent, 2 ** (len(widths) - 1)
        self.encoder = Encoder(channels, 2 * latent, widths, depth, attention, **shared)
        self.decoder = Decoder(latent, out, widths, depth + 1, attention, **shared)
        self.quant_conv = _pointwise(2 * latent, 2 * latent, quant, dtype, rngs)
        self.post_quant_conv = _pointwise(latent, latent, post_quant, dtype, rngs)

    def encode(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        check_image(image, self.channels, self.factor)
        moments = self.encoder(image)
        return moments if self.quant_conv is None else self.quant_conv(moments).astype(jnp.float32)

    def decode(self, code: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        check_code(code, self.latent)
        return self.decoder(code if self.post_quant_conv is None else self.post_quant_conv(code))


class Encoder(nnx.Module):
    """Image -> [b, h/f, w/f, out]: levels downward, the middle, norm and convolution."""

    def __init__(
        self,
        channels: int,
        out: int,
        widths: tuple[int, ...],
        depth: int,
        attention: Sequence[int],
        *,
        groups: int,
        middle: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        check_widths(widths, groups)
        self.conv_in = conv(channels, widths[0], dtype=dtype, rngs=rngs)
        self.down_blocks = _levels(
            widths, depth, groups, _where(attention, len(widths)), "down", dtype, rngs
        )
        self.mid_block = Middle(widths[-1], groups=groups, attention=middle, dtype=dtype, rngs=rngs)
        self.conv_norm_out = GroupNorm(widths[-1], groups=groups, eps=1e-6)
        self.conv_out = conv(widths[-1], out, dtype=dtype, rngs=rngs)

    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        h = self.conv_in(image.astype(self.dtype))
        for level in self.down_blocks:
            h = level(h)
        h = self.conv_norm_out(self.mid_block(h))
        return self.conv_out(jax.nn.silu(h)).astype(jnp.float32)


class Decoder(nnx.Module):
    """[b, h, w, latent] -> image [b, f h, f w, out]: middle, levels upward, norm, convolution."""

    def __init__(
        self,
        latent: int,
        out: int,
        widths: tuple[int, ...],
        depth: int,
        attention: Sequence[int],
        *,
        groups: int,
        middle: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        check_widths(widths, groups)
        self.conv_in = conv(latent, widths[-1], dtype=dtype, rngs=rngs)
        self.mid_block = Middle(widths[-1], groups=groups, attention=middle, dtype=dtype, rngs=rngs)
        looks = _where(attention, len(widths))[::-1]
        self.up_blocks = _levels(widths[::-1], depth, groups, looks, "up", dtype, rngs)
        self.conv_norm_out = GroupNorm(widths[0], groups=groups, eps=1e-6)
        self.conv_out = conv(widths[0], out, dtype=dtype, rngs=rngs)

    def __call__(self, code: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        h = self.mid_block(self.conv_in(code.astype(self.dtype)))
        for level in self.up_blocks:
            h = level(h)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(h))).astype(jnp.float32)


def check_image(image: Array, channels: int, factor: int) -> None:
    """Raise unless `image` is [b, h, w, channels] with sides that are multiples of `factor`.

    >>> check_image(jnp.zeros((1, 8, 8, 3)), 3, 8)
    """
    if image.ndim != 4 or image.shape[-1] != channels:
        raise ValueError(
            f"image has shape {image.shape}: this autoencoder takes [b, h, w, {channels}]"
        )
    check_divisible(image.shape, factor, "one place of the code for so many pixels")


def check_code(code: Array, channels: int) -> None:
    """Raise unless `code` is [b, h, w, channels].

    >>> check_code(jnp.zeros((1, 8, 8, 4)), 4)
    """
    if code.ndim != 4 or code.shape[-1] != channels:
        raise ValueError(
            f"the code has shape {code.shape}: this autoencoder takes [b, h, w, {channels}]; do "
            "the latents belong to another one?"
        )


def check_widths(widths: Sequence[int], groups: int) -> None:
    """Raise unless every width is a multiple of `groups`.

    >>> check_widths((8, 16), 4)
    """
    wrong = [width for width in widths if width % groups]
    if wrong or not widths:
        raise ValueError(f"groups is {groups}: it must divide every one of the widths {widths}")


def _levels(
    widths: tuple[int, ...],
    depth: int,
    groups: int,
    looks: Sequence[bool],
    to: str,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.List:
    """Levels in the order in which they run; the last one keeps its resolution."""
    before = (widths[0], *widths[:-1])
    make: Callable[..., Level] = Level
    return nnx.List(
        [
            make(
                inputs,
                width,
                depth=depth,
                groups=groups,
                attention=looks[i],
                to=to if i + 1 < len(widths) else None,
                dtype=dtype,
                rngs=rngs,
            )
            for i, (inputs, width) in enumerate(zip(before, widths))
        ]
    )


def _where(attention: Sequence[int], levels: int) -> list[bool]:
    return [i in attention for i in range(levels)]


def _pointwise(
    inputs: int, outputs: int, there: bool, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Conv | None:
    return conv(inputs, outputs, size=1, dtype=dtype, rngs=rngs) if there else None
