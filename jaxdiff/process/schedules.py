"""The processes of the literature, each two functions of t and nothing else.

Every formula is arranged so that alpha and sigma keep 1e-6 relative accuracy in single precision
over the whole interval, ends included: sigma of a variance-preserving process is
sqrt(-expm1(2 log alpha)) and never sqrt(1 - alpha^2); cosines are written as the sine of the
distance from the zero.
"""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, Num

from jaxdiff.process.gaussian import Process, from_scales
from jaxdiff.types import Scalar, number


def _vp_log_alpha(beta_min: Array, beta_max: Array, t: Array) -> Array:
    return -0.25 * t**2 * (beta_max - beta_min) - 0.5 * t * beta_min


def _vp_alpha(beta_min: Array, beta_max: Array, t: Array) -> Array:
    return jnp.exp(_vp_log_alpha(beta_min, beta_max, t))


def _vp_sigma(beta_min: Array, beta_max: Array, t: Array) -> Array:
    return jnp.sqrt(-jnp.expm1(2 * _vp_log_alpha(beta_min, beta_max, t)))


def _sub_vp_sigma(beta_min: Array, beta_max: Array, t: Array) -> Array:
    return -jnp.expm1(2 * _vp_log_alpha(beta_min, beta_max, t))


def vp_linear(beta_min: Scalar = 0.1, beta_max: Scalar = 20.0, *, t_min: Scalar = 1e-3) -> Process:
    """Variance preserving, beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    log alpha = -t^2 (beta_max - beta_min)/4 - t beta_min/2, sigma^2 = 1 - alpha^2.

    Args:
      beta_min: beta(0), positive.
      beta_max: beta(1).
      t_min: smallest time at which a network is asked.

    Song et al. 2021, arXiv:2011.13456, eq. (32)-(33).

    >>> p = vp_linear()
    >>> round(float(p.alpha(p.t_max)), 6)
    0.006572
    """
    beta = number(beta_min), number(beta_max)
    return from_scales(Partial(_vp_alpha, *beta), Partial(_vp_sigma, *beta), t_min, 1.0)


def sub_vp(beta_min: Scalar = 0.1, beta_max: Scalar = 20.0, *, t_min: Scalar = 1e-3) -> Process:
    """Sub-VP: alpha as in `vp_linear`, sigma = 1 - alpha^2 (as -expm1(2 log alpha)).

    Song et al. 2021, arXiv:2011.13456, eq. (29)-(30) of the appendix.
    """
    beta = number(beta_min), number(beta_max)
    return from_scales(Partial(_vp_alpha, *beta), Partial(_sub_vp_sigma, *beta), t_min, 1.0)


def _cosine_alpha(s: Array, t: Array) -> Array:
    quarter = jnp.pi / 2 / (1 + s)
    return jnp.sin((1 - t) * quarter) / jnp.sin(quarter)


def _cosine_sigma(s: Array, t: Array) -> Array:
    quarter = jnp.pi / 2 / (1 + s)
    # sin^2(theta) - sin^2(theta_0) = sin(theta - theta_0) sin(theta + theta_0)
    return jnp.sqrt(jnp.sin(t * quarter) * jnp.sin((t + 2 * s) * quarter)) / jnp.sin(quarter)


def vp_cosine(s: Scalar = 0.008, *, t_min: Scalar = 1e-3) -> Process:
    """Variance preserving, alpha(t) = cos((t+s)/(1+s) pi/2) / cos(s/(1+s) pi/2), t in [0, 1].

    alpha(1) is exactly 0: predictions of eps and of the score are refused there.

    Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (17).

    >>> p = vp_cosine()
    >>> float(p.alpha(p.t_max)), float(p.sigma(p.t_max))
    (0.0, 1.0)
    """
    shift = number(s)
    return from_scales(Partial(_cosine_alpha, shift), Partial(_cosine_sigma, shift), t_min, 1.0)


def _one(t: Array) -> Array:
    return jnp.ones_like(t)


