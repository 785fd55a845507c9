"""What an autoencoder is to everyone else: pure functions, and the distribution of its code.

An encoder says N(mean, exp(logvar)) for each element of the code; one without a variance (tiny, VQ)
says the mean alone. A diffusion model lives on `to_latent(code.mean)`, shifted and scaled to about
unit variance:

    latent = (code - shift) scale,   code = latent / scale + shift.

Reference: Kingma and Welling 2013, arXiv 1312.6114; Rombach et al. 2021, arXiv 2112.10752, section
3.1 and appendix D.1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdiff.types import PyTree

_LEAST, _MOST = -30.0, 20.0  # of the log-variance, as the published encoders clip it


class Code(NamedTuple):
    """What an encoder says: `mean` and `logvar`, each [b, h, w, c], or None for no variance."""

    mean: Float[Array, "b h w c"]
    logvar: Float[Array, "b h w c"] | None = None


class Quantized(NamedTuple):
    """Nearest entries of a codebook.

    `latents` [b, h, w, c], whose gradient passes straight through; `index` [b, h, w]; `commit` [b]
    pulls the encoder to the codebook, `codebook` [b] the codebook to the encoder.
    """

    latents: Float[Array, "b h w c"]
    index: Int[Array, "b h w"]
    commit: Float[Array, " b"]
    codebook: Float[Array, " b"]


class Autoencoder(NamedTuple):
    """An autoencoder as pure functions.

    `init(key) -> params`; `encode(params, image [b, h, w, 3] in [-1, 1]) -> Code`;
    `decode(params, code [b, h/f, w/f, c]) -> image`, not clipped; `to_latent(code) -> latents` for
    the diffusion model and `from_latent` back; `factor` f, pixels a side of one place of the code;
    `channels` c; `quantize(params, code) -> Quantized` where there is a codebook.
    """

    init: Callable[[Any], PyTree]
    encode: Callable[[PyTree, Array], Code]
    decode: Callable[[PyTree, Array], Array]
    to_latent: Callable[[Array], Array]
    from_latent: Callable[[Array], Array]
    factor: int
    channels: int
    quantize: Callable[[PyTree, Array], Quantized] | None = None


def code_of(moments: Float[Array, "b h w c"]) -> Code:
    """Split [b, h, w, 2c] into mean and log-variance, the latter clipped to [-30, 20].

    >>> code_of(jnp.full((1, 1, 1, 2), 50.0)).logvar.item()
    20.0
    """
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return Code(mean, jnp.clip(logvar, _LEAST, _MOST))


def draw(keys: Key[Array, " b"], code: Code) -> Float[Array, "b h w c"]:
    """Draw a code: mean + exp(logvar / 2) e, e ~ N(0, 1); the mean where there is no variance.

    Args:
      keys: [b], one for each sample.
      code: what the encoder said.

    Raises:
      ValueError: if there are not as many keys as samples.

    >>> draw(jax.random.split(jax.random.key(0), 2), Code(jnp.zeros((2, 4, 4, 3)))).shape
    (2, 4, 4, 3)
    """
    mean, logvar = code
    if keys.shape[0] != mean.shape[0]:
        raise ValueError(
            f"keys holds {keys.shape[0]} for {mean.shape[0]} samples: give one for each, "
            "jax.random.split(key, b)"
        )
    if logvar is None:
        return mean
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return mean + jnp.exp(0.5 * logvar) * noise


def kl(code: Code) -> Float[Array, " b"]:
    """Kullback-Leibler divergence of each sample's code from N(0, 1), in nats.

        KL = 1/2 sum (mean^2 + exp(logvar) - 1 - logvar)

    Raises:
      ValueError: if the code has no variance.

    Reference: Kingma and Welling 2013, arXiv 1312.6114, appendix B.

    >>> kl(Code(jnp.ones((1, 1, 1, 2)), jnp.zeros((1, 1, 1, 2))))
    Array([1.], dtype=float32)
    """
    mean, logvar = code
    if logvar is None:
        raise ValueError("code has no variance: this autoencoder is deterministic and has no KL")
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3))


def scaling(
    scale: float | Sequence[float] = 1.0, shift: float | Sequence[float] = 0.0
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """The pair (to_latent, from_latent): (z - shift) scale and its inverse.

    Args:
      scale: one number, or one for each channel of the code; not 0.
      shift: likewise.

    Raises:
      ValueError: if a scale is 0 or not finite.

    >>> to_latent, from_latent = scaling(0.5, 1.0)
    >>> to_latent(jnp.full((1, 1, 1, 1), 3.0)).item(), from_latent(jnp.ones((1, 1, 1, 1))).item()
    (1.0, 3.0)
    """
    gain, offset = (np.asarray(v, np.float32).reshape(1, 1, 1, -1) for v in (scale, shift))
    if not np.all(np.isfinite(gain) & (gain != 0)):
        raise ValueError(f"scale is {scale}: it must be finite and not 0")

    def to_latent(code: Array) -> Array:
        return (code - offset.astype(code.dtype)) * gain.astype(code.dtype)

    def from_latent(latent: Array) -> Array:
        return latent / gain.astype(latent.dtype) + offset.astype(latent.dtype)

    return to_latent, from_latent
