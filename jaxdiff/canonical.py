"""Convolutions that stay fast inside loops on the CPU.

XLA:CPU sends a convolution to its fast kernel only in canonical form: image NHWC, kernel HWIO,
result NHWC. What autodiff makes is not in that form (the gradient of the input has the kernel as
HWOI, the gradient of the weights has batch and channels swapped), and the compiler pass that
would put it right, `conv_canonicalization`, visits the entry computation alone. Inside `scan`,
`while`, `map` or `cond` such a convolution becomes a naive loop nest, about thirty times slower.

So the rewriting is done here, while tracing. With p_l, p_r, p_o the permutations that take image,
kernel and result to canonical order,

    conv(l, r) = p_o^-1 conv_canonical(p_l l, p_r r),

the same sums of the same products. A convolution with G batch groups (the gradient of a grouped
kernel) is one with G feature groups, once the groups have moved from the batch axis of the image
to its channels: that one is slow even outside loops, and is rewritten with the others.

Left as they are: depthwise convolutions that come as a loop nest (with one channel a group that
is faster than the fast kernel), and everything on other backends, where cuDNN and the TPU
compiler recognise the original forms.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.extend.core import primitives

from jaxdiff.types import PyTree

# Rewriting the jaxprs in their parameters keeps the meaning of these. A custom rule is kept beside
# the rewritten function; when the derivative is taken inside `canonical`, the rule itself has been
# traced already and is rewritten like everything else.
_HIGHER = frozenset(
    {
        primitives.jit_p,
        primitives.scan_p,
        primitives.while_p,
        primitives.cond_p,
        primitives.remat_p,
        primitives.closed_call_p,
        primitives.custom_jvp_call_p,
        primitives.custom_vjp_call_p,
    }
)
_KEPT = (
    "window_strides",
    "padding",
    "lhs_dilation",
    "rhs_dilation",
    "precision",
    "preferred_element_type",
)


def canonical(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return `fn` with every convolution in the form that XLA:CPU runs fast inside loops.

    The result has the values of `fn` (same sums, same products), its effects and its custom
    derivative rules, and composes with `jit`, `grad`, `jvp`, `vmap`, `remat` and `scan`. It
    reaches into `jit`, `scan`, `while`, `cond`, `remat`, `shard_map` and custom derivatives.
    On a backend other than the CPU it is `fn`, unchanged.

    Put it OUTSIDE of the derivative (`canonical(jax.grad(loss))`): a convolution that autodiff
    makes after the rewriting is not rewritten. And put it INSIDE of `jax.jit`: every call traces
    anew, and without `jit` the operations run one by one.

    Args:
        fn: a function of pytrees of arrays that can be traced: no branching on values.

    Returns:
        A function of the same arguments and results.

    Example:
        >>> image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
        >>> def energy(x):
        ...     y = lax.conv_general_dilated(
        ...         x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        ...     return jnp.sum(y**2)
        >>> bool(jnp.all(canonical(jax.grad(energy))(image) == jax.grad(energy)(image)))
        True

    Reference:
        OpenXLA, xla/service/cpu/conv_canonicalization.cc (which walks the entry computation).
    """

    @functools.wraps(fn, updated=())
    def rewritten(*args: Any, **kwargs: Any) -> PyTree:
        if jax.default_backend() != "cpu":
            return fn(*args, **kwargs)
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args, **kwargs)
        if not _to_rewrite(closed.jaxpr):
            return fn(*args, **kwargs)
        leaves = jax.tree.leaves((args, kwargs))
        results = _evaluate(closed.jaxpr, closed.consts, *leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rewritten


def scan(
    body: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    init: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    unroll: int = 1,
) -> tuple[PyTree, PyTree]:
    """Scan a body over leading axes: `lax.scan`, with the convolutions of the body canonical.

    (c_{k+1}, y_k) = body(c_k, x_k), k = 0 .. length - 1; returns (c_length, y).

    Args:
        body: (carry, x) -> (carry, y), pytrees; may hold gradients of convolutions.
        init: the first carry c_0.
        xs: a tree whose leaves have the leading axis [length], or None.
        length: the number of steps; needed when `xs` is None.
        unroll: how many steps are laid out in one turn of the loop.

    Returns:
        The last carry, and the y stacked along a new leading axis [length].

    Raises:
        ValueError, TypeError: as `lax.scan` does (carry of changing shape, unequal lengths).

    Example:
        >>> total, sums = scan(lambda c, x: (c + x, c + x), 0, jnp.arange(4))
        >>> int(total), sums.tolist()
        (6, [0, 1, 3, 6])

    Reference:
        As `jax.lax.scan`.
    """
    return lax.scan(canonical(body), init, xs, length=length, unroll=unroll)


def _evaluate(jaxpr: Any, consts: Any, *args: Any) -> list[Any]:
    """Run the equations of a jaxpr, the convolutions among them rewritten."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        # The context of an equation holds what was configured around it (compute type, metadata).
        with eqn.ctx.manager:
            results = _run(eqn, [read(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _run(eqn: Any, values: list[Any]) -> Any:
    """Run one equation; returns the sequence of its results."""
    if _is_slow(eqn):
        return [_convolution(*values, **eqn.params)]
    params = dict(eqn.params)
    if any(_to_rewrite(inner) for inner in _inner(eqn)):
        if eqn.primitive.name == "shard_map":
            return _shard_map(eqn.params, values)
        params = {name: _rewrite(value) for name, value in params.items()}
    results = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(params))
    return results if eqn.primitive.multiple_results else [results]


def _convolution(
    lhs: Any,
    rhs: Any,
    *,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **params: Any,
) -> jax.Array:
    """One convolution by way of the canonical form (see the top of the file)."""
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    lhs = jnp.transpose(lhs, (lhs_spec[0], *lhs_spec[2:], lhs_spec[1]))
    # rhs_spec is (out, in, spatial); a canonical kernel ends in (in, out).
    rhs = jnp.transpose(rhs, (*rhs_spec[2:], rhs_spec[1], rhs_spec[0]))
    if batch_group_count > 1:
        lhs, feature_group_count = _groups_to_channels(lhs, batch_group_count), batch_group_count
    result = lax.conv_general_dilated(
        lhs,
        rhs,
        dimension_numbers=_canonical_numbers(lhs.ndim),
        feature_group_count=feature_group_count,
        **{name: params[name] for name in _KEPT},
    )
    order = (out_spec[0], *out_spec[2:], out_spec[1])
    return jnp.transpose(result, [order.index(axis) for axis in range(lhs.ndim)])


def _canonical_numbers(ndim: int) -> lax.ConvDimensionNumbers:
    """NHWC, HWIO, NHWC, for any number of spatial axes."""
    last = ndim - 1
    image, kernel = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    return lax.ConvDimensionNumbers(image, kernel, image)


def _is_slow(eqn: Any) -> bool:
    """Whether an equation is a convolution that gains by the rewriting."""
    if eqn.primitive is not primitives.conv_general_dilated_p:
        return False
    numbers, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
    if eqn.params["batch_group_count"] > 1:
        return True
    depthwise = 1 < eqn.params["feature_group_count"] == shape[numbers.lhs_spec[1]]
    return not depthwise and tuple(numbers) != tuple(_canonical_numbers(len(shape)))


def _groups_to_channels(lhs: jax.Array, groups: int) -> jax.Array:
    """[g*b, ..., c] -> [b, ..., g*c]."""
    split = lhs.reshape(groups, lhs.shape[0] // groups, *lhs.shape[1:])
    moved = jnp.moveaxis(split, 0, -2)
    return moved.reshape(*moved.shape[:-2], groups * lhs.shape[-1])


def _shard_map(params: dict[str, Any], values: list[Any]) -> Any:
    """The rewritten body, through the public door: its axes must be bound while it is traced."""
    body = functools.partial(_evaluate, params["jaxpr"], ())
    return jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=params["in_specs"],
        out_specs=list(params["out_specs"]),  # a list, as `_evaluate` returns
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )(*values)


def _rewrite(value: Any) -> Any:
    """A parameter of an equation, with the jaxprs in it rewritten; other values are returned."""
    if isinstance(value, tuple) and any(map(_is_jaxpr, value)):
        return tuple(map(_rewrite, value))
    if not _is_jaxpr(value) or not _to_rewrite(value):
        return value
    jaxpr: Any = getattr(value, "jaxpr", value)
    run = functools.partial(_evaluate, jaxpr, getattr(value, "consts", ()))
    new = jax.make_jaxpr(run)(*(var.aval for var in jaxpr.invars))
    return new if isinstance(value, core.ClosedJaxpr) else new.jaxpr


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)


def _inner(eqn: Any) -> list[Any]:
    """The jaxprs of an equation that may be rewritten."""
    if eqn.primitive not in _HIGHER and eqn.primitive.name != "shard_map":
        return []
    values = (v if isinstance(v, tuple) else (v,) for v in eqn.params.values())
    return [inner for group in values for inner in group if _is_jaxpr(inner)]


def _to_rewrite(jaxpr: Any) -> bool:
    """Whether a jaxpr holds a slow convolution, at any depth."""
    eqns = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return any(_is_slow(eqn) or any(map(_to_rewrite, _inner(eqn))) for eqn in eqns)
