"""Operators that a user hands in: any linear function, and a dense matrix."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxdiff.inverse.operators.kernel import (
    Operator,
    Static,
    Svd,
    as_partial,
    check_linear,
    is_shape,
    struct,
)
from jaxdiff.inverse.operators.solve import CG_STEPS, derived, spectral
from jaxdiff.types import PyTree


def linear(
    A: Callable[[PyTree], PyTree],
    shape: Any,
    *,
    At: Callable[[PyTree], PyTree] | None = None,
    gram_solve: Callable[[Any, Any, PyTree], PyTree] | None = None,
    pinv: Callable[[PyTree], PyTree] | None = None,
    steps: int = CG_STEPS,
) -> Operator:
    """Any linear function as an operator; what is not given is derived.

    Args:
      A: x -> y of one example; a `Partial` if the operator is to be an argument under `jit`.
      shape: the shape of one x, or a tree of shapes.
      At: the adjoint, by default `jax.linear_transpose`.
      gram_solve: (r2, s2, v) -> (r2 A A^T + s2 I)^-1 v, by default conjugate gradient.
      pinv: by default A^T gram_solve(1, 0, y) if that is given, else conjugate gradient on
        A^T A x = A^T y.
      steps: of conjugate gradient, static; `check_solve` says whether they are enough.

    Raises:
      ValueError: if A is not linear, or steps < 1.

    >>> op = linear(lambda x: 2.0 * x[:2], (3,))
    >>> op.At(jnp.ones(2)).tolist(), op.pinv(jnp.ones(2)).tolist()
    ([2.0, 2.0, 0.0], [0.5, 0.5, 0.0])
    """
    shape = jax.tree.map(tuple, shape, is_leaf=is_shape)
    A = as_partial(A)
    check_linear(A, shape)
    return derived(A, shape, At=At, gram_solve=gram_solve, pinv=pinv, steps=steps)


def matrix(values: Float[Array, "m d"], shape: Any = None) -> Operator:
    """A dense matrix on vectors [d], or on what has d entries; closed forms by its singular values.

    Args:
      values: [m, d].
      shape: that of x, or a tree of shapes, by default (d,); leaf after leaf is read in C order.

    Raises:
      ValueError: if `shape` does not have d entries.

    >>> matrix(jnp.array([[0.0, 2.0]])).At(jnp.ones(1)).tolist()
    [0.0, 2.0]
    """
    values = jnp.asarray(values, float)
    shape = values.shape[1:] if shape is None else jax.tree.map(tuple, shape, is_leaf=is_shape)
    if sum(map(math.prod, jax.tree.leaves(shape, is_leaf=is_shape))) != values.shape[1]:
        raise ValueError(f"a matrix of shape {values.shape} on x of shape {shape}: entries differ")
    u, s, whole = jnp.linalg.svd(values, full_matrices=True)
    kept = s > s[0] * max(values.shape) * jnp.finfo(s.dtype).eps
    svd = _padded_svd(u[:, : len(s)], jnp.where(kept, s, 0.0), whole, shape)
    A, At = Partial(_flat_times, values), Partial(_Times(shape), values.T)
    return spectral(svd, shape, A=A, At=At)


def _padded_svd(u: Array, s: Array, vt: Array, shape: Any) -> Svd:
    """z is as long as x: singular values that A lacks are 0."""
    rest = vt.shape[0] - len(s)
    u = jnp.pad(jnp.where(s[None] > 0, u, 0.0), ((0, 0), (0, rest)))
    to, back = Partial(_flat_times, vt), Partial(_Times(shape), vt.T)
    return Svd(jnp.pad(s, (0, rest)), to, back, Partial(times, u.T), Partial(times, u))


def times(values: Array, x: Array) -> Array:
    """A product at full precision on every device."""
    return jnp.matmul(values, x, precision="highest")


def _flat_times(values: Array, x: PyTree) -> Array:
    return times(values, ravel_pytree(x)[0])


class _Times(Static):
    """A product that is given the shape of x."""

    def __call__(self, values: Array, y: Array) -> PyTree:
        flat, like = times(values, y), struct(self.value)
        ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(like)])
        parts = jnp.split(flat, ends[:-1])
        leaves = [
            part.reshape(leaf.shape)
            for part, leaf in zip(parts, jax.tree.leaves(like), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)
