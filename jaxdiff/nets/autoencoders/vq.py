"""The autoencoder with a codebook: every place of the code becomes its nearest entry.

    q(z) = e_k,  k = argmin_j |z - e_j|^2

Its derivative is 0 almost everywhere, so the gradient of what follows passes straight through to z;
two terms bring codebook and encoder together.

Reference: van den Oord et al. 2017, arXiv 1711.00937, eq. 2-3.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.autoencoders.gaussian import Decoder, Encoder, check_code, check_image
from jaxdiff.nets.autoencoders.record import Autoencoder, Code, Quantized, scaling
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import conv
from jaxdiff.types import PyTree


def autoencoder_vq(
    *,
    channels: int = 3,
    out: int | None = None,
    latent: int = 3,
    entries: int = 8192,
    entry_width: int | None = None,
    widths: Sequence[int] = (128, 256, 512),
    depth: int = 2,
    groups: int = 32,
    attention: Sequence[int] = (),
    middle_attention: bool = True,
    scale: float = 0.18215,
    dtype: DTypeLike = jnp.float32,
) -> Autoencoder:
    """The autoencoder with a codebook as pure functions.

    `encode` gives the code before the codebook (a diffusion model lives there), `decode` takes the
    nearest entries first, and `quantize(params, code)` gives entries, indices and the two terms for
    training.

    Args:
      channels: of the image.
      out: channels of the decoded image; by default those of the image.
      latent: channels between encoder and code.
      entries: of the codebook.
      entry_width: channels of the code and of each entry; by default `latent`.
      widths: as in `autoencoder_kl`, and so are depth, groups, attention, middle_attention.
      depth: blocks on each level of the encoder.
      groups: of every norm.
      attention: levels with attention after each block.
      middle_attention: attention in the middle.
      scale: of the latents.
      dtype: of the arithmetic; the search in the codebook is in float32.

    Raises:
      ValueError: as `autoencoder_kl`.

    Reference: Esser et al. 2020, arXiv 2012.09841.

    >>> net = autoencoder_vq(widths=(8, 8), depth=1, groups=4, entries=5)
    >>> params = net.init(jax.random.key(0))
    >>> net.quantize(params, net.encode(params, jnp.zeros((1, 8, 8, 3))).mean).index.shape
    (1, 4, 4)
    """

    def make(rngs: nnx.Rngs) -> VQModel:
        return VQModel(
            channels=channels,
            out=out or channels,
            latent=latent,
            entries=entries,
            entry_width=entry_width or latent,
            widths=tuple(widths),
            depth=depth,
            groups=groups,
            attention=attention,
            middle_attention=middle_attention,
            dtype=dtype,
            rngs=rngs,
        )

    init, module = bridge(make)

    def encode(params: PyTree, image: Array) -> Code:
        return Code(module(params).encode(image))

    def decode(params: PyTree, code: Array) -> Array:
        return module(params).decode(code)

    def quantize(params: PyTree, code: Array) -> Quantized:
        return module(params).quantize(code)

    levels = len(widths) - 1
    pair = scaling(scale)
    return Autoencoder(init, encode, decode, *pair, 2**levels, entry_width or latent, quantize)


class Codebook(nnx.Module):
    """Entries [n, c], and the nearest of them.

    >>> Codebook(5, 3, rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 2, 3))).latents.shape
    (1, 2, 2, 3)
    """

    def __init__(self, entries: int, width: int, *, rngs: nnx.Rngs):
        start = jax.random.uniform(
            rngs.params(), (entries, width), jnp.float32, -1 / entries, 1 / entries
        )
        self.embedding = _Rows(start)

    def __call__(self, z: Float[Array, "b h w c"]) -> Quantized:
        entries, z = self.embedding.embedding.get_value(), z.astype(jnp.float32)
        size = jnp.sum(jnp.square(entries), axis=1)
        # |z|^2 is the same for every entry: it does not move the minimum.
        index = jnp.argmin(size[None, None, None, :] - 2 * (z @ entries.T), axis=-1)
        nearest = entries[index]
        stop = jax.lax.stop_gradient
        commit = jnp.mean(jnp.square(stop(nearest) - z), axis=(1, 2, 3))
        codebook = jnp.mean(jnp.square(nearest - stop(z)), axis=(1, 2, 3))
        return Quantized(z + stop(nearest - z), index, commit, codebook)


class VQModel(nnx.Module):
    """Encoder, codebook and decoder with the names of the checkpoints."""

    def __init__(
        self,
        *,
        channels: int,
        out: int,
        latent: int,
        entries: int,
        entry_width: int,
        widths: tuple[int, ...],
        depth: int,
        groups: int,
        attention: Sequence[int],
        middle_attention: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shared: dict[str, Any] = dict(
            groups=groups, middle=middle_attention, dtype=dtype, rngs=rngs
        )
        self.channels, self.width, self.factor = channels, entry_width, 2 ** (len(widths) - 1)
        self.encoder = Encoder(channels, latent, widths, depth, attention, **shared)
        self.quant_conv = conv(latent, entry_width, size=1, dtype=dtype, rngs=rngs)
        self.quantize = Codebook(entries, entry_width, rngs=rngs)
        self.post_quant_conv = conv(entry_width, latent, size=1, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(latent, out, widths, depth + 1, attention, **shared)

    def encode(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        check_image(image, self.channels, self.factor)
        return self.quant_conv(self.encoder(image)).astype(jnp.float32)

    def decode(self, code: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        check_code(code, self.width)
        return self.decoder(self.post_quant_conv(self.quantize(code).latents))


class _Rows(nnx.Module):
    def __init__(self, start: Array):
        self.embedding = nnx.Param(start)
