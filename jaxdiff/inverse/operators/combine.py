"""Measurements put together: side by side, (A_1 x, A_2 x, ...), or one after another, A_2 A_1 x.

Linear ones give a linear operator, by conjugate gradient; with one that is not linear the whole is
not. An encoder or decoder is a `Nonlinear` too, so that `compose(operator, decoder)` measures
latents.
"""

from typing import Any, overload

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.inverse.operators.kernel import Measurement, Nonlinear, Operator, struct
from jaxdiff.inverse.operators.solve import CG_STEPS, derived
from jaxdiff.trees import combine
from jaxdiff.types import PyTree


def _all(parts: Any, x: PyTree) -> PyTree:
    return tuple(A(x) for A in parts)


def _sum(parts: Any, y: PyTree) -> PyTree:
    return combine(*[(1.0, At(one)) for At, one in zip(parts, y, strict=True)])


@overload
def stack(*operators: Operator, steps: int = CG_STEPS) -> Operator: ...
@overload
def stack(*operators: Measurement, steps: int = CG_STEPS) -> Measurement: ...
def stack(*operators: Measurement, steps: int = CG_STEPS) -> Measurement:
    """Several measurements of one x as one operator: y = (A_1 x, A_2 x, ...).

    Right and one pass: what several measurements should be combined by.

    Args:
      operators: of one shape of x; with a `Nonlinear` among them the stack is a `Nonlinear`.
      steps: of conjugate gradient in `gram_solve` and `pinv`, static.

    Raises:
      ValueError: if none is given, or their shapes differ.

    >>> from jaxdiff.inverse import average_pool, inpainting
    >>> op = stack(average_pool(2, (2, 2, 1)), inpainting(jnp.ones((2, 2, 1)), (2, 2, 1)))
    >>> [y.shape for y in op.A(jnp.ones((2, 2, 1)))]
    [(1, 1, 1), (2, 2, 1)]
    """
    shapes = {str(op.shape) for op in operators}
    if len(shapes) != 1:
        raise ValueError(f"stack of operators on shapes {sorted(shapes)}: they need one shape of x")
    A, shape = Partial(_all, tuple(op.A for op in operators)), operators[0].shape
    linear = [op for op in operators if isinstance(op, Operator)]
    if len(linear) < len(operators):
        return Nonlinear(A, shape)
    return derived(A, shape, At=Partial(_sum, tuple(op.At for op in linear)), steps=steps)


def _after(outer: Any, inner: Any, x: PyTree) -> PyTree:
    return outer(inner(x))


@overload
def compose(outer: Operator, inner: Operator, *, steps: int = CG_STEPS) -> Operator: ...
@overload
def compose(outer: Measurement, inner: Measurement, *, steps: int = CG_STEPS) -> Measurement: ...
def compose(outer: Measurement, inner: Measurement, *, steps: int = CG_STEPS) -> Measurement:
    """One measurement after another: y = outer(inner(x)), e.g. a pool of a blur.

    Args:
      outer: measures what `inner` gives.
      inner: measures x; with a `Nonlinear` on either side the whole is a `Nonlinear`.
      steps: of conjugate gradient in `gram_solve` and `pinv`, static.

    Raises:
      ValueError: if the shape of `outer` is not that of what `inner` gives.

    >>> from jaxdiff.inverse import average_pool
    >>> twice = compose(average_pool(2, (2, 2, 1)), average_pool(2, (4, 4, 1)))
    >>> float(twice.A(jnp.ones((4, 4, 1)))[0, 0, 0])
    1.0
    """
    between = jax.tree.map(jnp.shape, jax.eval_shape(inner.A, struct(inner.shape)))
    if between != jax.tree.map(jnp.shape, struct(outer.shape)):
        raise ValueError(
            f"compose: the inner operator gives shape {between}, the outer one takes {outer.shape}"
        )
    A = Partial(_after, outer.A, inner.A)
    if isinstance(outer, Nonlinear) or isinstance(inner, Nonlinear):
        return Nonlinear(A, inner.shape)
    return derived(A, inner.shape, At=Partial(_after, inner.At, outer.At), steps=steps)
