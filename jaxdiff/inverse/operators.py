"""Linear operators y = A x, written for ONE example: what posterior samplers need of a measurement.

    A x,   A^T y,   A^+ y,   gram_solve(r2, s2, v) = (r2 A A^T + s2 I)^-1 v.

The adjoint defaults to `jax.linear_transpose`, the solves to the one conjugate gradient; an
operator with a closed form overrides them. Anything that maps a batch vmaps these.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Num

from jaxdiff.inverse.cg import cg
from jaxdiff.trees import combine
from jaxdiff.types import PyTree, record, static

CG_STEPS = 50
"""Steps of conjugate gradient where an operator has no closed form."""


@record
class Svd:
    """A = U diag(values) V^T, in coordinates z: values, V^T x and U^T y are shaped alike.

    `vt(x) -> z` and `v(z) -> x` are inverse to one another; `ut(y) -> z` and `u(z) -> y` act where
    values are not 0 and give 0 elsewhere. z may be complex (Fourier), values >= 0 are real.
    """

    values: Array
    vt: Callable[[Array], Array]
    v: Callable[[Array], Array]
    ut: Callable[[Array], Array]
    u: Callable[[Array], Array]


@record
class Operator:
    """A linear operator; all functions are of one example.

    `A(x) -> y`, `At(y) -> x`, `pinv(y) -> x`, `gram_solve(r2, s2, v) -> u`; `shape` that of x (or a
    tree of shapes), static; `svd` where there is one.
    """

    A: Callable[[PyTree], PyTree]
    At: Callable[[PyTree], PyTree]
    pinv: Callable[[PyTree], PyTree]
    gram_solve: Callable[[Any, Any, PyTree], PyTree]
    shape: Any = static()
    svd: Svd | None = None


@record
class Nonlinear:
    """A measurement y = A(x) that is not linear, of one example; `shape` that of x, static."""

    A: Callable[[PyTree], PyTree]
    shape: Any = static()


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def _struct(shape: Any) -> PyTree:
    like = lambda s: jax.ShapeDtypeStruct(s, jnp.zeros(()).dtype)  # noqa: E731
    return jax.tree.map(like, shape, is_leaf=_is_shape)


def check_example(operator: Operator, x: PyTree) -> None:
    """Refuse an example whose shape is not the operator's.

    Raises:
      ValueError: naming both shapes.
    """
    found = jax.tree.map(jnp.shape, x)
    expected = jax.tree.map(lambda s: s.shape, _struct(operator.shape))
    if found != expected:
        raise ValueError(
            f"the operator was made for one example of shape {expected}, and was given {found}: "
            "make it (its mask, its factor) for the shape of the images"
        )


def check_measurement(operator: Operator, y: PyTree, x: PyTree) -> None:
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


def _transposed(A: Any, shape: Any, y: PyTree) -> PyTree:
    return jax.linear_transpose(A, _struct(shape))(y)[0]


def _one(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _gram_by_cg(A: Any, At: Any, steps: int, r2: Any, s2: Any, v: PyTree) -> PyTree:
    def gram(u: PyTree) -> PyTree:
        return combine((r2, jax.vmap(lambda w: A(At(w)))(u)), (s2, u))

    return jax.tree.map(lambda leaf: leaf[0], cg(gram, _one(v), steps=steps))


def _pinv_by_gram(At: Any, gram_solve: Any, y: PyTree) -> PyTree:
    return At(gram_solve(1.0, 0.0, y))


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
      pinv: by default A^T (A A^T)^+.
      steps: of conjugate gradient, static.

    Raises:
      ValueError: if A is not linear.

    >>> op = linear(lambda x: 2.0 * x[:2], (3,))
    >>> op.At(jnp.ones(2)).tolist(), op.pinv(jnp.ones(2)).tolist()
    ([2.0, 2.0, 0.0], [0.5, 0.5, 0.0])
    """
    shape = jax.tree.map(tuple, shape, is_leaf=_is_shape)
    A = A if isinstance(A, Partial) else Partial(A)
    _check_linear(A, shape)
    At = Partial(_Transpose(shape), A) if At is None else _partial(At)
    solve = Partial(_GramByCG(steps), A, At) if gram_solve is None else _partial(gram_solve)
    inverse = Partial(_pinv_by_gram, At, solve) if pinv is None else _partial(pinv)
    return Operator(A, At, inverse, solve, shape)


