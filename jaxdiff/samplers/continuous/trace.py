"""The trace of the Jacobian of a denoiser, exact or estimated.

    tr J = sum_i e_i^T J e_i                 over the d basis vectors: exact, d products,
         = E[u^T J u],  E[u u^T] = I         Hutchinson: m products with m probes u, no bias.

J u is forward-mode differentiation. The point is linearised once, and `chunk` directions at a time
go through the linear map, so that memory grows with the chunk and not with d.

Hutchinson 1990, doi:10.1080/03610919008812866; Grathwohl et al. 2019, arXiv:1810.01367.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.types import PyTree, record, static

Probe = Callable[..., Array]
"""(key, shape, dtype) -> numbers of mean 0 and variance 1."""


@record
class Directions:
    """The vectors u_j, j < n, of an average: tr J = scale * sum_j u_j^T J u_j.

    `probes` leaves [n, b, ...], or None for the basis vectors.
    """

    probes: PyTree
    n: int = static()
    chunk: int = static()


def basis(x: PyTree, chunk: int) -> Directions:
    """The d basis vectors of one sample, the same for all samples."""
    d = sum(leaf[0].size for leaf in jax.tree.leaves(x))
    return Directions(None, d, min(chunk, d))


def drawn(keys: Array, x: PyTree, n: int, probe: Probe, chunk: int) -> Directions:
    """n probes a sample, each from its own key."""
    rows = jnp.arange(n)
    folded = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, rows))(keys)
    leaves, structure = jax.tree.flatten(x)

    def like(j: int, leaf: Array) -> Array:
        def draw(key: Array) -> Array:
            return probe(jax.random.fold_in(key, j), leaf.shape[1:], leaf.dtype)

        return jax.vmap(jax.vmap(draw), in_axes=1)(folded)

    found = [like(j, leaf) for j, leaf in enumerate(leaves)]
    return Directions(jax.tree.unflatten(structure, found), n, min(chunk, n))


def traced(fn: Callable[[PyTree], PyTree], x: PyTree, u: Directions) -> tuple[PyTree, Array]:
    """fn(x) [b, ...] and tr d fn/d x [b], for a function that treats its samples one by one."""
    value, push = jax.linearize(fn, x)

    def product(j: Array) -> Array:
        direction = _direction(x, u, j)
        return trees.dots(direction, push(direction))

    starts = jnp.arange(0, u.n, u.chunk)

    def chunk(start: Array) -> Array:
        return jnp.sum(jax.vmap(product)(start + jnp.arange(u.chunk)), axis=0)

    total = jnp.sum(jax.lax.map(chunk, starts), axis=0)
    return value, total if u.probes is None else total / u.n


def _direction(x: PyTree, u: Directions, j: Array) -> PyTree:
    """Direction j, and 0 beyond the last (a chunk may be longer than what is left)."""
    if u.probes is not None:
        inside = (j < u.n).astype(float)
        return jax.tree.map(lambda leaf: leaf[j] * inside.astype(leaf.dtype), u.probes)
    leaves, structure = jax.tree.flatten(x)
    found: list[Any] = []
    before = 0
    for leaf in leaves:
        d = leaf[0].size
        one = (jnp.arange(d) == j - before).astype(leaf.dtype).reshape(1, *leaf.shape[1:])
        found.append(jnp.broadcast_to(one, leaf.shape))
        before += d
    return jax.tree.unflatten(structure, found)