def _geometric(sigma_min: Array, sigma_max: Array, t: Array) -> Array:
    sigma = sigma_min * jnp.exp(t * jnp.log(sigma_max / sigma_min))
    return jnp.where(t <= -1, 0.0, sigma)


def ve(sigma_min: Scalar = 0.01, sigma_max: Scalar = 50.0) -> Process:
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t, t in [0, 1].

    Clean data sits at t = -1, where sigma is defined as 0.

    Song et al. 2021, arXiv:2011.13456, eq. (30)-(31).

    >>> round(float(ve().sigma(jnp.float32(0.5))), 4)
    0.7071
    """
    _check_order("ve", sigma_min, sigma_max)
    sigma = Partial(_geometric, number(sigma_min), number(sigma_max))
    return from_scales(Partial(_one), sigma, 0.0, 1.0, -1.0)


def _check_order(name: str, low: Scalar, high: Scalar) -> None:
    traced = isinstance(low, Tracer) or isinstance(high, Tracer)
    if not traced and not 0 < float(low) < float(high):
        raise ValueError(
            f"{name}: sigma_min={low}, sigma_max={high}: 0 < sigma_min < sigma_max is needed"
        )


def _identity(t: Array) -> Array:
    return t


def edm(sigma_min: Scalar = 0.002, sigma_max: Scalar = 80.0) -> Process:
    """EDM: alpha = 1, sigma = t, t in [sigma_min, sigma_max].

    Karras et al. 2022, arXiv:2206.00364, table 1.

    >>> float(edm().sigma(jnp.float32(80.0)))
    80.0
    """
    _check_order("edm", sigma_min, sigma_max)
    return from_scales(Partial(_one), Partial(_identity), sigma_min, sigma_max)


def _one_minus(t: Array) -> Array:
    return 1 - t


def rectified_flow(*, t_min: Scalar = 0.0) -> Process:
    """Rectified flow: x_t = (1 - t) x_0 + t eps, t in [0, 1] (t = 1 is noise).

    Liu et al. 2022, arXiv:2209.03003, eq. (1); Lipman et al. 2023, arXiv:2210.02747, eq. (22).

    >>> p = rectified_flow()
    >>> float(p.alpha(p.t_max)), float(p.sigma(p.t_max))
    (0.0, 1.0)
    """
    return from_scales(Partial(_one_minus), Partial(_identity), t_min, 1.0)


def _interpolate(angles: Array, t: Array) -> Array:
    """Sine of angles tabulated at t = -1, 0, ..., N - 1, linear in between."""
    last = angles.shape[0] - 2
    floor = jnp.clip(jnp.floor(t), -1, last - 1)
    low = (floor + 1).astype(int)
    weight = t - floor
    return jnp.sin(angles[low] * (1 - weight) + angles[low + 1] * weight)


def _check_betas(table: np.ndarray) -> None:
    if table.ndim != 1 or len(table) < 2:
        raise ValueError(f"betas of shape {table.shape}: a vector of at least two is needed")
    bad = ~((table >= 0) & (table <= 1))
    if bad.any():
        where = int(bad.argmax())
        raise ValueError(f"betas[{where}] = {table[where]}: every beta lies in [0, 1]")


def from_betas(betas: Num[np.ndarray, " n"] | Float[Array, " n"] | list[float]) -> Process:
    """A table beta_0 ... beta_{N-1} as a process with t in [0, N-1].

    alpha_t^2 = prod_{j<=t} (1 - beta_j); between the integers the angle atan2(sigma, alpha) is
    interpolated. Clean data sits at t = -1. A table with zero terminal SNR (its last beta is 1)
    has alpha exactly 0 at t = N - 1.

    Args:
      betas: [n] numbers in [0, 1], concrete (not traced): the products are taken in float64.

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
    return from_scales(
        Partial(_interpolate, number(signal)),
        Partial(_interpolate, number(noise)),
        0.0,
        len(table) - 1.0,
        -1.0,
    )


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
