"""STSL: what the posterior's spread adds to the expected misfit, to second order.

With p(x_0 | x_t) of mean x_0 and covariance C = (sigma^2/alpha) J (Tweedie's second moment),

    E[||y - A x_0||^2 | x_t] = ||y - A x_0||^2 + Tr(A C A^T),

and DPS keeps the first term only. The gradient of both bounds that of log p(y | x_t) by Jensen's
inequality. The trace is estimated by one probe a step, u = A^T n with n standard normal,

    Tr(A C A^T) = E[u^T C u],    C u = (sigma^2/alpha) d x_0/d x_t u, one forward derivative,

so that a step costs a forward pass with its derivative, and one backward pass through both.

Rout et al. 2023, arXiv:2312.00852, section 3; there the trace is that of the Hessian of log p(x_t),
taken by a finite difference, and the step size is free.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Number, numeric, value_at
from jaxdiff.guidance import Guide, tweedie_gain
from jaxdiff.inverse.doors import check_linear, check_noise
from jaxdiff.inverse.dps import _inflated
from jaxdiff.inverse.gaussian import misfit
from jaxdiff.inverse.operators import Measurement, check_measurement
from jaxdiff.process import scales
from jaxdiff.trees import combine, dots, fold, normal
from jaxdiff.types import GUIDE, At, Estimate, PyTree, number


def _no_vjp(cotangent: PyTree) -> PyTree:
    raise TypeError("at.vjp is not to be had in a number of this guide")


def _stsl(
    fn: Any, operator: Any, y: Any, var: Any, process: Any, x: PyTree, t: Any, now: Any
) -> Estimate:
    check_measurement(operator, y, x)
    at = At(x, t, *scales(process, t), _no_vjp, now)
    gain = tweedie_gain(at)
    probe = jax.vmap(operator.At)(normal(fold(fold(now.key, GUIDE), 1), y))

    def ahead(x: PyTree) -> tuple[PyTree, Estimate]:
        est = fn(x, t, now)
        return est.x0, est

    def cost(x: PyTree) -> tuple[Array, Estimate]:
        x0, along, est = jax.jvp(ahead, (x,), (probe,), has_aux=True)
        residual = misfit(operator, y, x0)
        spread = gain * dots(probe, along)
        return jnp.sum((dots(residual, residual) + spread) / (2 * value_at(var, at))), est

    slope, est = jax.grad(cost, has_aux=True)(x)
    return est._replace(x0=combine((1.0, est.x0), (-gain, slope)), var=None)


def stsl(
    operator: Measurement, y: PyTree, *, noise: float | Array, var: Number | None = None
) -> Guide:
    """DPS with the second-order term: x_0' = x_0 - (sigma^2/alpha) grad_x E||y - A x_0||^2/(2 var).

    It draws one probe a step, so it needs a loop over steps.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s >= 0.
      var: as in `dps`.

    Raises:
      ValueError: if the operator is not linear, noise < 0, or y or x do not have the shapes that
        the operator says.

    Rout et al. 2023, arXiv:2312.00852, section 3.
    """
    check_linear(operator, "stsl", "dps")
    check_noise(noise)
    spread = Partial(_inflated, number(noise), number(1.0)) if var is None else numeric(var)

    def guide(denoise: Denoiser) -> Denoiser:
        fn = Partial(_stsl, denoise.fn, operator, y, spread, denoise.process)
        return Denoiser(denoise.process, fn, denoise.memory, denoise.span)

    return guide
