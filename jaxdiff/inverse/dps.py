"""DPS: diffusion posterior sampling, as a rate and as published.

As a rate, it is the gradient of log N(y; A x_0(x_t), var I) through the network, a change of the
score that any solver may integrate and that does not depend on the number of steps. As published,
x_s is moved by zeta grad ||y - A x_0(x_t)|| after each step: the step size is per STEP, there is no
continuous limit, and the result depends on how many steps are taken.

While x_0 is uncertain, y - A x_0 varies by more than the noise: r^2 is added to the noise's own
variance. Another law than the Gaussian is taken to second order about clean = y, with slope l' and
curvature -f there, which for a Gaussian is exact, and smoothed by r^2:

    d log p / d clean = (l' + f (y - clean)) / (1 + r^2 f).

For Poisson noise that is (y - clean)/(y/rate + r^2), the paper's weights, and -rate where no count
was seen. A need not be linear: the cotangent is brought back by its vector-Jacobian product.

Chung et al. 2023, arXiv:2209.14687, algorithm 1 and sections 3.1 and 3.2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, pulled
from jaxdiff.inverse.descent import downhill, pull_back
from jaxdiff.inverse.doors import check_noise, check_positive
from jaxdiff.inverse.gaussian import misfit, per_sample
from jaxdiff.inverse.noises import Noise
from jaxdiff.inverse.operators import Measurement, check_measurement
from jaxdiff.inverse.ranges import correction_in_range, in_range
from jaxdiff.samplers import through
from jaxdiff.trees import combine, dots
from jaxdiff.types import At, Estimate, PyTree, Sampler, number


def _uncertain(v0: Any, at: At) -> Array:
    """r^2: what A x_0 varies by while x_0 is uncertain, for |A| about 1 and data N(0, v0 I)."""
    return v0 * at.sigma**2 / (v0 * at.alpha**2 + at.sigma**2)


def _inflated(noise: Any, v0: Any, at: At) -> Array:
    return noise**2 + _uncertain(v0, at)


def one_over(var: Any, at: At) -> Array:
    """1/var, and 0 where var = 0: without noise nothing is left to pull once sigma = 0."""
    var = value_at(var, at)
    return jnp.where(var > 0, 1 / jnp.where(var > 0, var, 1.0), 0.0)


def _rate(operator: Any, y: Any, var: Any, est: Estimate, at: At) -> PyTree:
    return combine((one_over(var, at), downhill(operator, y, est.x0)))


def _by_law(operator: Any, y: Any, noise: Any, r2: Any, est: Estimate, at: At) -> PyTree:
    check_measurement(operator, y, est.x0)
    clean = jax.vmap(operator.A)(est.x0)
    r2 = per_sample(value_at(r2, at), est.x0)
    return pull_back(operator, est.x0, jax.vmap(Partial(_smoothed, noise.log_prob))(y, clean, r2))


def _smoothed(law: Any, y: PyTree, clean: PyTree, r2: Array) -> PyTree:
    """The slope of one example's log-likelihood, second order about clean = y, smoothed by r^2."""
    slope = jax.grad(law, argnums=1)
    ones = jax.tree.map(jnp.ones_like, y)
    # an entry's likelihood is its own, so the Hessian is diagonal: its row sums are the diagonal
    first, second = jax.jvp(lambda c: slope(y, c), (y,), (ones,))

    def one(first: Array, second: Array, y: Array, clean: Array) -> Array:
        bend = jnp.maximum(-second, 0.0)
        return (first + bend * (y - clean)) / (1 + r2 * bend)

    return jax.tree.map(one, first, second, y, clean)


def dps(
    operator: Measurement,
    y: PyTree,
    *,
    noise: float | Array | Noise,
    var: Number | None = None,
    r2: Number | None = None,
) -> Guide:
    """DPS as a rate: x_0' = x_0 + (sigma^2/alpha) J^T A^T (y - A x_0) / var.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      noise: s, standard deviation of the measurement noise, or a `Noise` whose `log_prob` acts
        entry by entry (Poisson, speckle, ...).
      var: variance of y - A x_0, a number, [b], or At -> scalar; by default s^2 + r^2. s^2 alone
        makes the gradient so stiff that explicit solvers diverge. With a `Noise` give r2 instead.
      r2: variance of A x_0 while x_0 is uncertain, by default sigma^2/(alpha^2 + sigma^2).

    Raises:
      ValueError: if noise < 0, var <= 0, both var and r2 are given, var is given with a `Noise`,
        or y or x do not have the shapes that the operator says.

    Chung et al. 2023, arXiv:2209.14687, eq. (15)-(16).
    """
    if var is not None and (isinstance(noise, Noise) or r2 is not None):
        raise ValueError("var is the whole variance of y - A x_0: without it give r2 alone")
    if isinstance(noise, Noise):
        spread = Partial(_uncertain, number(1.0)) if r2 is None else numeric(r2)
        return pulled(Partial(_by_law, operator, y, noise, spread))
    check_noise(noise)
    if var is not None:
        check_positive("var", var)
        spread = numeric(var)
    elif r2 is not None:
        spread = Partial(_sum_of, number(noise), numeric(r2))
    else:
        spread = Partial(_inflated, number(noise), number(1.0))
    return in_range(pulled(Partial(_rate, operator, y, spread)), operator, y, noise)


def _sum_of(noise: Any, r2: Any, at: At) -> Array:
    return noise**2 + value_at(r2, at)


def dps_published(
    operator: Measurement, y: PyTree, *, zeta: float | Array
) -> Callable[[Sampler], Sampler]:
    """DPS as published: after each step, x_s -= zeta grad_{x_t} ||y - A x_0(x_t)||, per sample.

    A correction: it wraps a sampler. The result depends on the number of steps.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      zeta: step size per step.

    Raises:
      ValueError: if y or x do not have the shapes that the operator says, or y is quite outside
        what it makes of the denoiser's value range.

    Chung et al. 2023, arXiv:2209.14687, algorithm 1 (lines 7-8), with the norm taken per sample.
    """

    def norm(x0: PyTree) -> Array:
        residual = misfit(operator, y, x0)
        return jnp.sqrt(dots(residual, residual) + 1e-20)  # a derivative at 0 as well

    return correction_in_range(through(norm, zeta), operator, y)


def dps_poisson(
    operator: Measurement,
    y: PyTree,
    *,
    zeta: float | Array,
    low: float | Array = 0.0,
    floor: float | Array = 1e-2,
) -> Callable[[Sampler], Sampler]:
    """DPS as published for Poisson noise: x_s -= zeta grad ||y - A x_0(x_t)||_L, per sample.

    The norm is weighted by L_jj = 1/(2 (y_j - low)), the inverse variances up to a constant.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      zeta: step size per step.
      low: the value of no light in y: 0, or -1 for images in [-1, 1].
      floor: > 0, the least y - low that is divided by.

    Raises:
      ValueError: if floor <= 0.

    Chung et al. 2023, arXiv:2209.14687, section 3.2, with the norm taken per sample.
    """
    check_positive("floor", floor)
    light = jax.tree.map(lambda leaf: jnp.maximum(leaf - number(low), number(floor)), y)

    def norm(x0: PyTree) -> Array:
        residual = misfit(operator, y, x0)
        weighted = jax.tree.map(lambda r, w: r / (2 * w), residual, light)
        return jnp.sqrt(dots(residual, weighted) + 1e-20)  # a derivative at 0 as well

    return correction_in_range(through(norm, zeta), operator, y)
