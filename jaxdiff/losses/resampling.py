"""Steps drawn by how much they matter: p_i proportional to sqrt(E L_i^2), without bias.

A chain's bound is a sum over its steps, and a few of them hold most of it. Drawn with p_i and
divided by p_i the sum keeps its mean, and this p has the least variance. E L_i^2 is taken over the
last losses seen at step i; until every step has been seen so often, the draw is uniform.

The state is a record of arrays, threaded by whoever writes the training step:

    state = resampler(1000)
    (loss, aux), grads = value_and_grad(vlb_loss, has_aux=True)(..., resampler=state)
    state = observed(state, aux["index"], aux["term"])

Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.3.
"""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxdiff.types import Scalar, number, record


@record
class Resampler:
    """The last losses of every step [n, h] (newest last), how many of them are real [n], the floor.

    `floor` is the share of draws that stay uniform, so that no step is forgotten.
    """

    history: Float[Array, "n h"]
    count: Int[Array, " n"]
    floor: Float[Array, ""]


def resampler(n: int, *, history: int = 10, floor: Scalar = 0.001) -> Resampler:
    """A resampler of n steps that has seen nothing: it draws uniformly.

    Args:
      n: number of steps of the chain.
      history: losses kept for a step.
      floor: in (0, 1], the share of uniform draws.

    Raises:
      ValueError: if n < 1, history < 1, or floor is outside (0, 1].

    Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.3: ten losses for each step.

    >>> shares(resampler(4)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if n < 1 or history < 1:
        raise ValueError(f"n={n}, history={history}: both are at least 1")
    if not isinstance(floor, Tracer) and not 0 < float(floor) <= 1:
        raise ValueError(f"floor={floor}: a share in (0, 1]; 0 would forget steps for good")
    return Resampler(jnp.zeros((n, history)), jnp.zeros(n, jnp.int32), number(floor))


def shares(state: Resampler) -> Float[Array, " n"]:
    """The probability of every step; uniform until each has a full history.

    >>> seen = observed(resampler(2, history=1), jnp.array([0, 1]), jnp.array([3.0, 1.0]))
    >>> [round(float(p), 3) for p in shares(seen)]
    [0.75, 0.25]
    """
    n, history = state.history.shape
    size = jnp.sqrt(jnp.mean(state.history**2, axis=1))
    total = jnp.sum(size)
    usable = jnp.all(state.count == history) & (total > 0) & jnp.isfinite(total)
    share = (1 - state.floor) * size / jnp.where(usable, total, 1.0) + state.floor / n
    return jnp.where(usable, share, 1 / n)


def drawn(state: Resampler, u: Float[Array, " b"]) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """Steps i by inverting their distribution, and their weights 1/(n p_i), whose mean is 1.

    Args:
      state: the resampler.
      u: [b] uniform in (0, 1).

    Returns:
      (index [b], weight [b]).

    >>> index, weight = drawn(resampler(4), jnp.array([0.1, 0.9]))
    >>> index.tolist(), weight.tolist()
    ([0, 3], [1.0, 1.0])
    """
    share = shares(state)
    n = len(share)
    edges = jnp.cumsum(share)
    index = jnp.searchsorted(edges / edges[-1], u, side="right")
    index = jnp.minimum(index, n - 1).astype(jnp.int32)
    return index, 1 / (n * share[index])


def observed(state: Resampler, index: Int[Array, " b"], term: Float[Array, " b"]) -> Resampler:
    """The state after losses `term` were seen at the steps `index`, one after the other.

    On several devices gather both first, so that all hold the same state.

    Args:
      state: the resampler.
      index: [b] steps.
      term: [b] their losses, without weights.

    >>> observed(resampler(2, history=2), jnp.array([0, 0, 0]), jnp.arange(3.0)).history.tolist()
    [[1.0, 2.0], [0.0, 0.0]]
    """

    def one(state: Resampler, seen: tuple[Array, Array]) -> tuple[Resampler, None]:
        i, loss = seen
        row = jnp.concatenate([state.history[i, 1:], loss[None].astype(state.history.dtype)])
        count = jnp.minimum(state.count[i] + 1, len(row)).astype(state.count.dtype)
        history = state.history.at[i].set(row)
        return Resampler(history, state.count.at[i].set(count), state.floor), None

    return jax.lax.scan(one, state, (index, jax.lax.stop_gradient(term)))[0]
