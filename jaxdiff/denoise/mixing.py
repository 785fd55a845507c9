"""Weighted sums of estimates: conditions of one model in one call, or several denoisers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise.door import Denoiser, Model, condition_at
from jaxdiff.denoise.weights import Number, numeric, value_at
from jaxdiff.process import scales
from jaxdiff.trees import combine, size
from jaxdiff.types import At, Estimate, Now, PyTree


def mix(model: Model, conds: Sequence[PyTree], weights: Sequence[Number]) -> Denoiser:
    """x_0 = sum_k w_k E[x_0 | x_t, cond_k] in ONE call of the network at b * r.

    Rows are interleaved (sample * r + branch), never concatenated: a batch that is sharded over
    devices stays where it is.

    Args:
      model: the model.
      conds: r conditions of one structure; arrays without an axis serve every sample.
      weights: r numbers (scalars, [b], or functions of `At`), which should sum to 1.

    Raises:
      ValueError: if there are not as many weights as conditions, or their structures differ.
    """
    if len(conds) != len(weights) or not conds:
        raise ValueError(f"{len(conds)} conditions and {len(weights)} weights: give one each")
    shapes = {jax.tree.structure(c) for c in conds if not callable(c)}
    if len(shapes) > 1:
        raise ValueError(
            f"the conditions have different structures, {sorted(map(str, shapes))}: every branch "
            "needs the same keys; use the null label or empty tokens where one has none"
        )
    fn = Partial(_mixed, model.fn, tuple(conds), tuple(map(numeric, weights)), model.process)
    return Denoiser(model.process, fn, span=model.span)


def _mixed(fn: Any, conds: Any, weights: Any, process: Any, x: Any, t: Any, now: Any) -> Estimate:
    b, r = size(x), len(conds)
    rows = _interleave([x] * r, b)
    times = t if jnp.ndim(t) == 0 else jnp.repeat(jnp.asarray(t), r, axis=0)
    branches = _interleave([condition_at(c, now) for c in conds], b)
    est = fn(rows, times, branches, _widen(now, r))
    at = At(x, t, *scales(process, t), _no_vjp, now)
    terms = [
        (value_at(w, at), jax.tree.map(lambda leaf, k=k: _split(leaf, b, r)[:, k], est.x0))
        for k, w in enumerate(weights)
    ]
    aux = jax.tree.map(lambda leaf: _split(leaf, b, r), est.aux)
    return Estimate(combine(*terms), None, aux)


def _no_vjp(cotangent: PyTree) -> PyTree:
    raise TypeError("at.vjp is not to be had in a weight: weights act before the guides")


def _split(leaf: Array, b: int, r: int) -> Array:
    return leaf.reshape(b, r, *leaf.shape[1:])


def _interleave(trees: list[PyTree], b: int) -> PyTree:
    """Stack r trees along a new axis 1 and flatten: row = sample * r + branch."""

    def stack(*leaves: Any) -> Array:
        full = [jnp.asarray(leaf) for leaf in leaves]
        full = [jnp.broadcast_to(a, (b, *a.shape[1:])) for a in full]
        shape = jnp.broadcast_shapes(*(a.shape for a in full))
        stacked = jnp.stack([jnp.broadcast_to(a, shape) for a in full], axis=1)
        return stacked.reshape(b * len(full), *stacked.shape[2:])

    return jax.tree.map(stack, *trees)


def _widen(now: Any, r: int) -> Any:
    """The same step for r times as many rows: keys and memory are repeated."""
    if not isinstance(now, Now):
        return now
    repeat = lambda tree: jax.tree.map(lambda leaf: jnp.repeat(leaf, r, axis=0), tree)  # noqa: E731
    t, s = (t if jnp.ndim(t) == 0 else repeat(t) for t in (now.t, now.s))
    return now._replace(t=t, s=s, key=repeat(now.key), memory=repeat(now.memory))


def _one_minus(weight: Any, at: At) -> Array:
    return 1 - value_at(weight, at)


def cfg(model: Model, cond: PyTree, null: PyTree, scale: Number) -> Denoiser:
    """Classifier-free guidance: x_0 = x_0(null) + scale (x_0(cond) - x_0(null)), in one call at 2b.

    Args:
      model: a model trained with its condition dropped at times.
      cond: the condition, a tree with leading axis b.
      null: the empty condition (for class labels the number of classes), or a negative one.
      scale: w; 0 is unconditional, 1 conditional, above 1 sharper. A scalar, [b], or At -> scalar.

    Ho & Salimans 2022, arXiv:2207.12598, eq. (6), with w here = 1 + w there.

    >>> import jaxdiff as jd
    >>> from jaxdiff import process as pr
    >>> net = lambda params, x, time, cond: x * 0 + cond[:, None]
    >>> m = jd.model(net, {}, pr.edm(), pr.wiring(pr.x0))
    >>> float(cfg(m, jnp.float32(1.0), jnp.float32(0.0), 3.0)(jnp.zeros((1, 1)), 1.0).x0[0, 0])
    3.0
    """
    scale = numeric(scale)
    return mix(model, (null, cond), (Partial(_one_minus, scale), scale))


def _blended(fns: Any, weights: Any, process: Any, x: Any, t: Any, now: Any) -> Estimate:
    ests = [fn(x, t, now) for fn in fns]
    at = At(x, t, *scales(process, t), _no_vjp, now)
    x0 = combine(*[(value_at(w, at), e.x0) for w, e in zip(weights, ests, strict=True)])
    return Estimate(x0, None, joined([e.aux for e in ests]))


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One dict of several; a name that occurs twice is an error."""
    out: dict[str, Any] = {}
    for part in parts:
        if clash := sorted(out.keys() & part.keys()):
            raise ValueError(f"two guides keep {clash} under one name: give one of them another")
        out |= part
    return out


def _memories(parts: Any, x: PyTree) -> dict[str, Any]:
    return joined([part(x) for part in parts])


def all_memories(memories: Sequence[Callable[..., Any] | None]) -> Callable[..., Any] | None:
    """The memories of several denoisers as one."""
    present = tuple(m for m in memories if m is not None)
    return Partial(_memories, present) if present else None


def blend(denoisers: Sequence[Denoiser], weights: Sequence[Number]) -> Denoiser:
    """x_0 = sum_k w_k x_0^(k)(x_t) of different networks on one process, one call each.

    Autoguidance is blend((weak, strong), (1 - w, w)).

    Karras et al. 2024, arXiv:2406.02507, eq. (3).

    Raises:
      ValueError: if there are not as many weights as denoisers.
    """
    if len(denoisers) != len(weights) or not denoisers:
        raise ValueError(f"{len(denoisers)} denoisers and {len(weights)} weights: give one each")
    first = denoisers[0]
    fns = tuple(d.fn for d in denoisers)
    fn = Partial(_blended, fns, tuple(map(numeric, weights)), first.process)
    return Denoiser(first.process, fn, all_memories([d.memory for d in denoisers]), first.span)
