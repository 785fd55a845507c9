"""The tiny autoencoder (TAESD): convolutions and ReLU alone, distilled from a large one.

Its images live in [0, 1] inside and in [-1, 1] outside; the decoder first bounds the code by
3 tanh(z / 3). The variant for FLUX.2 puts a branch with a norm over the whole image, x + W2
relu(norm(W1 x)), before each block at the lowest resolution.

Reference: Ollin Boer Bohan, github.com/madebyollin/taesd.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.autoencoders.blocks import repeated
from jaxdiff.nets.autoencoders.gaussian import check_code, check_image
from jaxdiff.nets.autoencoders.record import Autoencoder, Code, scaling
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import GroupNorm, conv
from jaxdiff.types import PyTree


def autoencoder_tiny(
    *,
    channels: int = 3,
    out: int | None = None,
    latent: int = 4,
    widths: Sequence[int] = (64, 64, 64, 64),
    blocks: Sequence[int] = (1, 3, 3, 3),
    decoder_widths: Sequence[int] | None = None,
    decoder_blocks: Sequence[int] | None = None,
    act: Callable[[Array], Array] = jax.nn.relu,
    up: int = 2,
    norm_branch: bool = False,
    scale: float = 1.0,
    shift: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> Autoencoder:
    """The tiny autoencoder as pure functions; its code has no variance.

    Args:
      channels: of the image.
      out: channels of the decoded image; by default those of the image.
      latent: channels of the code: 4 (SD, SDXL), 16 (SD3, FLUX.1), 32 (FLUX.2).
      widths: channels of each level of the encoder, the finest first.
      blocks: blocks on each level of the encoder.
      decoder_widths: of the decoder, the coarsest first; by default `widths` reversed.
      decoder_blocks: of the decoder; by default `blocks` reversed.
      act: between the convolutions of a block.
      up: the factor of each upsampling.
      norm_branch: the branch of FLUX.2 at the lowest resolution.
      scale: of the latents; 1 for the published ones.
      shift: of the latents.
      dtype: of the arithmetic.

    Raises:
      ValueError: lists of different lengths; later an image or a code that does not fit.

    >>> net = autoencoder_tiny(widths=(8, 8), blocks=(1, 1))
    >>> params = net.init(jax.random.key(0))
    >>> net.decode(params, net.encode(params, jnp.zeros((1, 8, 8, 3))).mean).shape
    (1, 8, 8, 3)
    """
    decoder_widths = tuple(decoder_widths or tuple(widths)[::-1])
    decoder_blocks = tuple(decoder_blocks or tuple(blocks)[::-1])
    for name, a, b in (
        ("blocks", widths, blocks),
        ("decoder_blocks", decoder_widths, decoder_blocks),
    ):
        if len(a) != len(b) or not a:
            raise ValueError(f"{name} is {b} for {len(a)} levels: give one number for each level")

    def make(rngs: nnx.Rngs) -> AutoencoderTiny:
        return AutoencoderTiny(
            channels=channels,
            out=out or channels,
            latent=latent,
            encoder=(tuple(widths), tuple(blocks)),
            decoder=(decoder_widths, decoder_blocks),
            act=act,
            up=up,
            norm_branch=norm_branch,
            dtype=dtype,
            rngs=rngs,
        )

    init, module = bridge(make)

    def encode(params: PyTree, image: Array) -> Code:
        return Code(module(params).encode(image))

    def decode(params: PyTree, code: Array) -> Array:
        return module(params).decode(code)

    return Autoencoder(init, encode, decode, *scaling(scale, shift), 2 ** (len(widths) - 1), latent)


def to_unit(
    code: Float[Array, "b h w c"], magnitude: float = 3.0, shift: float = 0.5
) -> Float[Array, "b h w c"]:
    """A tiny code brought into [0, 1] for storing: clip(z / (2 magnitude) + shift).

    >>> to_unit(jnp.array([-3.0, 0.0, 3.0]).reshape(1, 1, 1, 3)).ravel()
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    return jnp.clip(code / (2 * magnitude) + shift, 0, 1)


def from_unit(
    stored: Float[Array, "b h w c"], magnitude: float = 3.0, shift: float = 0.5
) -> Float[Array, "b h w c"]:
    """The inverse of `to_unit` where that did not clip: (z - shift) 2 magnitude.

    >>> from_unit(jnp.array([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)).ravel()
    Array([-3.,  0.,  3.], dtype=float32)
    """
    return (stored - shift) * (2 * magnitude)


