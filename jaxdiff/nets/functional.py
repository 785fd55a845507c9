"""The one bridge from an `nnx.Module` to two pure functions.

A module is a graph plus parameters. The graph is split off once, here, from an abstract
construction that allocates nothing; `init` returns the parameters as a plain nested dict and
`apply` merges them with the graph again, inside whatever transformation it is called from. So
everything outside this folder sees pytrees and functions, and pays no dispatch for modules.
"""

import itertools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jaxdiff.nets.initial import shapes_only
from jaxdiff.trees import difference
from jaxdiff.types import Net, PyTree

_Module = TypeVar("_Module", bound=nnx.Module)


def functional(make: Callable[[nnx.Rngs], nnx.Module]) -> Net:
    """Turn a constructor of a module into `Net(init, apply)`.

    Both functions are the same objects for the life of the net, so they may be static arguments of
    a jitted function, or travel as `jax.tree_util.Partial(net.apply)`.

    Args:
      make: `rngs -> module`, where `module(x, time, cond)` is the network. It may hold only
        `nnx.Param`: no counters, no batch statistics, no random streams.

    Returns:
      `init(key) -> params`, a nested dict with string keys (indices of lists as "0", "1", ...), and
      `apply(params, x, time, cond=None) -> array`. Both compose with jit, vmap, grad, jvp and
      eval_shape.

    Raises:
      ValueError: here if the module holds anything but parameters; in `apply` if `params` belong to
        another architecture (the paths are named).

    >>> net = functional(lambda rngs: _Line(rngs))
    >>> params = net.init(jax.random.key(0))
    >>> jax.tree.map(jnp.shape, params)
    {'layer': {'bias': (3,), 'kernel': (2, 3)}}
    >>> net.apply(params, jnp.ones((4, 2)), jnp.zeros(4)).shape
    (4, 3)
    """
    init, module = bridge(make)

    def apply(params: PyTree, x: Array, time: Array, cond: PyTree = None) -> Array:
        return module(params)(x, time, cond)

    return Net(init, apply)


def bridge(
    make: Callable[[nnx.Rngs], _Module],
) -> tuple[Callable[..., PyTree], Callable[[PyTree], _Module]]:
    """Turn a constructor of a module into `init(key) -> params` and `module(params) -> module`.

    For modules with other methods than `module(x, time, cond)`: an autoencoder's encode and decode,
    a text encoder. `module(params)` belongs inside pure functions, whose traces end with it.

    Args:
      make: as for `functional`.

    Raises:
      ValueError: as for `functional`.

    >>> init, module = bridge(lambda rngs: _Line(rngs))
    >>> module(init(jax.random.key(0))).layer(jnp.ones((4, 2))).shape
    (4, 3)
    """
    with shapes_only():
        graph, state = nnx.split(nnx.eval_shape(lambda: make(_Counted(jax.random.key(0)))))
    slots = tuple(nnx.to_flat_state(state))
    _only_params(slots)
    expected = _nest({path: slot.get_value() for path, slot in slots})

    def init(key: Array) -> PyTree:
        found = nnx.to_flat_state(nnx.state(make(_Counted(key))))
        return _nest({path: slot.get_value() for path, slot in found})

    _SHAPES[init] = expected

    def module(params: PyTree) -> _Module:
        _check(expected, params)
        filled = [(path, slot.replace(_leaf(params, path))) for path, slot in slots]
        return nnx.merge(graph, nnx.from_flat_state(filled))

    return init, module


_SHAPES: weakref.WeakKeyDictionary[Any, PyTree] = weakref.WeakKeyDictionary()


def shapes(init: Callable[..., PyTree]) -> PyTree:
    """The shapes of the parameters that `init` makes, as `jax.eval_shape` gives them, but at once.

    >>> net = functional(lambda rngs: _Line(rngs))
    >>> shapes(net.init)["layer"]["bias"].shape
    (3,)
    """
    known = _SHAPES.get(init)
    return jax.eval_shape(init, jax.random.key(0)) if known is None else known


class _Counted(nnx.Rngs):
    """The keys of `nnx.Rngs(key)`, counted in Python.

    Its own counter is a variable, and to update one while a large network is traced takes a time
    that grows with the number of operations so far.
    """

    def __init__(self, key: Array):
        object.__setattr__(self, "_start", key)
        object.__setattr__(self, "_count", itertools.count())

    def params(self) -> Array:
        own: dict[str, Any] = vars(self)
        return jax.random.fold_in(own["_start"], next(own["_count"]))


def check_params(net: Net, params: PyTree) -> None:
    """Raise unless `params` have the paths and shapes that `net` needs.

    Dtypes are free: parameters cast to bfloat16 for sampling still fit.

    Args:
      net: a network made by `functional`.
      params: nested dict of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: naming every path that is missing, surplus or of another shape.

    >>> net = functional(lambda rngs: _Line(rngs))
    >>> check_params(net, {"layer": {"kernel": jnp.zeros((2, 3))}})
    Traceback (most recent call last):
    ...
    ValueError: params belong to another architecture, 1 path differs: layer/bias: missing. ...
    """
    _check(shapes(net.init), params)


def _check(expected: PyTree, params: PyTree) -> None:
    lines = difference(_shapes(expected), _shapes(params))
    if lines:
        shown = "; ".join(lines[:8]) + ("; ..." if len(lines) > 8 else "")
        differ = "1 path differs" if len(lines) == 1 else f"{len(lines)} paths differ"
        raise ValueError(
            f"params belong to another architecture, {differ}: {shown}. Build the network with the "
            "arguments that it was trained with, or start from net.init(key)"
        )


def _shapes(tree: PyTree) -> PyTree:
    """Only paths and shapes: the dtype is made equal everywhere."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.float32), tree)


def _only_params(slots: tuple[tuple[tuple[Any, ...], nnx.Variable], ...]) -> None:
    for path, slot in slots:
        if not isinstance(slot, nnx.Param):
            raise ValueError(
                f"the module holds a {type(slot).__name__} at {'/'.join(map(str, path))}: a net "
                "may hold only nnx.Param; give noise and statistics as inputs instead"
            )


def _nest(flat: dict[tuple[Any, ...], Any]) -> PyTree:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = map(str, path)
        branch = tree
        for name in parents:
            branch = branch.setdefault(name, {})
        branch[last] = leaf
    return tree


def _leaf(params: PyTree, path: tuple[Any, ...]) -> Any:
    for name in path:
        params = params[str(name)]
    return params


class _Line(nnx.Module):
    """The smallest net, for the examples above."""

    def __init__(self, rngs: nnx.Rngs):
        self.layer = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x: Array, time: Array, cond: PyTree) -> Array:
        return self.layer(x)
