"""Blind problems: the image and what blurred it are sampled together.

The state is a tree, {"image": ..., "kernel": ...}, with a prior for each leaf, and the measurement
(k, x) -> k * x is not linear in the tree. Everything that takes a tree and a `Nonlinear` takes it;
`paired` makes the one denoiser of the priors, which are independent before y is seen.

Chung et al. 2022, arXiv:2211.10656 (BlindDPS), section 3 and algorithm 1.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Number, all_memories, joined, numeric
from jaxdiff.guidance import Guide, add, pulled
from jaxdiff.inverse.doors import check_noise
from jaxdiff.inverse.dps import _inflated, _rate
from jaxdiff.inverse.operators import Measurement
from jaxdiff.types import At, Estimate, PyTree, number


def _paired(fns: Any, x: Any, t: Any, now: Any) -> Estimate:
    if not isinstance(x, dict) or x.keys() != fns.keys():
        raise ValueError(f"x is {_parts(x)}, the denoisers are {sorted(fns)}: they must agree")
    ests = {name: fn(x[name], t, now) for name, fn in fns.items()}
    wide = all(est.var is not None for est in ests.values())
    var = {name: est.var for name, est in ests.items()} if wide else None
    x0 = {name: est.x0 for name, est in ests.items()}
    return Estimate(x0, var, joined([est.aux for est in ests.values()]))


def _parts(x: Any) -> Any:
    return sorted(x) if isinstance(x, dict) else type(x).__name__


class _PartMemory:
    """The memory of one part; equal by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PartMemory) and self.name == other.name

    def __hash__(self) -> int:
        return hash((_PartMemory, self.name))

    def __call__(self, memory: Any, x: Any) -> dict[str, Any]:
        return memory(x[self.name])


def paired(denoisers: Mapping[str, Denoiser]) -> Denoiser:
    """One denoiser on {name: x} of one denoiser a name: independent priors on one process.

    Its value range is None, since the parts have their own.

    Args:
      denoisers: of one process; a memory's name may occur only once among them.

    Raises:
      ValueError: if none is given, or their processes differ.

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> both = paired({"image": d, "kernel": d})
    >>> both({"image": jnp.ones((1, 1)), "kernel": jnp.zeros((1, 1))}, 1.0).x0["image"].tolist()
    [[0.5]]
    """
    if not denoisers:
        raise ValueError("paired({}): give at least one denoiser")
    first = next(iter(denoisers.values()))
    for name, one in denoisers.items():
        _check_process(name, one.process, first.process)
    fns = {name: one.fn for name, one in denoisers.items()}
    memories = [
        None if one.memory is None else Partial(_PartMemory(name), one.memory)
        for name, one in denoisers.items()
    ]
    return Denoiser(first.process, Partial(_paired, fns), all_memories(memories))


def _check_process(name: str, process: Any, first: Any) -> None:
    same = jax.tree.structure(process) == jax.tree.structure(first)
    for a, b in zip(jax.tree.leaves(process), jax.tree.leaves(first), strict=False):
        if not isinstance(a, Tracer) and not isinstance(b, Tracer):
            same = same and np.array_equal(np.asarray(a), np.asarray(b))
    if not same:
        raise ValueError(
            f"the denoiser of {name!r} has another process than the first: x_t of all parts is at "
            "one t; bring them to one process with rebase"
        )


def _sparse(weights: Any, est: Estimate, at: At) -> PyTree:
    return {name: -weights.get(name, 0.0) * jnp.sign(leaf) for name, leaf in est.x0.items()}


def blind_dps(
    operator: Measurement,
    y: PyTree,
    *,
    noise: float | Array,
    var: Number | None = None,
    sparsity: Mapping[str, float | Array] | None = None,
) -> Guide:
    """BlindDPS: DPS on a tree of the image and its kernel, with an l1 norm on what is sparse.

    x_0' = x_0 + (sigma^2/alpha) J^T grad (-||y - A(x_0)||^2/(2 var) - sum_k w_k |x_0^k|_1),
    one backward pass of each network.

    Args:
      operator: A of one example {name: x}.
      y: measurements, leaves [b, ...].
      noise: s >= 0.
      var: as in `dps`.
      sparsity: {name: weight} of the l1 norms, none by default.

    Raises:
      ValueError: if noise < 0, or y or x do not have the shapes that the operator says.

    Chung et al. 2022, arXiv:2211.10656, algorithm 1, as a rate.
    """
    check_noise(noise)
    spread = Partial(_inflated, number(noise), number(1.0)) if var is None else numeric(var)
    pull = Partial(_rate, operator, y, spread)
    if not sparsity:
        return pulled(pull)
    weights = {name: number(weight) for name, weight in sparsity.items()}
    return pulled(add(pull, Partial(_sparse, weights)))
