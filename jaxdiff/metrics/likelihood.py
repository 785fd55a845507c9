"""A bound on how many bits a model spends on an image: the variational one, in continuous time.

The chain starts at the noisiest log-SNR a, where z ~ N(0, sigma^2) is the prior, and ends at the
cleanest, b, where a byte x is read off z = alpha x + sigma eps by Bayes' rule over its 256 levels:

    -log p(x) <= alpha_a^2 ||x||^2 / (2 sigma_a^2)
              +  1/2 int_a^b E || (x - x_0(z_l)) ||^2 e^l dl
              -  E log [ e^-(z - alpha x)^2/(2 sigma^2) / sum_k e^-(z - alpha k)^2/(2 sigma^2) ]_b.

The integrand is the squared error of eps, ||eps - eps_net||^2 = e^l ||x - x_0||^2. Every term is an
expectation estimated without bias, so the average over images bounds the true bits from above.

Kingma et al. 2021, arXiv:2107.00630, eq. (10)-(12), (15) and appendix B; there SNR = e^l.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxdiff.canonical import scan
from jaxdiff.data import images_to_unit
from jaxdiff.denoise import Denoiser
from jaxdiff.process import log_snr, perturb, scales, time_of
from jaxdiff.trees import fold, keys_for, normal

NOISIEST, CLEANEST = -14.0, 13.3
"""The log-SNRs between which the chain runs, if the process reaches so far."""


def bits_bound(
    key: Key[Array, ""],
    denoise: Denoiser,
    images: UInt8[Array, "b ..."],
    *,
    draws: int = 16,
    ids: Int[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """An unbiased estimate of an upper bound on -log2 p(x) / d, one for each image.

    Args:
      key: one key; image i draws from fold_in(key, ids[i]).
      denoise: E[x_0 | x_t] with its condition bound, unguided.
      images: [b, ...] bytes; the model sees (2 u - 255)/255.
      draws: noise levels an image, spread evenly over the log-SNR.
      ids: numbers of the images, arange(b) by default.

    Returns:
      bits per dimension [b]; 8 is what bytes cost without a model.

    Raises:
      ValueError: for draws < 1.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: at least one noise level")
    ids = jnp.arange(len(images)) if ids is None else ids
    keys, x = keys_for(key, ids), jnp.asarray(images_to_unit(images))
    a, b = _ends(denoise)
    shift = jax.vmap(lambda k: jax.random.uniform(k, ()))(fold(keys, 0))

    def body(total: Array, j: Array) -> tuple[Array, None]:
        level = a + (b - a) * (j + shift) / draws
        z = perturb(
            denoise.process, time_of(denoise.process, level), x, normal(fold(keys, j + 1), x)
        )
        x0 = denoise(z, time_of(denoise.process, level)).x0
        return total + jnp.exp(level) * _squares(x - x0), None

    error, _ = scan(body, jnp.zeros(len(x)), jnp.arange(draws))
    nats = _prior(denoise, a, x) + (b - a) * error / (2 * draws)
    nats = nats + _read_off(fold(keys, draws + 1), denoise, b, x, images)
    return nats / (images[0].size * jnp.log(2.0))


def _ends(denoise: Denoiser) -> tuple[Array, Array]:
    process = denoise.process
    a = jnp.maximum(log_snr(process, process.t_max), NOISIEST)
    return a, jnp.minimum(log_snr(process, process.t_min), CLEANEST)


def _squares(x: Array) -> Array:
    return jnp.sum(x.reshape(len(x), -1) ** 2, axis=1)


def _prior(denoise: Denoiser, level: Array, x: Array) -> Array:
    """KL(N(alpha x, sigma^2) || N(0, sigma^2))."""
    return jnp.exp(level) * _squares(x) / 2


def _read_off(keys: Array, denoise: Denoiser, level: Array, x: Array, images: Array) -> Array:
    """-log p(x | z) with p proportional to q(z | x) over the 256 levels of each entry."""
    t = time_of(denoise.process, level)
    alpha, sigma = scales(denoise.process, t)
    z = perturb(denoise.process, t, x, normal(keys, x))
    levels = jnp.asarray(images_to_unit(jnp.arange(256, dtype=jnp.uint8)))
    logits = -((z[..., None] - alpha * levels.reshape((1,) * x.ndim + (256,))) ** 2) / (
        2 * sigma**2
    )
    chosen = jnp.take_along_axis(logits, images[..., None].astype(jnp.int32), axis=-1)[..., 0]
    lost = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.sum(lost.reshape(len(x), -1), axis=1)