class Block(nnx.Module):
    """relu(x + three convolutions with an activation between), after the branch if there is one."""

    def __init__(
        self,
        width: int,
        *,
        act: Callable[[Array], Array],
        branch: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.conv = nnx.Dict({i: conv(width, width, dtype=dtype, rngs=rngs) for i in "024"})
        self.pool = nnx.Dict(_branch(width, dtype, rngs)) if branch else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.pool is not None:
            inner = self.pool["1"](self.pool["0"](x))
            x = x + self.pool["3"](jax.nn.relu(inner))
        h = self.act(self.conv["0"](x))
        return jax.nn.relu(x + self.conv["4"](self.act(self.conv["2"](h))))


class Chain(nnx.Module):
    """Layers in a row; those without parameters have a number and no name."""

    def __init__(self, layers: Sequence[Callable[[Array], Array]]):
        self.plain = {i: layer for i, layer in enumerate(layers) if not _learns(layer)}
        self.layers = nnx.Dict({str(i): layer for i, layer in enumerate(layers) if _learns(layer)})
        self.number = len(layers)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        for i in range(self.number):
            x = self.plain[i](x) if i in self.plain else self.layers[str(i)](x)
        return x


class AutoencoderTiny(nnx.Module):
    """Encoder and decoder as numbered layers, the names of the checkpoints."""

    def __init__(
        self,
        *,
        channels: int,
        out: int,
        latent: int,
        encoder: tuple[tuple[int, ...], tuple[int, ...]],
        decoder: tuple[tuple[int, ...], tuple[int, ...]],
        act: Callable[[Array], Array],
        up: int,
        norm_branch: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.channels, self.latent, self.dtype = channels, latent, dtype
        self.factor = 2 ** (len(encoder[0]) - 1)

        def plain(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nnx.Conv:
            return conv(inputs, outputs, stride=stride, bias=bias, dtype=dtype, rngs=rngs)

        def block(width: int, lowest: bool) -> Block:
            return Block(width, act=act, branch=norm_branch and lowest, dtype=dtype, rngs=rngs)

        self.encoder = Chain(_down(channels, latent, *encoder, plain, block))
        self.decoder = Chain(_up(latent, out, *decoder, plain, block, act, up))

    def encode(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        check_image(image, self.channels, self.factor)
        return self.encoder(((image + 1) / 2).astype(self.dtype)).astype(jnp.float32)

    def decode(self, code: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        check_code(code, self.latent)
        bounded = jnp.tanh(code / 3) * 3
        return self.decoder(bounded.astype(self.dtype)).astype(jnp.float32) * 2 - 1


def _down(
    channels: int,
    latent: int,
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    plain: Callable[..., nnx.Conv],
    block: Callable[[int, bool], Block],
) -> list[Callable[[Array], Array]]:
    layers: list[Callable[[Array], Array]] = []
    for i, (width, number) in enumerate(zip(widths, blocks)):
        layers.append(plain(width, width, 2, False) if i else plain(channels, width))
        layers += [block(width, i + 1 == len(widths)) for _ in range(number)]
    return [*layers, plain(widths[-1], latent)]


def _up(
    latent: int,
    out: int,
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    plain: Callable[..., nnx.Conv],
    block: Callable[[int, bool], Block],
    act: Callable[[Array], Array],
    up: int,
) -> list[Callable[[Array], Array]]:
    layers: list[Callable[[Array], Array]] = [plain(latent, widths[0]), act]
    for i, (width, number) in enumerate(zip(widths, blocks)):
        layers += [block(width, i == 0) for _ in range(number)]
        last = i + 1 == len(widths)
        layers += [plain(width, out)] if last else [_repeat(up), plain(width, width, 1, False)]
    return layers


def _repeat(factor: int) -> Callable[[Array], Array]:
    return lambda x: repeated(x, factor)


def _branch(width: int, dtype: DTypeLike, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    wide = 4 * width
    return {
        "0": conv(width, wide, size=1, bias=False, dtype=dtype, rngs=rngs),
        "1": GroupNorm(wide, groups=4, eps=1e-5),
        "3": conv(wide, width, size=1, bias=False, dtype=dtype, rngs=rngs),
    }


def _learns(layer: Callable[[Array], Array]) -> bool:
    return isinstance(layer, nnx.Module)
