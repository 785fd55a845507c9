"""DDNM: the range of x_0 is taken from the measurement, its null space from the network.

    x_0' = x_0 + A^+ (y - A x_0).

With noise the correction is weakened to what the step can absorb: with a gram solve in place of the
pseudo-inverse, x_0' = x_0 + r^2 A^T (r^2 A A^T + s^2 I)^-1 (y - A x_0), r^2 as in PiGDM.

Wang et al. 2023, arXiv:2212.00490, eq. (7) and section 3.3.
"""

from typing import Any

import jax
from jax.tree_util import Partial

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, edited
from jaxdiff.inverse.doors import check_linear, check_noise
from jaxdiff.inverse.gaussian import misfit, per_sample
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import in_range
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, PyTree


def _range_null(operator: Any, y: Any, est: Estimate, at: At) -> PyTree:
    back = jax.vmap(operator.pinv)(misfit(operator, y, est.x0))
    return combine((1.0, est.x0), (1.0, back))


def _absorbed(operator: Any, y: Any, noise: Any, v0: Any, est: Estimate, at: At) -> PyTree:
    v0, s = value_at(v0, at), value_at(noise, at)
    r2 = per_sample(v0 * at.sigma**2 / (v0 * at.alpha**2 + at.sigma**2), est.x0)
    residual = misfit(operator, y, est.x0)
    solved = jax.vmap(operator.gram_solve)(r2, per_sample(s**2, est.x0), residual)
    return combine((1.0, est.x0), (r2, jax.vmap(operator.At)(solved)))


def ddnm(operator: Measurement, y: PyTree, *, noise: Number = 0.0, v0: Number = 1.0) -> Guide:
    """DDNM: no network Jacobian, one evaluation a step.

    Without noise x_0' = x_0 + A^+ (y - A x_0); with it the gram solve takes the place of A^+.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s >= 0; a Python 0 takes the pseudo-inverse.
      v0: variance of the data, for r^2 (used with noise only).

    Raises:
      ValueError: if the operator is not linear, noise < 0, or y or x do not have the shapes that
        the operator says.

    Wang et al. 2023, arXiv:2212.00490, algorithm 1.
    """
    check_linear(operator, "ddnm", "hard_consistency")
    check_noise(noise)
    if isinstance(noise, int | float) and noise == 0:
        return in_range(edited(Partial(_range_null, operator, y)), operator, y)
    edit = Partial(_absorbed, operator, y, numeric(noise), numeric(v0))
    return in_range(edited(edit), operator, y, noise)
