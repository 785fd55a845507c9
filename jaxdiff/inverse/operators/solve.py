"""What an operator does not say itself: adjoint, pseudo-inverse and gram solve, two ways.

From A alone: A^T is the transpose of the traced function, gram_solve conjugate gradient on
r2 A A^T + s2, and A^+ y conjugate gradient on A^T A x = A^T y, whose right-hand side is in the
range whatever y is. From a singular value decomposition A = U S V^T:

    A^+ = V S^+ U^T,    (r2 A A^T + s2)^-1 = U (r2 S^2 + s2)^-1 U^T + (I - U U^T) / s2.

Where r2 S^2 + s2 = 0 all solves give 0: the pseudo-inverse.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.operators.kernel import (
    Operator,
    Static,
    Svd,
    as_partial,
    normal_example,
    struct,
)
from jaxdiff.trees import combine, dots
from jaxdiff.types import PyTree

CG_STEPS = 50
"""Steps of conjugate gradient where an operator has no closed form."""


def _one(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _cg_of_one(matvec: Any, b: PyTree, steps: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], cg(jax.vmap(matvec), _one(b), steps=steps))


class _Transpose(Static):
    def __call__(self, A: Any, y: PyTree) -> PyTree:
        return jax.linear_transpose(A, struct(self.value))(y)[0]


class _GramByCG(Static):
    def __call__(self, A: Any, At: Any, r2: Any, s2: Any, v: PyTree) -> PyTree:
        return _cg_of_one(lambda u: combine((r2, A(At(u))), (s2, u)), v, self.value)


class _PinvByCG(Static):
    def __call__(self, A: Any, At: Any, y: PyTree) -> PyTree:
        return _cg_of_one(lambda x: At(A(x)), At(y), self.value)


def _pinv_by_gram(At: Any, gram_solve: Any, y: PyTree) -> PyTree:
    return At(gram_solve(1.0, 0.0, y))


def derived(
    A: Any,
    shape: Any,
    *,
    At: Any = None,
    gram_solve: Any = None,
    pinv: Any = None,
    steps: int = CG_STEPS,
) -> Operator:
    """An operator from A alone, without a look at whether it is linear.

    Raises:
      ValueError: if steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: conjugate gradient needs at least one step")
    A = as_partial(A)
    At = Partial(_Transpose(shape), A) if At is None else as_partial(At)
    if pinv is None:
        by_gram = gram_solve is not None
        pinv = Partial(_pinv_by_gram, At, as_partial(gram_solve)) if by_gram else None
    solve = Partial(_GramByCG(steps), A, At) if gram_solve is None else as_partial(gram_solve)
    inverse = Partial(_PinvByCG(steps), A, At) if pinv is None else as_partial(pinv)
    return Operator(A, At, inverse, solve, shape)


def over(numerator: Any, denominator: Any) -> Array:
    """A quotient that is 0 where the denominator is not positive, with finite derivatives."""
    known = denominator > 0
    return jnp.where(known, numerator / jnp.where(known, denominator, 1.0), 0.0)


def _svd_A(svd: Svd, x: PyTree) -> PyTree:
    return svd.u(svd.values * svd.vt(x))


def _svd_At(svd: Svd, y: PyTree) -> PyTree:
    return svd.v(svd.values * svd.ut(y))


def _svd_pinv(svd: Svd, y: PyTree) -> PyTree:
    return svd.v(over(svd.ut(y), svd.values))


class _SvdGram(Static):
    """`value` says whether U spans all measurements, so that nothing is outside."""

    def __call__(self, svd: Svd, r2: Any, s2: Any, v: Array) -> Array:
        within = svd.u(over(svd.ut(v), r2 * svd.values**2 + s2))
        if self.value:
            return within
        outside = v - svd.u(svd.ut(v))
        outside = outside - svd.u(svd.ut(outside))  # twice: 1 / s2 magnifies what is left
        return within + over(outside, s2)


def spectral(
    svd: Svd, shape: Any, *, A: Any = None, At: Any = None, onto: bool = False
) -> Operator:
    """An operator from its singular value decomposition, all in closed form.

    Args:
      svd: of one example.
      shape: that of x.
      A: a shorter way to A x.
      At: a shorter way to A^T y.
      onto: whether no value that U reaches is 0, so that A x takes every y.
    """
    A = Partial(_svd_A, svd) if A is None else as_partial(A)
    At = Partial(_svd_At, svd) if At is None else as_partial(At)
    return Operator(A, At, Partial(_svd_pinv, svd), Partial(_SvdGram(onto), svd), shape, svd)


def residual(operator: Operator, r2: Any, s2: Any, v: PyTree) -> Array:
    """|r2 A A^T u + s2 u - v| / |v| of u = gram_solve(r2, s2, v): how well the solve went.

    A pure function of one example: under `jit` and `vmap` it is a number to be looked at outside.

    >>> from jaxdiff.inverse import average_pool
    >>> float(residual(average_pool(2, (4, 4, 1)), 1.0, 0.0, jnp.ones((2, 2, 1))))
    0.0
    """
    u = operator.gram_solve(r2, s2, v)
    gap = combine((r2, operator.A(operator.At(u))), (s2, u), (-1.0, v))
    lost, whole = dots(_one(gap), _one(gap))[0], dots(_one(v), _one(v))[0]
    return jnp.sqrt(over(lost, whole))


def check_solve(
    operator: Operator, r2: Any, s2: Any, v: PyTree = None, *, tolerance: float = 1e-3
) -> Operator:
    """The operator itself, if its gram solve converges; call it once, outside of `jit`.

    Args:
      operator: whose `gram_solve` a guide is going to use.
      r2: variance of x_0 given x_t; 1 is that of the first steps, where the solve is hardest.
      s2: variance of the measurement noise.
      v: right-hand side; by default drawn from N(0, r2 A A^T + s2 I), the law that y - A x_0 has.
      tolerance: the largest relative residual that passes.

    Raises:
      ValueError: with the residual, if it is larger; or inside a trace, where it has no value.

    >>> from jaxdiff.inverse import matrix
    >>> check_solve(matrix(jnp.ones((1, 3))), 1.0, 0.01).shape
    (3,)
    """
    found = residual(operator, r2, s2, _likely(operator, r2, s2) if v is None else v)
    if isinstance(found, Tracer):
        raise ValueError("check_solve inside a trace: call it before, or return `residual`")
    if not float(found) <= tolerance:
        raise ValueError(
            f"gram_solve leaves a relative residual of {float(found):.2g} at r2={r2}, s2={s2} "
            f"(tolerance {tolerance:g}): conjugate gradient has not converged; give the operator "
            "more `steps`, assume a larger noise s, or take an operator with a closed form"
        )
    return operator


def _likely(operator: Operator, r2: Any, s2: Any) -> PyTree:
    y = operator.A(normal_example(jax.random.key(0), struct(operator.shape)))
    noise = normal_example(jax.random.key(1), y)
    return combine((jnp.sqrt(r2), y), (jnp.sqrt(s2), noise))
