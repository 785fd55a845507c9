"""Measurements y = A(x), written for ONE example: what posterior samplers need of them.

    A x,   A^T y,   A^+ y,   gram_solve(r2, s2, v) = (r2 A A^T + s2 I)^-1 v,   A = U S V^T.

A linear measurement is an `Operator`, any other a `Nonlinear`. Anything that maps a batch vmaps.
`solve` derives what an operator does not say in closed form.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.trees import combine
from jaxdiff.types import PyTree, record, static


@record
class Svd:
    """A = U diag(values) V^T, in coordinates z: values, V^T x and U^T y are shaped alike.

    `vt(x) -> z` and `v(z) -> x` are inverse to one another and keep norms; `ut(y) -> z` and
    `u(z) -> y` act where values are not 0 and give 0 elsewhere. z may be complex (Fourier), values
    >= 0 are real. Noise for z is V^T of noise for x.
    """

    values: Array
    vt: Callable[[PyTree], Array]
    v: Callable[[Array], PyTree]
    ut: Callable[[PyTree], Array]
    u: Callable[[Array], PyTree]


@record
class Operator:
    """A linear operator; all functions are of one example.

    `A(x) -> y`, `At(y) -> x`, `pinv(y) -> x`, `gram_solve(r2, s2, v) -> u`; `shape` that of x (or a
    tree of shapes), static; `svd` where there is one. With s2 = 0 `gram_solve` wants v in the range
    of A: by conjugate gradient there is no answer elsewhere.
    """

    A: Callable[[PyTree], PyTree]
    At: Callable[[PyTree], PyTree]
    pinv: Callable[[PyTree], PyTree]
    gram_solve: Callable[[Any, Any, PyTree], PyTree]
    shape: Any = static()
    svd: Svd | None = None


@record
class Nonlinear:
    """A measurement y = A(x) that is not linear, of one example; `shape` that of x, static.

    `project(x, y)` is the nearest point to x that is measured as y, where there is a closed form.
    """

    A: Callable[[PyTree], PyTree]
    shape: Any = static()
    project: Callable[[PyTree, PyTree], PyTree] | None = None


Measurement = Operator | Nonlinear


class Static:
    """A module-level function with static arguments: equal, and hashed, by their values."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.value == other.value  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), str(self.value)))


def as_partial(fn: Callable[..., Any]) -> Partial:
    """A `Partial`, which may be an argument under `jit`."""
    return fn if isinstance(fn, Partial) else Partial(fn)


def is_shape(node: Any) -> bool:
    """Whether a node of a tree of shapes is a shape."""
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def struct(shape: Any) -> PyTree:
    """A tree of shapes as one of abstract arrays of the default precision."""
    like = lambda s: jax.ShapeDtypeStruct(s, jnp.zeros(()).dtype)  # noqa: E731
    return jax.tree.map(like, shape, is_leaf=is_shape)


def normal_example(key: Array, like: PyTree) -> PyTree:
    """One standard normal example like a tree of (abstract) arrays."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def image_shape(shape: Any) -> tuple[int, int, int]:
    """Refuse what is not the shape (h, w, c) of one image.

    Raises:
      ValueError: naming it.
    """
    if not is_shape(tuple(shape)) or len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={shape}: give (h, w, c) of one image, without a batch axis")
    h, w, c = shape
    return h, w, c


def check_example(operator: Measurement, x: PyTree) -> None:
    """Refuse an example whose shape is not the operator's.

    Raises:
      ValueError: naming both shapes.
    """
    found = jax.tree.map(jnp.shape, x)
    expected = jax.tree.map(lambda s: s.shape, struct(operator.shape))
    if found != expected:
        raise ValueError(
            f"the operator was made for one example of shape {expected}, and was given {found}: "
            "make it (its mask, its factor) for the shape of the images"
        )


def check_measurement(operator: Measurement, y: PyTree, x: PyTree) -> None:
    """Refuse a batch or a measurement whose shapes are not the operator's.

    Args:
      operator: of one example.
      y: measurements, leaves [b, ...].
      x: samples, leaves [b, ...].

    Raises:
      ValueError: naming the shapes.
    """
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
    check_example(operator, one)
    expected = jax.tree.map(jnp.shape, jax.eval_shape(operator.A, one))
    found = jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], y)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((x, y))}
    if found != expected or len(sizes) != 1:
        raise ValueError(
            f"y has shapes {jax.tree.map(jnp.shape, y)}: with this operator and x of shapes "
            f"{jax.tree.map(jnp.shape, x)} each measurement has shape {expected}, with the same "
            "leading axis as x"
        )


def check_linear(A: Any, shape: Any) -> None:
    """Look at 0 and at two random points; a traced A passes.

    Raises:
      ValueError: if A is not linear there.
    """
    x, z = (normal_example(jax.random.key(i), struct(shape)) for i in (0, 1))
    at_zero = A(jax.tree.map(jnp.zeros_like, x))
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(at_zero)):
        return
    if any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(at_zero)):
        raise ValueError("A is not linear: A(0) is not 0; subtract its offset from A and from y")
    split = combine((2.0, A(x)), (-1.0, A(z)))
    gap = jax.tree.map(jnp.subtract, A(combine((2.0, x), (-1.0, z))), split)
    largest, off = (
        max(float(jnp.max(jnp.abs(v))) for v in jax.tree.leaves(t)) for t in (split, gap)
    )
    if off > 1e-2 * largest:
        raise ValueError("A is not linear: A(2x - z) is not 2 A(x) - A(z); give a linear function")
