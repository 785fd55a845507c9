"""Towards agreement with a measurement: the gradient of the squared misfit, and steps along it.

    -grad ||y - A(x)||^2 / 2 = A'(x)^T (y - A(x)),

without the network. A linear operator can do better than steps of a given size: K steps of
conjugate gradient on A^T A delta = A^T (y - A x), which change x in the range of A^T alone.
"""

from typing import Any

import jax

from jaxdiff.canonical import scan
from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.doors import check_positive, check_steps
from jaxdiff.inverse.gaussian import misfit
from jaxdiff.inverse.operators import Measurement, Nonlinear, Operator
from jaxdiff.trees import combine
from jaxdiff.types import PyTree, number


def pull_back(operator: Measurement, x: PyTree, cotangent: PyTree) -> PyTree:
    """A'(x)^T of a cotangent at A(x), over a batch."""
    if isinstance(operator, Operator):
        return jax.vmap(operator.At)(cotangent)
    return jax.vjp(jax.vmap(operator.A), x)[1](cotangent)[0]


def downhill(operator: Measurement, y: PyTree, x: PyTree) -> PyTree:
    """A'(x)^T (y - A(x)) over a batch."""
    return pull_back(operator, x, misfit(operator, y, x))


def fitted(operator: Any, y: PyTree, x: PyTree, steps: int, rate: Any) -> PyTree:
    """x moved towards A(x) = y: `steps` gradient steps of size `rate`, or, if None, of CG."""
    if rate is None:
        back = lambda v: jax.vmap(operator.At)(jax.vmap(operator.A)(v))  # noqa: E731
        return combine((1.0, x), (1.0, cg(back, downhill(operator, y, x), steps=steps)))

    def step(x: PyTree, _: None) -> tuple[PyTree, None]:
        return combine((1.0, x), (number(rate), downhill(operator, y, x))), None

    return scan(step, x, length=steps)[0]


def check_fit(operator: Any, steps: int, rate: Any) -> None:
    """Refuse steps < 1, a rate <= 0, and conjugate gradient on what is not linear.

    Raises:
      ValueError: naming the argument.
    """
    check_steps(steps)
    if rate is not None:
        check_positive("rate", rate)
    elif isinstance(operator, Nonlinear):
        raise ValueError("conjugate gradient needs a linear operator: give a rate for this one")
