"""Weighted sums of estimates: conditions of one model in one call, or several denoisers."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise.branches import _no_vjp, combined, joined
from jaxdiff.denoise.door import Denoiser, Model
from jaxdiff.denoise.weights import Number, numeric, value_at
from jaxdiff.process import scales
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, PyTree


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
    return combined(model, conds, Partial(_weighted, tuple(map(numeric, weights))))


def _weighted(weights: Any, branches: tuple[PyTree, ...], at: At) -> Estimate:
    terms = [(value_at(w, at), x0) for w, x0 in zip(weights, branches, strict=True)]
    return Estimate(combine(*terms))


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

    >>> import jax.numpy as jnp, jaxdiff as jd
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
