"""Processes given by a table of betas, and the tables of the literature.

A table says beta_0 ... beta_{N-1}; alpha_t^2 = prod_{j<=t} (1 - beta_j) at the integers.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Num

from jaxdiff.process.gaussian import Process, from_scales
from jaxdiff.types import number

Between = Callable[[Array, Array, Array], Array]
"""(ratio at an entry, at the next, weight of the next) -> sigma/alpha between them."""


def by_ratio(low: Array, high: Array, weight: Array) -> Array:
    """sigma/alpha linear between the entries of a table, as diffusers reads sigma off a time.

    >>> float(by_ratio(jnp.array(1.0), jnp.array(4.0), jnp.array(0.5)))
    2.5
    """
    return low * (1 - weight) + high * weight


def by_log_ratio(low: Array, high: Array, weight: Array) -> Array:
    """log(sigma/alpha) linear between entries, as k-diffusion does, and all read a time off sigma.

    >>> float(by_log_ratio(jnp.array(1.0), jnp.array(4.0), jnp.array(0.5)))
    2.0
    """
    safe = jnp.where(low == 0, high, low)  # from clean data there is no logarithm: a straight line
    curve = jnp.exp(by_ratio(jnp.log(safe), jnp.log(high), weight))
    return jnp.where(low == 0, high * weight, curve)


def _entries(angles: Array, t: Array) -> tuple[Array, Array, Array]:
    """The entries of a table on t = -1, 0, ..., N - 1 around t, and the weight of the second."""
    last = angles.shape[0] - 2
    floor = jnp.clip(jnp.floor(t), -1, last - 1)
    low = (floor + 1).astype(int)
    return angles[low], angles[low + 1], t - floor


def _interpolate(angles: Array, t: Array) -> Array:
    """Sine of tabulated angles, linear in between."""
    return jnp.sin(by_ratio(*_entries(angles, t)))


def _alpha_by(way: Between, signal: Array, noise: Array, t: Array) -> Array:
    ratio, usable = _ratio_by(way, signal, noise, t)
    return jnp.where(usable, 1 / jnp.sqrt(1 + ratio**2), _interpolate(signal, t))


def _sigma_by(way: Between, signal: Array, noise: Array, t: Array) -> Array:
    ratio, usable = _ratio_by(way, signal, noise, t)
    return jnp.where(usable, ratio / jnp.sqrt(1 + ratio**2), _interpolate(noise, t))


def _ratio_by(way: Between, signal: Array, noise: Array, t: Array) -> tuple[Array, Array]:
    """sigma/alpha, and where there is one: not in a last step to alpha = 0."""
    (s0, s1, weight), (n0, n1, _) = _entries(signal, t), _entries(noise, t)
    usable = s1 > 0
    low, high = jnp.sin(n0) / jnp.sin(s0), jnp.sin(n1) / jnp.sin(jnp.where(usable, s1, s0))
    return way(low, high, weight), usable


def _check_betas(table: np.ndarray) -> None:
    if table.ndim != 1 or len(table) < 2:
        raise ValueError(f"betas of shape {table.shape}: a vector of at least two is needed")
    bad = ~((table >= 0) & (table <= 1))
    if bad.any():
        where = int(bad.argmax())
        raise ValueError(f"betas[{where}] = {table[where]}: every beta lies in [0, 1]")


def from_betas(
    betas: Num[np.ndarray, " n"] | Float[Array, " n"] | list[float],
    between: Between | None = None,
) -> Process:
    """A table beta_0 ... beta_{N-1} as a process with t in [0, N-1].

    alpha_t^2 = prod_{j<=t} (1 - beta_j); between the integers the angle atan2(sigma, alpha) is
    interpolated. Clean data sits at t = -1. A table with zero terminal SNR (its last beta is 1)
    has alpha exactly 0 at t = N - 1.

    Args:
      betas: [n] numbers in [0, 1], concrete (not traced): the products are taken in float64.
      between: the angle by default; `by_ratio` or `by_log_ratio` to be equal to other libraries
        between the integers. In a last step to alpha = 0 it is the angle always.

    Raises:
      ValueError: if a beta lies outside [0, 1], or there are fewer than two.

    Ho et al. 2020, arXiv:2006.11239, eq. (4); zero terminal SNR: Lin et al. 2023, arXiv:2305.08891.

    >>> p = from_betas(np.linspace(1e-4, 0.02, 1000))
    >>> round(float(p.alpha(p.t_max)) ** 2, 8)
    4.036e-05
    """
    table = np.asarray(betas, dtype=np.float64)
    _check_betas(table)
    with np.errstate(divide="ignore"):
        log_alpha2 = np.concatenate([[0.0], np.cumsum(np.log1p(-table))])
    alpha, sigma = np.exp(log_alpha2 / 2), np.sqrt(-np.expm1(log_alpha2))
    # both angles are kept, each exact at its own zero: cos(pi/2) is not 0 in floating point
    signal, noise = np.arctan2(alpha, sigma), np.arctan2(sigma, alpha)
    tables = number(signal), number(noise)
    if between is None:
        curves = [Partial(_interpolate, angles) for angles in tables]
    else:
        curves = [Partial(fn, Partial(between), *tables) for fn in (_alpha_by, _sigma_by)]
    return from_scales(curves[0], curves[1], 0.0, len(table) - 1.0, -1.0)


def is_table(process: Process) -> bool:
    """Whether a process was made by `from_betas`; traced ones too.

    >>> is_table(from_betas(linear_betas()))
    True
    """
    return getattr(process.alpha, "func", None) in (_interpolate, _alpha_by)


def linear_betas(n: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> np.ndarray:
    """DDPM's table: n betas, linear from beta_min to beta_max.

    Ho et al. 2020, arXiv:2006.11239, section 4.

    >>> linear_betas(3, 0.0, 0.02).tolist()
    [0.0, 0.01, 0.02]
    """
    return np.linspace(beta_min, beta_max, n, dtype=np.float64)


def cosine_betas(n: int = 1000, s: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """Improved DDPM's table: beta_j = min(1 - abar((j+1)/n)/abar(j/n), largest).

    Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (17).

    >>> round(float(cosine_betas(1000)[-1]), 3)
    0.999
    """
    abar = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], largest)


def scaled_linear_betas(
    n: int = 1000, beta_min: float = 0.00085, beta_max: float = 0.012
) -> np.ndarray:
    """Latent diffusion's table: the roots of the betas are linear.

    Rombach et al. 2022, arXiv:2112.10752; the defaults are Stable Diffusion's.

    >>> [round(float(b), 5) for b in scaled_linear_betas(3)]
    [0.00085, 0.00481, 0.012]
    """
    return np.linspace(beta_min**0.5, beta_max**0.5, n, dtype=np.float64) ** 2


def sigmoid_betas(n: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> np.ndarray:
    """beta_j = beta_min + (beta_max - beta_min) sigmoid(u_j), u from -6 to 6: GeoDiff's table.

    Xu et al. 2022, arXiv:2203.02923.

    >>> round(float(sigmoid_betas(3)[1]), 5)
    0.01005
    """
    rise = 1 / (1 + np.exp(-np.linspace(-6.0, 6.0, n, dtype=np.float64)))
    return beta_min + (beta_max - beta_min) * rise


def laplace_betas(n: int = 1000, largest: float = 0.999) -> np.ndarray:
    """log-SNR at quantiles of a Laplace law: beta_j = min(1 - abar((j+1)/n)/abar(j/n), largest).

    abar(u) = sqrt(SNR / (1 + SNR)), log SNR = -sign(1/2 - u) log(1 - 2 |1/2 - u| + 1e-6) / 2.
    This is the table in common use; the root makes its log-SNR differ from the paper's.

    Hang et al. 2024, arXiv:2407.03297.

    >>> [round(float(b), 4) for b in laplace_betas()[[0, 499, 999]]]
    [0.0212, 0.0003, 0.8473]
    """
    u = np.arange(n + 1) / n
    level = -0.5 * np.copysign(1.0, 0.5 - u) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-6)
    abar = np.sqrt(np.exp(level) / (1 + np.exp(level)))
    return np.minimum(1 - abar[1:] / abar[:-1], largest)


def zero_snr(betas: np.ndarray) -> np.ndarray:
    """Rescale a table so that its last alpha is exactly 0 and its first is kept.

    sqrt(abar) -> (sqrt(abar) - sqrt(abar_N)) sqrt(abar_1) / (sqrt(abar_1) - sqrt(abar_N)).

    Lin et al. 2023, arXiv:2305.08891, algorithm 1.

    >>> float(zero_snr(linear_betas())[-1])
    1.0
    """
    root = np.sqrt(np.cumprod(1 - np.asarray(betas, dtype=np.float64)))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    return 1 - np.concatenate([abar[:1], abar[1:] / abar[:-1]])


def strided_betas(
    betas: Num[np.ndarray, " n"] | list[float], times: Num[np.ndarray, " k"] | list[int]
) -> np.ndarray:
    """The table of the chain that stops at `times` only: beta_i = 1 - abar(t_i)/abar(t_{i-1}).

    Entry i of it is entry times[i] of the table: `from_betas(strided_betas(betas, times))` has its
    marginals there, and its transitions and posteriors are those between them. A grid of those
    times does the same without a new table; this is for what wants one, such as a saved model.

    Args:
      betas: [n] numbers in [0, 1].
      times: [k] increasing whole numbers in 0 ... n - 1.

    Returns:
      [k] betas.

    Raises:
      ValueError: if the times do not increase or leave the table.

    Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (19).

    >>> [round(float(b), 4) for b in strided_betas([0.1, 0.2, 0.5], [0, 2])]
    [0.1, 0.6]
    """
    table, at = np.asarray(betas, dtype=np.float64), np.asarray(times)
    whole = at.ndim == 1 and len(at) > 0 and bool(np.all(at == np.round(at)))
    if not (whole and at[0] >= 0 and at[-1] < len(table) and bool(np.all(np.diff(at) > 0))):
        raise ValueError(f"times={at}: whole numbers that increase in 0 ... {len(table) - 1}")
    with np.errstate(divide="ignore"):
        logs = np.concatenate([[0.0], np.cumsum(np.log1p(-table))])[at.astype(int) + 1]
    return -np.expm1(np.diff(logs, prepend=0.0))
