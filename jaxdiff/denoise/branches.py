"""Several conditions of one model in ONE call, joined by any function of the answers.

r conditions are asked at once, at b * r rows. Rows are interleaved (row = sample * r + branch),
never concatenated: a batch that is sharded over devices stays where it is. A control that travels
in a condition acts on the rows of its own branch alone, so a branch may be a disturbed network.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise.door import Denoiser, Model, condition_at
from jaxdiff.process import scales
from jaxdiff.trees import size
from jaxdiff.types import At, Estimate, Now, PyTree, Site

Rule = Callable[[tuple[PyTree, ...], At], Estimate]
"""rule(branches, at) -> Estimate: x_0 of every branch, in the order of the conditions."""


def combined(
    model: Model,
    conds: Sequence[PyTree],
    rule: Rule,
    memory: Callable[[PyTree], dict[str, Any]] | None = None,
) -> Denoiser:
    """x_0 = rule((E[x_0 | x_t, cond_1], ..., E[x_0 | x_t, cond_r]), at), in ONE call at b * r.

    Args:
      model: the model.
      conds: r conditions of one structure; arrays without an axis serve every sample. Any of them
        may hold a control, which acts on its own branch.
      rule: pure and per sample; a `Partial` of a module-level function if the denoiser is to be an
        argument under `jit`. What it keeps from step to step it reads from `at.now.memory` and
        writes into the `aux` of its answer.
      memory: x -> the first values of what it keeps, or None.

    Returns:
      a Denoiser; `aux` of the network's answers comes out as [b, r, ...].

    Raises:
      ValueError: if the structures of the conditions differ; when called, if the control of a
        branch wants nothing at any site.

    >>> from jaxdiff import bind, process as pr
    >>> from jaxdiff.denoise import model
    >>> net = lambda params, x, time, cond: x * 0 + cond[:, None]
    >>> m = model(net, {}, pr.edm(), pr.wiring(pr.x0))
    >>> larger = lambda branches, at: Estimate(jnp.maximum(*branches))
    >>> d = combined(m, (jnp.float32(1.0), jnp.float32(4.0)), larger)
    >>> float(d(jnp.zeros((1, 1)), 1.0).x0[0, 0])
    4.0
    """
    _check_conditions(conds)
    rule = rule if isinstance(rule, Partial) else Partial(rule)
    fn = Partial(_combined, model.fn, tuple(conds), rule, model.process)
    return Denoiser(model.process, fn, memory, model.span)


def _check_conditions(conds: Sequence[PyTree]) -> None:
    if not conds:
        raise ValueError("conds is empty: give at least one condition")
    shapes = {jax.tree.structure(parted(c)[0]) for c in conds if not callable(c)}
    if len(shapes) > 1:
        raise ValueError(
            f"the conditions have different structures, {sorted(map(str, shapes))}: every branch "
            "needs the same keys; use the null label or empty tokens where one has none"
        )


def _combined(fn: Any, conds: Any, rule: Any, process: Any, x: Any, t: Any, now: Any) -> Estimate:
    b, r = size(x), len(conds)
    rows = _interleave([x] * r, b)
    times = t if jnp.ndim(t) == 0 else jnp.repeat(jnp.asarray(t), r, axis=0)
    plain, controls = zip(*(parted(condition_at(c, now)) for c in conds))
    cond, asked = _interleave(list(plain), b), _Asked(controls)
    if any(control is not None for control in controls):
        cond = {**(cond or {}), "control": asked}
    est = fn(rows, times, cond, _widen(now, r))
    asked.check()
    at = At(x, t, *scales(process, t), _no_vjp, now)
    branches = tuple(jax.tree.map(lambda a, k=k: _split(a, r)[:, k], est.x0) for k in range(r))
    aux = jax.tree.map(lambda leaf: _split(leaf, r), est.aux)
    answer = rule(branches, at)
    return Estimate(answer.x0, None, joined([aux, answer.aux]))


def _no_vjp(cotangent: PyTree) -> PyTree:
    raise TypeError("at.vjp is not to be had in a weight: weights act before the guides")


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One dict of several; a name that occurs twice is an error."""
    out: dict[str, Any] = {}
    for part in parts:
        if clash := sorted(out.keys() & part.keys()):
            raise ValueError(f"two guides keep {clash} under one name: give one of them another")
        out |= part
    return out


def parted(cond: PyTree) -> tuple[PyTree, Any]:
    """A condition without its control, and the control or None.

    >>> parted({"label": 3, "control": print}) == ({"label": 3}, print)
    True
    """
    if not isinstance(cond, Mapping) or "control" not in cond:
        return cond, None
    return {name: part for name, part in cond.items() if name != "control"} or None, cond["control"]


class _Asked:
    """One control of r: each acts on the rows of its branch, and has to want something somewhere.

    It lives within one trace of the network and writes down who wanted anything.
    """

    def __init__(self, controls: tuple[Any, ...]) -> None:
        self.controls = controls
        self.wanting: set[int] = set()
        self.sites: list[Site] = []

    def __call__(self, site: Site) -> Callable[..., Any] | None:
        self.sites.append(site)
        wanted = [None if control is None else control(site) for control in self.controls]
        self.wanting |= {k for k, act in enumerate(wanted) if act is not None}
        return None if all(act is None for act in wanted) else Partial(_act, tuple(wanted))

    def check(self) -> None:
        for k, control in enumerate(self.controls):
            if control is not None and k not in self.wanting:
                known = sorted({f"{s.path}:{s.port}" for s in self.sites})
                raise ValueError(
                    f"the control of branch {k} wants nothing at any of the {len(known)} sites of "
                    f"this network, so that branch would be like the others; the sites are "
                    f"{known[:12]}"
                )


def _act(wanted: tuple[Any, ...], value: PyTree) -> PyTree:
    r = len(wanted)
    parts = [jax.tree.map(lambda a, k=k: _split(a, r)[:, k], value) for k in range(r)]
    done = [part if act is None else act(part) for act, part in zip(wanted, parts)]
    return jax.tree.map(lambda *leaves: _merge(jnp.stack(leaves, axis=1)), *done)


def _split(leaf: Array, r: int) -> Array:
    return leaf.reshape(leaf.shape[0] // r, r, *leaf.shape[1:])


def _merge(leaf: Array) -> Array:
    return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])


def _interleave(trees: list[PyTree], b: int) -> PyTree:
    """Stack r trees along a new axis 1 and flatten: row = sample * r + branch."""

    def stack(*leaves: Any) -> Array:
        full = [jnp.asarray(leaf) for leaf in leaves]
        full = [jnp.broadcast_to(a, (b, *a.shape[1:])) for a in full]
        shape = jnp.broadcast_shapes(*(a.shape for a in full))
        return _merge(jnp.stack([jnp.broadcast_to(a, shape) for a in full], axis=1))

    return jax.tree.map(stack, *trees)


def _widen(now: Any, r: int) -> Any:
    """The same step for r times as many rows: keys and memory are repeated."""
    if not isinstance(now, Now):
        return now
    repeat = lambda tree: jax.tree.map(lambda leaf: jnp.repeat(leaf, r, axis=0), tree)  # noqa: E731
    t, s = (t if jnp.ndim(t) == 0 else repeat(t) for t in (now.t, now.s))
    return now._replace(t=t, s=s, key=repeat(now.key), memory=repeat(now.memory))
