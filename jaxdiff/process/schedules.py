"""The processes of the literature, each two functions of t and nothing else.

Every formula is arranged so that alpha and sigma keep 1e-6 relative accuracy in single precision
over the whole interval, ends included: sigma of a variance-preserving process is
sqrt(-expm1(2 log alpha)) and never sqrt(1 - alpha^2); cosines are written as the sine of the
distance from the zero.
"""

import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

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


def _cosine_from_both_ends(t: Array) -> Array:
    return jnp.where(t < jnp.pi / 4, jnp.cos(t), jnp.sin(jnp.pi / 2 - t))


def trig_flow(*, t_min: Scalar = 1e-3) -> Process:
    """TrigFlow: x_t = cos(t) x_0 + sin(t) eps, t in [0, pi/2]; the data should have unit variance.

    alpha(pi/2) is exactly 0 in floating point: near it the cosine is written as sin(pi/2 - t).

    Args:
      t_min: smallest time at which a network is asked.

    Lu & Song 2024, arXiv:2410.11081, section 3.1.

    >>> p = trig_flow()
    >>> float(p.alpha(p.t_max)), float(p.sigma(p.t_max))
    (0.0, 1.0)
    """
    return from_scales(Partial(_cosine_from_both_ends), Partial(jnp.sin), t_min, jnp.pi / 2)
