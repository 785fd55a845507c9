"""UniPC, DEIS and SA-Solver: exponential multistep methods that correct, or continue the noise.

All are `multistep` methods. UniPC corrects every step with the value at its end, of an order more
than its predictor; SA-Solver is the same method for the reverse SDE with rate tau; DEIS continues
eps over log(sigma/alpha) and does not correct.

Zhao et al. 2023, arXiv:2302.04867; Zhang and Chen 2022, arXiv:2204.13902; Xue et al. 2023,
arXiv:2309.05019.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from jaxdiff.samplers.exponential import even, midpoint
from jaxdiff.samplers.multistep import Method, multistep, rate
from jaxdiff.types import Sampler, Scalar

ALWAYS = float("inf")


def unipc(
    order: int = 2,
    *,
    bh1: bool = False,
    corrector: bool = True,
    by_noise: bool = False,
    taper: Scalar = ALWAYS,
) -> Sampler:
    """UniPC of order 1 to 3: UniP predicts, UniC corrects with the value at the predicted point.

    x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^-h) D_0 + alpha_s B(h) sum_m (a_m/r_m) (D_m - D_0)

    with one evaluation a step. Corrected, the order of accuracy is one more.

    Args:
      order: values the predictor takes, 1, 2 or 3; the corrector takes one more. The first steps
        take what there is.
      bh1: B(h) = h; else B(h) = e^h - 1. They differ where two values are used, not elsewhere.
      corrector: False leaves UniP alone.
      by_noise: continue eps in the place of x_0.
      taper: with fewer steps than this, the last ones are of order ..., 2, 1; 0 never does so.

    Raises:
      ValueError: if order is not 1, 2 or 3.

    Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2, for x_0 by default.

    >>> import jax.numpy as jnp
    >>> unipc(3).init(jnp.zeros((2, 3))).hist.past.known.tolist()
    [0, 0]
    """
    _check("order", order, (1, 2, 3))
    method = Method(
        predictor=order,
        corrector=order + 1 if corrector else 0,
        slope=even if bh1 else midpoint,
        by_noise=by_noise,
        taper=taper,
    )
    return multistep(method)


def deis(order: int = 3, *, taper: Scalar = 15) -> Sampler:
    """DEIS (log-rho): eps continued as a polynomial in log(sigma/alpha), then integrated exactly.

    x_s/alpha_s = x_t/alpha_t + int_{r_t}^{r_s} P(log r) dr,   r = sigma/alpha, P(log r_j) = eps_j.

    Args:
      order: values of eps, 1 (DDIM), 2 or 3.
      taper: with fewer steps than this, the last ones are of order ..., 2, 1; 0 never does so.

    Raises:
      ValueError: if order is not 1, 2 or 3.

    Zhang and Chen 2022, arXiv:2204.13902, the exponential Adams method in log rho.

    >>> import jax.numpy as jnp
    >>> len(deis(3).init(jnp.zeros((2, 3))).hist.past.values)
    2
    """
    _check("order", order, (1, 2, 3))
    return multistep(Method(predictor=order, by_noise=True, taper=taper))


def sa_solver(
    tau: Scalar | Callable[[Array], Any] = 1.0,
    *,
    predictor: int = 2,
    corrector: int = 2,
    taper: Scalar = ALWAYS,
) -> Sampler:
    """SA-Solver: stochastic Adams steps of the SDE between the flow (tau = 0) and beyond.

    x_s = (sigma_s/sigma_t) e^(-tau^2 h) x_t + alpha_s int_0^k e^(u-k) D du
          + sigma_s sqrt(1 - e^(-2 tau^2 h)) z,   k = (1 + tau^2) h,

    and again with the value at the predicted point and the same z. One evaluation a step.

    Args:
      tau: >= 0, the rate of the noise: 1 is the reverse SDE, a Python 0 draws none at all. Or a
        function of sigma/alpha at the start of a step, for noise at some levels only.
      predictor: values the predictor takes, 1 to 3.
      corrector: values the corrector takes, the new one included, 1 to 4; 0 does not correct.
      taper: with fewer steps than this, the last ones are of order ..., 2, 1; 0 never does so.

    Raises:
      ValueError: if tau is negative, or one of the orders is not offered.

    Xue et al. 2023, arXiv:2309.05019; with two values the slope is weighed by k/2, as in
    the authors' code and UniPC's bh1.

    >>> import jax.numpy as jnp
    >>> sa_solver(lambda ratio: jnp.where(ratio > 1, 1.0, 0.0)).init(jnp.zeros((2, 3))).x.shape
    (2, 3)
    """
    _check("predictor", predictor, (1, 2, 3))
    _check("corrector", corrector, (0, 1, 2, 3, 4))
    method = Method(predictor=predictor, corrector=corrector, slope=even, taper=taper)
    return multistep(method, rate(tau, "tau", power=2))


def _check(name: str, order: int, offered: tuple[int, ...]) -> None:
    if order not in offered:
        raise ValueError(f"{name}={order}: give one of {offered}")