def _partial(fn: Callable[..., Any]) -> Partial:
    return fn if isinstance(fn, Partial) else Partial(fn)


class _Static:
    """A module-level function with static arguments: equal, and hashed, by their values."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.value == other.value  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), str(self.value)))


class _Transpose(_Static):
    def __call__(self, A: Any, y: PyTree) -> PyTree:
        return _transposed(A, self.value, y)


class _GramByCG(_Static):
    def __call__(self, A: Any, At: Any, r2: Any, s2: Any, v: PyTree) -> PyTree:
        return _gram_by_cg(A, At, self.value, r2, s2, v)


def _check_linear(A: Any, shape: Any) -> None:
    """Look at 0 and at two random points; a traced A passes."""
    leaves, structure = jax.tree.flatten(_struct(shape))
    draw = lambda i, s: jax.random.normal(jax.random.key(i), s.shape, s.dtype)  # noqa: E731
    x, z = (jax.tree.unflatten(structure, [draw(i, s) for s in leaves]) for i in (0, 1))
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


def _masked(mask: Array, x: Array) -> Array:
    if jnp.broadcast_shapes(mask.shape, x.shape) != x.shape or mask.ndim != x.ndim:
        raise ValueError(
            f"mask of shape {mask.shape} for one image of shape {x.shape}: give [h, w, 1] or "
            f"{list(x.shape)}"
        )
    return jnp.where(mask, x, 0.0)


def _masked_gram(mask: Array, r2: Any, s2: Any, v: Array) -> Array:
    hidden = jnp.where(s2 > 0, v / jnp.where(s2 > 0, s2, 1.0), 0.0)
    return jnp.where(mask, v / (r2 + s2), hidden)


def inpainting(
    mask: Bool[Array, "h w c"] | Num[Array, "h w c"], shape: tuple[int, ...]
) -> Operator:
    """Keep the pixels where the mask is 1: y = mask x, with zeros elsewhere.

    Args:
      mask: [h, w, 1] or [h, w, c], 1 where the pixel is seen.
      shape: (h, w, c) of one image.

    Raises:
      ValueError: if the mask does not have the shape of the image, or is not made of 0 and 1.

    >>> op = inpainting(jnp.eye(2)[..., None], (2, 2, 1))
    >>> op.A(jnp.ones((2, 2, 1)))[..., 0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    mask = jnp.asarray(mask)
    _check_mask(mask, shape)
    keep = Partial(_masked, mask.astype(bool))
    return Operator(keep, keep, keep, Partial(_masked_gram, mask.astype(bool)), tuple(shape))


def _check_mask(mask: Array, shape: tuple[int, ...]) -> None:
    if mask.ndim != len(shape) or any(
        m not in (1, s) for m, s in zip(mask.shape, shape, strict=True)
    ):
        raise ValueError(
            f"mask of shape {mask.shape} for images of shape {tuple(shape)}: give "
            f"{(*tuple(shape)[:-1], 1)} or {tuple(shape)}"
        )
    if isinstance(mask, Tracer) or mask.dtype == bool:
        return
    if not np.isin(np.asarray(mask), (0, 1)).all():  # numpy: it may be asked inside a trace
        raise ValueError("mask holds values besides 0 and 1: threshold it, e.g. mask > 0.5")


class _Pool(_Static):
    """Mean over factor x factor blocks of [h, w, c]."""

    def __call__(self, x: Array) -> Array:
        f, (h, w, c) = self.value, x.shape
        return x.reshape(h // f, f, w // f, f, c).mean(axis=(1, 3))


class _Spread(_Static):
    """Repeat each pixel factor x factor times, times a gain."""

    def __call__(self, y: Array) -> Array:
        f, gain = self.value
        return gain * jnp.repeat(jnp.repeat(y, f, axis=0), f, axis=1)


class _PoolGram(_Static):
    """A A^T = I / factor^2."""

    def __call__(self, r2: Any, s2: Any, v: Array) -> Array:
        return v / (r2 / self.value**2 + s2)


def average_pool(factor: int, shape: tuple[int, ...]) -> Operator:
    """Super-resolution: y is the mean over factor x factor blocks.

    A^T y = repeat(y)/factor^2, A A^T = I/factor^2, A^+ y = repeat(y).

    Args:
      factor: block size.
      shape: (h, w, c) of one image.

    Raises:
      ValueError: if factor < 1 or does not divide h and w.

    >>> op = average_pool(2, (2, 2, 1))
    >>> op.A(jnp.arange(4.0).reshape(2, 2, 1)).tolist()
    [[[1.5]]]
    """
    if factor < 1 or shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"factor={factor} for images of shape {tuple(shape)}: it must divide height and width"
        )
    return Operator(
        Partial(_Pool(factor)),
        Partial(_Spread((factor, factor**-2))),
        Partial(_Spread((factor, 1.0))),
        Partial(_PoolGram(factor)),
        tuple(shape),
    )


def matrix(values: Float[Array, "m d"]) -> Operator:
    """A dense matrix on vectors [d]; `gram_solve` and `pinv` by its singular values.

    >>> matrix(jnp.array([[0.0, 2.0]])).At(jnp.ones(1)).tolist()
    [0.0, 2.0]
    """
    values = jnp.asarray(values, float)
    u, s, whole = jnp.linalg.svd(values, full_matrices=True)
    u, vt = u[:, : len(s)], whole[: len(s)]
    kept = s > s[0] * max(values.shape) * jnp.finfo(s.dtype).eps
    return Operator(
        Partial(_times, values),
        Partial(_times, values.T),
        Partial(_svd_pinv, u, s, kept, vt),
        Partial(_svd_gram, u, s, kept),
        (values.shape[1],),
        _padded_svd(u, jnp.where(kept, s, 0.0), whole),
    )


def _padded_svd(u: Array, s: Array, vt: Array) -> Svd:
    """z is as long as x: singular values that A lacks are 0."""
    rest = vt.shape[0] - len(s)
    u = jnp.pad(jnp.where(s[None] > 0, u, 0.0), ((0, 0), (0, rest)))
    to, back = Partial(_times, vt), Partial(_times, vt.T)
    return Svd(jnp.pad(s, (0, rest)), to, back, Partial(_times, u.T), Partial(_times, u))


def _times(values: Array, x: Array) -> Array:
    return jnp.matmul(values, x, precision="highest")


def _over(kept: Any, numerator: Any, denominator: Any) -> Array:
    return jnp.where(kept, numerator / jnp.where(kept, denominator, 1.0), 0.0)


def _svd_gram(u: Array, s: Array, kept: Array, r2: Any, s2: Any, v: Array) -> Array:
    inside = _times(u.T, v)
    known = kept | (s2 > 0)
    within = _times(u, _over(known, inside, r2 * jnp.where(kept, s, 0.0) ** 2 + s2))
    if u.shape[0] == u.shape[1]:
        return within
    outside = v - _times(u, inside)
    outside = outside - _times(u, _times(u.T, outside))  # twice: 1 / s2 magnifies what is left
    return within + _over(s2 > 0, outside, s2)


def _svd_pinv(u: Array, s: Array, kept: Array, vt: Array, y: Array) -> Array:
    return _times(vt.T, _over(kept, _times(u.T, y), s))


def _all(parts: Any, x: PyTree) -> PyTree:
    return tuple(A(x) for A in parts)


def _sum(parts: Any, y: PyTree) -> PyTree:
    return combine(*[(1.0, At(one)) for At, one in zip(parts, y, strict=True)])


def stack(*operators: Operator, steps: int = CG_STEPS) -> Operator:
    """Several measurements of one x as one operator: y = (A_1 x, A_2 x, ...).

    Right and one pass: what several measurements should be combined by.

    Args:
      operators: of one shape of x.
      steps: of conjugate gradient in `gram_solve`, static.

    Raises:
      ValueError: if none is given, or their shapes differ.

    >>> op = stack(average_pool(2, (2, 2, 1)), inpainting(jnp.ones((2, 2, 1)), (2, 2, 1)))
    >>> [y.shape for y in op.A(jnp.ones((2, 2, 1)))]
    [(1, 1, 1), (2, 2, 1)]
    """
    shapes = {str(op.shape) for op in operators}
    if len(shapes) != 1:
        raise ValueError(f"stack of operators on shapes {sorted(shapes)}: they need one shape of x")
    A = Partial(_all, tuple(op.A for op in operators))
    At = Partial(_sum, tuple(op.At for op in operators))
    solve = Partial(_GramByCG(steps), A, At)
    return Operator(A, At, Partial(_pinv_by_gram, At, solve), solve, operators[0].shape)
