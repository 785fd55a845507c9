"""DPM-Solver and DPM-Solver++, multistep, deterministic or not: one evaluation a step.

With l = log(alpha/sigma), h = l_s - l_t, k = (1 + eta) h, and D(l) the estimates of x_0,

    x_s = (sigma_s/sigma_t) e^(-eta h) x_t + alpha_s int_0^k e^(u-k) D du
          + sigma_s sqrt(1 - e^(-2 eta h)) z.

D is continued through the last two or three estimates, as phi_1 D + phi_2 slope - phi_3 bend:

    phi_1 = 1 - e^-k,   phi_2 = 1 - phi_1/k,   phi_3 = 2 phi_2/k - 1.

The first step, and the last one to sigma = 0 (where h is infinite), take D constant. DPM-Solver
does the same with eps and the growing weights e^(h-u); see `multistep` for both.

Lu et al. 2022, arXiv:2206.00927, and arXiv:2211.01095, algorithm 2 and appendix B.
"""

from jaxtyping import Array

from jaxdiff.samplers import exponential
from jaxdiff.samplers.multistep import Method, multistep, rate
from jaxdiff.types import Sampler, Scalar


def dpmpp_2m(
    eta: float | Array = 0.0,
    *,
    midpoint: bool = True,
    taper: Scalar = 0,
    euler_final: bool = False,
) -> Sampler:
    """DPM-Solver++ (2M); with eta = 1 SDE-DPM-Solver++ (2M), known as DPM++ 2M SDE.

    Args:
      eta: >= 0; a Python 0 draws no noise at all, 1 is the reverse SDE.
      midpoint: weigh the slope of D by phi_1/2, as published; else by its integral phi_2 ("heun").
      taper: with fewer steps than this (the authors: 15) the last one is of order 1.
      euler_final: the last step is of order 1, however many there are.

    Raises:
      ValueError: if eta is negative.

    Lu et al. 2022, arXiv:2211.01095, algorithm 2 and eq. (18).

    >>> import jax.numpy as jnp
    >>> dpmpp_2m().init(jnp.zeros((2, 3))).hist.past.known.tolist()
    [0, 0]
    """
    slope = exponential.midpoint if midpoint else None
    return multistep(Method(2, slope=slope, taper=taper, euler_final=euler_final), rate(eta, "eta"))


def dpmpp_3m(
    eta: float | Array = 0.0,
    *,
    published: bool = False,
    midpoint: bool = False,
    taper: Scalar = 0,
    euler_final: bool = False,
) -> Sampler:
    """DPM-Solver++ (3M); with eta = 1 known as DPM++ 3M SDE.

    Args:
      eta: >= 0; a Python 0 draws no noise at all, 1 is the reverse SDE.
      published: weigh the bend of D as the authors' code, diffusers and k-diffusion do, by half of
        its integral: their numbers, at second order. By default the whole: third order.
      midpoint: weigh the slope in the second step by phi_1/2, as diffusers does; else by phi_2.
      taper: with fewer steps than this (the authors: 15) the last two are of order 2 and 1.
      euler_final: the last step is of order 1, however many there are.

    Raises:
      ValueError: if eta is negative.

    Lu et al. 2022, arXiv:2211.01095, appendix B; as a stochastic sampler by K. Crowson.

    >>> import jax.numpy as jnp
    >>> len(dpmpp_3m().init(jnp.zeros((2, 3))).hist.past.values)
    2
    """
    method = Method(
        3,
        slope=exponential.midpoint if midpoint else None,
        bend=0.5 if published else 1.0,
        taper=taper,
        euler_final=euler_final,
    )
    return multistep(method, rate(eta, "eta"))


def dpm_solver_m(
    order: int = 2,
    eta: float | Array = 0.0,
    *,
    midpoint: bool = True,
    published: bool = False,
    taper: Scalar = 0,
    euler_final: bool = False,
) -> Sampler:
    """DPM-Solver multistep, of order 1 to 3: eps continued; with eta = 1 SDE-DPM-Solver.

    x_s = (alpha_s/alpha_t) x_t - (1 + eta) sigma_s int_0^h e^(h-u) eps du
          + sqrt(eta) sigma_s sqrt(e^(2h) - 1) z.

    Args:
      order: values of eps, 1 (DDIM), 2 or 3.
      eta: >= 0; a Python 0 draws no noise at all, 1 is the reverse SDE. The noise that a step
        adds exceeds sigma_s and has to be taken away by the next: prefer `dpmpp_2m` for eta > 0.
      midpoint: weigh the slope, where two values are used, by half of the weight of eps; else by
        its integral ("heun").
      published: weigh the bend by half of its integral, as diffusers does: second order.
      taper: with fewer steps than this (the authors: 15) the last ones are of order ..., 2, 1.
      euler_final: the last step is of order 1, however many there are.

    Raises:
      ValueError: if order is not 1, 2 or 3, or eta is negative.

    Lu et al. 2022, arXiv:2206.00927, on the last values in the place of stages; as an SDE:
    arXiv:2211.01095.

    >>> import jax.numpy as jnp
    >>> dpm_solver_m(3).init(jnp.zeros((2, 3))).hist.past.known.tolist()
    [0, 0]
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order}: give one of (1, 2, 3)")
    method = Method(
        order,
        slope=exponential.midpoint if midpoint else None,
        bend=0.5 if published else 1.0,
        by_noise=True,
        taper=taper,
        euler_final=euler_final,
    )
    return multistep(method, rate(eta, "eta"))
