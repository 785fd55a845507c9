"""The last step of a chain: what a Gaussian says of data that are whole levels.

Levels lie at -1 + 2 k/(K - 1), k = 0 ... K - 1; each owns the half-step around it, the first and
the last own all that lies beyond, so the masses of a Gaussian sum to 1:

    p(x) = Phi((x + w/2 - mean)/std) - Phi((x - w/2 - mean)/std),    w = 2/(K - 1).

Ho et al. 2020, arXiv:2006.11239, eq. (13).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from jaxdiff.types import PyTree

_NARROW = 0.02
"""Below this |z| w/std the mass is its density times its width, to about 1e-10."""


def discretised_gaussian(
    x: Float[Array, "*shape"],
    mean: Float[Array, "*shape"],
    log_std: Float[Array, "*#shape"],
    *,
    levels: int = 256,
) -> Float[Array, "*shape"]:
    """log p(x) of every entry, in nats: the mass that N(mean, std^2) gives to the level x.

    Args:
      x: on the levels -1 + 2 k/(levels - 1).
      mean: like x.
      log_std: broadcastable to x.
      levels: K >= 2; 256 are the bytes.

    Returns:
      log-probabilities, like x; finite, however far the mean lies.

    Raises:
      ValueError: if levels < 2, or x is concrete and not on the levels.

    Ho et al. 2020, arXiv:2006.11239, eq. (13).

    >>> x = jnp.array([-1.0, 1.0])
    >>> jnp.exp(discretised_gaussian(x, 0 * x, 0 * x, levels=2)).tolist()
    [0.5, 0.5]
    """
    check_levels(x, levels)
    std = jnp.exp(log_std)
    z, half = (x - mean) / std, 1 / ((levels - 1) * std)
    inner = jnp.where(jnp.maximum(jnp.abs(z), 1.0) * half < _NARROW / 2,
                      _by_density(z, half), _by_difference(z, half))  # fmt: skip
    inner = jnp.where(x < -1 + 1 / levels, log_ndtr(z + half), inner)
    return jnp.where(x > 1 - 1 / levels, log_ndtr(half - z), inner)


def _by_difference(z: Array, half: Array) -> Array:
    """log [Phi(z + half) - Phi(z - half)], in the tail that is the smaller one."""
    z = -jnp.abs(z)
    high, low = log_ndtr(z + half), log_ndtr(z - half)
    gap = jnp.where(high > low, high - low, 1.0)  # equal only where the other branch is taken
    return high + jnp.log(-jnp.expm1(-gap))


def _by_density(z: Array, half: Array) -> Array:
    """The same for a narrow bin: log phi(z) + log(2 half) and the next term, (z^2 - 1) half^2/6."""
    curve = jnp.log1p(jnp.clip((z**2 - 1) * half**2 / 6, -0.5, 0.5))
    return jnp.log(2 * half) - (z**2 + jnp.log(2 * jnp.pi)) / 2 + curve


def gaussian_log_density(x: Array, mean: Array, log_std: Array) -> Array:
    """log N(x; mean, std^2) of every entry: the decoder of data that are real numbers.

    >>> round(float(gaussian_log_density(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))), 4)
    -0.9189
    """
    return -(((x - mean) * jnp.exp(-log_std)) ** 2 + jnp.log(2 * jnp.pi)) / 2 - log_std


def check_levels(x: PyTree, levels: int) -> None:
    """Refuse data that are not on the levels -1 + 2 k/(levels - 1); traced data pass.

    Raises:
      ValueError: with the first value that is off, or for levels < 2.

    >>> check_levels(jnp.array([-1.0, 1 / 3]), 4)
    """
    if levels < 2:
        raise ValueError(f"levels={levels}: at least two, 256 for bytes")
    for leaf in jax.tree.leaves(x):
        if not isinstance(leaf, Tracer):
            _check_leaf(np.asarray(leaf), levels)


def _check_leaf(values: np.ndarray, levels: int) -> None:
    place = (values.astype(np.float64) + 1) * (levels - 1) / 2
    off = ~((np.abs(place - np.round(place)) < 0.02) & (place > -0.5) & (place < levels - 0.5))
    if off.any():
        raise ValueError(
            f"x holds {values[off].flat[0]:g}: not one of the {levels} levels from -1 to 1 (bytes "
            "are (2 u - 255)/255); give data without noise or augmentation, or levels=None for "
            "real numbers"
        )


def decoder_nats(x: Array, mean: Array, log_std: Any, levels: int | None) -> Array:
    """-log p(x) of every entry, of whole levels or (levels None) of real numbers."""
    log_std = jnp.broadcast_to(log_std, x.shape)
    if levels is None:
        return -gaussian_log_density(x, mean, log_std)
    return -discretised_gaussian(x, mean, log_std, levels=levels)
