"""The one conjugate gradient: batched, with inner products per sample.

A library's solver run on a batch would couple the samples through its inner products; here each
sample has its own step sizes, so that sample i does not depend on the batch around it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.canonical import scan
from jaxdiff.trees import combine, dots
from jaxdiff.types import PyTree

_Carry = tuple[PyTree, PyTree, PyTree, Array, Array]


def cg(
    matvec: Callable[[PyTree], PyTree], b: PyTree, *, steps: int, tolerance: float = 0.0
) -> PyTree:
    """Solve M u = b for a symmetric positive definite M, per sample.

    Args:
      matvec: v -> M v on trees with leading axis b; it must not mix samples.
      b: right-hand side, leaves [b, ...].
      steps: number of steps, static; the work is the same for every sample.
      tolerance: a sample rests once |r| <= tolerance |b|, at the latest when r is rounding error.

    Returns:
      u, like b.

    Hestenes & Stiefel 1952, doi:10.6028/jres.049.044.

    >>> u = cg(lambda v: 4.0 * v, jnp.ones((1, 2)), steps=1)
    >>> u.tolist()
    [[0.25, 0.25]]
    """
    # below rounding error there is no direction left: steps there would be noise, their
    # derivatives (quotients of what has vanished) more so
    rounding = 4 * jnp.finfo(dots(b, b).dtype).eps
    bound = max(tolerance, rounding) ** 2 * dots(b, b)

    def step(carry: _Carry, _: None) -> tuple[_Carry, None]:
        u, r, p, rr, top = carry
        q = matvec(p)
        pq, pp = dots(p, q), dots(p, p)
        # a direction that M does not see: what is left of b is outside its range
        top = jnp.maximum(top, pq / jnp.where(pp > 0, pp, 1.0))
        # a sample that is done takes no more steps, and 0/0 must not arise
        alive = (rr > bound) & (pq > rounding * top * pp)
        rate = jnp.where(alive, rr / jnp.where(alive, pq, 1.0), 0.0)
        u, r = combine((1.0, u), (rate, p)), combine((1.0, r), (-rate, q))
        new = dots(r, r)
        turn = jnp.where(alive, new / jnp.where(alive, rr, 1.0), 0.0)
        p = combine((1.0, r), (turn, p))
        return (u, r, p, jnp.where(alive, new, rr), top), None

    start = (jax.tree.map(jnp.zeros_like, b), b, b, dots(b, b), jnp.zeros_like(bound))
    return scan(step, start, length=steps)[0][0]
