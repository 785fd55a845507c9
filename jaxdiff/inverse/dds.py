"""DDS: a proximal step towards the measurement, by a few steps of conjugate gradient.

    x_0' = argmin_x gamma ||y - A x||^2 / 2 + ||x - x_0||^2 / 2,
    (I + gamma A^T A) (x_0' - x_0) = gamma A^T (y - A x_0).

A few steps stay in the Krylov space of A^T (y - A x_0), which the paper shows to be tangent to the
data's; more steps come to the minimum.

Chung et al. 2023, arXiv:2303.05754, section 3.
"""

from typing import Any

import jax
from jax.tree_util import Partial

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, edited
from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.descent import downhill
from jaxdiff.inverse.doors import check_linear, check_positive, check_steps
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import in_range
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, PyTree


class _Dds:
    """The edit of DDS with a static number of steps; equal by it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Dds) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash((_Dds, self.steps))

    def __call__(self, operator: Any, y: Any, gamma: Any, est: Estimate, at: At) -> PyTree:
        gamma = value_at(gamma, at)

        def seen(v: PyTree) -> PyTree:
            back = jax.vmap(operator.At)(jax.vmap(operator.A)(v))
            return combine((1.0, v), (gamma, back))

        right = combine((gamma, downhill(operator, y, est.x0)))
        return combine((1.0, est.x0), (1.0, cg(seen, right, steps=self.steps)))


def dds(operator: Measurement, y: PyTree, *, gamma: Number, steps: int = 5) -> Guide:
    """DDS: x_0' = argmin gamma ||y - A x||^2/2 + ||x - x_0||^2/2, by conjugate gradient.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      gamma: weight of the measurement > 0, a number, [b], or At -> scalar.
      steps: of conjugate gradient, static.

    Raises:
      ValueError: if the operator is not linear, gamma <= 0, steps < 1, or y or x do not have the
        shapes that the operator says.

    Chung et al. 2023, arXiv:2303.05754, section 3.
    """
    check_linear(operator, "dds", "hard_consistency with a rate")
    check_positive("gamma", gamma)
    check_steps(steps)
    edit = Partial(_Dds(steps), operator, y, numeric(gamma))
    return in_range(edited(edit), operator, y)
