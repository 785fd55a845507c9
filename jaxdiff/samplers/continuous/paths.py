"""Brownian motion, one path a sample.

The increments over disjoint intervals are independent, N(0, dt), and some solvers also want the
space-time area H = (1/dt) int (W_s - s/dt W_dt) ds ~ N(0, dt/12), independent of the increment.
On steps that are known beforehand both are drawn afresh each step: that is exact, and costs two
normal numbers. Where a step may be refused and repeated in parts, the parts have to agree with the
whole: only a virtual tree does that, which costs about 17 levels of bridges an evaluation.

Jelincic, Foster and Kidger 2024, arXiv:2405.06464.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
from jaxtyping import Array

from jaxdiff.types import PyTree


class PerSample(diffrax.AbstractBrownianPath):
    """Brownian motion [b, ...], each sample from its own key: no sample sees the batch.

    On given times every increment is drawn by itself, from a key folded with its ends; the same
    ends give the same number, so that an adjoint which repeats steps sees the same path. Only a
    step size that adapts needs the virtual tree, whose single precision does not resolve the
    space-time area of steps 1e5 times shorter than the interval.
    """

    keys: Any
    t0: Any
    t1: Any
    shapes: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)
    levy_area: Any = eqx.field(static=True)
    adaptive: bool = eqx.field(static=True)

    def _path(self, key: Array) -> Any:
        if not self.adaptive:
            return diffrax.UnsafeBrownianPath(self.shapes, key, self.levy_area)
        tol = (self.t1 - self.t0) * 1e-5
        return diffrax.VirtualBrownianTree(self.t0, self.t1, tol, self.shapes, key, self.levy_area)

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        each = lambda key: self._path(key).evaluate(t0, t1, left, use_levy)  # noqa: E731
        found = jax.vmap(each)(self.keys)
        like_x = lambda leaves: jax.tree.unflatten(self.structure, leaves)  # noqa: E731
        return jax.tree.map(like_x, found, is_leaf=lambda node: isinstance(node, tuple))


def brownian(
    keys: Array, x: PyTree, t0: Array, t1: Array, solver: diffrax.AbstractSolver, adaptive: bool
) -> PerSample:
    """The path that `solver` wants on [t0, t1], like x."""
    leaves, structure = jax.tree.flatten(x)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves)
    area = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    # AbstractBrownianIncrement stands for "any": its concrete form is the cheapest
    area = diffrax.SpaceTimeLevyArea if "SpaceTime" in area.__name__ else diffrax.BrownianIncrement
    return PerSample(keys, t0, t1, shapes, structure, area, adaptive)
