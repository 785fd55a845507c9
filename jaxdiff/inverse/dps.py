"""DPS: diffusion posterior sampling, as a rate and as published.

As a rate, it is the gradient of log N(y; A x_0(x_t), var I) through the network, a change of the
score that any solver may integrate and that does not depend on the number of steps. As published,
x_s is moved by zeta grad ||y - A x_0(x_t)|| after each step: the step size is per STEP, there is no
continuous limit, and the result depends on how many steps are taken.

Chung et al. 2023, arXiv:2209.14687, algorithm 1 and section 3.1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, pulled
from jaxdiff.inverse.gaussian import _check_noise, misfit
from jaxdiff.inverse.operators import Operator
from jaxdiff.samplers import through
from jaxdiff.trees import combine, dots
from jaxdiff.types import At, Estimate, PyTree, Sampler, number


def _inflated(noise: Any, v0: Any, at: At) -> Array:
    """s^2 + r^2: what y - A x_0 varies by while x_0 is uncertain, for |A| about 1."""
    return noise**2 + v0 * at.sigma**2 / (v0 * at.alpha**2 + at.sigma**2)


def _rate(operator: Any, y: Any, var: Any, est: Estimate, at: At) -> PyTree:
    back = jax.vmap(operator.At)(misfit(operator, y, est.x0))
    return combine((1 / value_at(var, at), back))


def dps(operator: Operator, y: PyTree, *, noise: float | Array, var: Number | None = None) -> Guide:
    """DPS as a rate: x_0' = x_0 + (sigma^2/alpha) J^T A^T (y - A x_0) / var.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s, standard deviation of the measurement noise.
      var: variance of y - A x_0; by default s^2 + r^2 with r^2 = sigma^2/(alpha^2 + sigma^2). s^2
        alone makes the gradient so stiff that explicit solvers diverge.

    Raises:
      ValueError: if y or x do not have the shapes that the operator says.

    Chung et al. 2023, arXiv:2209.14687, eq. (15)-(16).
    """
    _check_noise(noise)
    chosen = Partial(_inflated, number(noise), number(1.0)) if var is None else numeric(var)
    return pulled(Partial(_rate, operator, y, chosen))


def dps_published(
    operator: Operator, y: PyTree, *, zeta: float | Array
) -> Callable[[Sampler], Sampler]:
    """DPS as published: after each step, x_s -= zeta grad_{x_t} ||y - A x_0(x_t)||, per sample.

    A correction: it wraps a sampler. The result depends on the number of steps.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      zeta: step size per step.

    Chung et al. 2023, arXiv:2209.14687, algorithm 1 (lines 7-8), with the norm taken per sample.
    """

    def norm(x0: PyTree) -> Array:
        residual = misfit(operator, y, x0)
        return jnp.sqrt(dots(residual, residual) + 1e-20)  # a derivative at 0 as well

    return through(norm, zeta)
