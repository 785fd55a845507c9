"""Arithmetic over trees of arrays: the only broadcast of times over samples, paths, selection.

A sample may be one array [b, ...] or a tree of them ({image, kernel}); a time may be a scalar, one
per sample [b], or a prefix [b, n] of the sample's shape (a level per token). All meets in `fit`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.types import CHURN, GUIDE, RENOISE, SOLVER, STAGE, PyTree, record


def fit(t: PyTree, x: PyTree) -> PyTree:
    """Reshape `t` so that it multiplies `x`: trailing axes of length one are added.

    Args:
      t: array of shape (), [b], [b, n] (a prefix of the shape of each leaf), or a tree like x.
      x: array or tree of arrays [b, ...].

    Returns:
      a tree like x, each leaf broadcastable against the leaf of x.

    Raises:
      ValueError: if the shape of t is no prefix of the shape of a leaf of x.

    >>> fit(jnp.ones(4), jnp.zeros((4, 2, 2))).shape
    (4, 1, 1)
    """
    if jax.tree.structure(t) == jax.tree.structure(x):
        return jax.tree.map(_fit_leaf, t, x)
    return jax.tree.map(lambda leaf: _fit_leaf(t, leaf), x)


def _fit_leaf(t: Any, leaf: Any) -> Array:
    t = jnp.asarray(t)
    prefix = jnp.shape(leaf)[: t.ndim]
    fits = t.ndim <= jnp.ndim(leaf) and all(a in (1, b) for a, b in zip(t.shape, prefix))
    if not fits:
        raise ValueError(
            f"a time or coefficient of shape {t.shape} does not fit data of shape "
            f"{jnp.shape(leaf)}: give a scalar, or one number per leading axis, e.g. "
            f"shape {jnp.shape(leaf)[:1]}"
        )
    return t.reshape(t.shape + (1,) * (jnp.ndim(leaf) - t.ndim))


def combine(*terms: tuple[Any, PyTree]) -> PyTree:
    """Linear combination c_1 x_1 + c_2 x_2 + ... of like trees, each coefficient fitted.

    >>> float(combine((2.0, jnp.ones(3)), (-1.0, jnp.ones(3)))[0])
    1.0
    """

    parts = [jax.tree.map(jnp.multiply, fit(c, x), x) for c, x in terms]
    return jax.tree.map(lambda *leaves: functools.reduce(jnp.add, leaves), *parts)


def where(condition: Any, x: PyTree, y: PyTree) -> PyTree:
    """Leafwise choice by a condition of shape (), [b] or a prefix of the leaves."""
    return jax.tree.map(lambda a, b: jnp.where(_fit_leaf(condition, a), a, b), x, y)


def lerp(x: PyTree, y: PyTree, weight: Any) -> PyTree:
    """x + weight (y - x), leafwise; weight 1 gives y exactly.

    >>> float(lerp(jnp.zeros(()), jnp.ones(()), 0.25))
    0.25
    """
    return jax.tree.map(lambda a, b: a * (1 - weight) + b * weight, x, y)


def dots(x: PyTree, y: PyTree) -> Array:
    """Inner products per sample: sums over all axes but the first, and over the leaves; [b]."""
    parts = jax.tree.map(lambda a, b: jnp.sum((a * b).reshape(a.shape[0], -1), axis=1), x, y)
    return functools.reduce(jnp.add, jax.tree.leaves(parts))


def size(x: PyTree) -> int:
    """The number b of samples in a tree whose leaves have leading axis b.

    >>> size({"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)})
    3
    """
    sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"the leaves have leading axes {sorted(map(str, sizes))}: every leaf needs the same "
            "leading axis, one entry per sample"
        )
    return int(sizes.pop() or 0)


@record
class Tape:
    """Noise from the caller, in the place of keys: who draws in row k gets `noise[who]`[k].

    `noise` maps SOLVER, GUIDE, RENOISE, CHURN or STAGE to a tree of leaves [rows, b, ...].
    """

    noise: dict[int, PyTree]


@record
class _Draws:
    """A tape at one row."""

    noise: dict[int, PyTree]


@record
class _Drawn:
    """A tape at one row, for one who draws."""

    noise: PyTree


_NAMES = {SOLVER: "solver", GUIDE: "guide", RENOISE: "renoise", CHURN: "churn", STAGE: "stage"}


def tape(
    solver: PyTree = None,
    *,
    stage: PyTree = None,
    churn: PyTree = None,
    renoise: PyTree = None,
    guide: PyTree = None,
) -> Tape:
    """Noise from the caller, to be given to `run` for keys or to `sample` as `noise`.

    Args:
      solver: what the solver draws, once a row; leaves [rows, b, ...], standard normal.
      stage: what a solver draws inside its step (DPM++ SDE).
      churn: what `churn` draws before a step; what a corrector draws there, [rows, draws, b, ...].
      renoise: what a jump back draws (`travel`).
      guide: what corrections and guides draw.

    >>> tape(jnp.zeros((20, 2, 3))).noise[0].shape   # 20 rows, 2 samples of shape [3]
    (20, 2, 3)
    """
    given = {SOLVER: solver, GUIDE: guide, RENOISE: renoise, CHURN: churn, STAGE: stage}
    return Tape({who: noise for who, noise in given.items() if noise is not None})


def fold(keys: Any, data: Any) -> Any:
    """Fold one number into every key of `keys` [b]; a tape is wound to that row, then handed out.

    Who draws several times a row folds the number of the draw last.

    Raises:
      ValueError: if a tape holds nothing for the one who draws.
    """
    if isinstance(keys, Tape):
        return _Draws(jax.tree.map(lambda leaf: leaf[data], keys.noise))
    if isinstance(keys, _Draws):
        if data not in keys.noise:
            name = _NAMES.get(data, str(data))
            raise ValueError(f"the tape holds no noise for {name!r}: give tape(..., {name}=noise)")
        return _Drawn(keys.noise[data])
    if isinstance(keys, _Drawn):
        return _Drawn(jax.tree.map(lambda leaf: leaf[data], keys.noise))
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def keys_for(key: Array, ids: Any) -> Array:
    """One key per sample: fold_in(key, id). Sample i does not depend on the batch around it.

    >>> import jax
    >>> keys_for(jax.random.key(0), jnp.arange(3)).shape
    (3,)
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(ids))


def normal(keys: Any, x: PyTree) -> PyTree:
    """Standard normal noise like `x` [b, ...], each sample drawn from its own key of `keys` [b].

    Raises:
      ValueError: if the noise of a tape is not shaped like x.
    """
    if isinstance(keys, _Drawn):
        return jax.tree.map(_played, keys.noise, x)
    leaves, structure = jax.tree.flatten(x)
    parts = [keys] if len(leaves) == 1 else [fold(keys, j) for j in range(len(leaves))]
    drawn = [
        jax.vmap(lambda k, s=leaf.shape[1:], d=leaf.dtype: jax.random.normal(k, s, d))(part)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def _played(noise: Array, leaf: Array) -> Array:
    if noise.shape != leaf.shape:
        raise ValueError(
            f"the tape has noise of shape {noise.shape} a row for samples of shape {leaf.shape}"
        )
    return noise.astype(leaf.dtype)


def paths(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Pairs of a path ('a/b/0') and the leaf there.

    >>> [p for p, _ in paths({"a": {"b": 1}, "c": 2})]
    ['a/b', 'c']
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def select(tree: PyTree, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The leaves whose path is `wanted`, as a flat dict path -> leaf."""
    return {path: leaf for path, leaf in paths(tree) if wanted(path)}


def merge(tree: PyTree, changes: dict[str, Any]) -> PyTree:
    """The tree with the leaves at the paths in `changes` replaced.

    >>> merge({"a": 1, "b": 2}, {"b": 5})
    {'a': 1, 'b': 5}
    """
    known = {path for path, _ in paths(tree)}
    if unknown := sorted(set(changes) - known):
        raise KeyError(f"no leaf at {unknown}: the paths are {sorted(known)[:8]} ...")

    def pick(path: Any, leaf: Any) -> Any:
        return changes.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(pick, tree)


def difference(expected: PyTree, found: PyTree) -> list[str]:
    """Where two trees of arrays differ: missing and surplus paths, other shapes or dtypes.

    >>> difference({"w": jnp.zeros(2)}, {"w": jnp.zeros(3), "v": jnp.zeros(1)})
    ['w: expected float32[2], found float32[3]', 'v: surplus']
    """
    left, right = dict(paths(expected)), dict(paths(found))
    lines = [f"{path}: missing" for path in left if path not in right]
    for path in left.keys() & right.keys():
        a, b = left[path], right[path]
        if a.shape != b.shape or a.dtype != b.dtype:
            lines.append(f"{path}: expected {_spell(a)}, found {_spell(b)}")
    return sorted(lines) + [f"{path}: surplus" for path in right if path not in left]


def _spell(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
