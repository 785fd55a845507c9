"""The one loop: rows of times, and a scan over them that knows no alpha.

A row says: step t -> s, then noise s -> u. A plain grid never noises; time travel (RePaint,
DDNM+) noises back to the start of a block of steps and walks it again. Lugmayr et al. 2022,
arXiv:2201.09865, algorithm 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, Num

from jaxdiff import trees
from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, check_grid, transition
from jaxdiff.trees import Tape, combine, fold, normal
from jaxdiff.types import RENOISE, Estimate, Now, PyTree, Rows, Sampler, State

Look = Callable[[Now, PyTree, Estimate], PyTree]
"""look(now, x_s, estimate) -> what to keep of this step."""


def grid(ts: Num[Array, "m *b"]) -> Rows:
    """One pass down a grid of n + 1 decreasing times; times may differ per sample, [n + 1, b].

    Raises:
      ValueError: if the times do not decrease, or are fewer than two.

    >>> grid(jnp.array([2.0, 1.0, 0.0])).s.tolist()
    [1.0, 0.0]
    """
    check_grid(ts)
    count = jnp.arange(ts.shape[0] - 1)
    return Rows(ts[:-1], ts[1:], None, count, count)


def travel(ts: Num[Array, "m *b"], repeat: int, jump: int = 1) -> Rows:
    """Time travel: every block of `jump` steps is walked `repeat` times.

    After a block has been walked, and unless it was for the last time, the sample is noised from
    its end back to its start. Solver history is void after a jump.

    Args:
      ts: [n + 1] decreasing times.
      repeat: how often each block is walked, at least 1 (RePaint's r).
      jump: steps in a block (RePaint's j).

    Raises:
      ValueError: if repeat or jump is below 1, or the times do not decrease.

    >>> rows = travel(jnp.array([2.0, 1.0, 0.0]), repeat=2)
    >>> rows.t.tolist(), rows.u.tolist()
    ([2.0, 2.0, 1.0, 1.0], [2.0, 1.0, 1.0, 0.0])
    """
    check_grid(ts)
    if repeat < 1 or jump < 1:
        raise ValueError(f"repeat={repeat}, jump={jump}: both must be at least 1")
    i, u = _walk(ts.shape[0] - 1, repeat, jump)
    return Rows(ts[i], ts[i + 1], ts[u], jnp.asarray(i), jnp.arange(len(i)))


def _walk(n: int, repeat: int, jump: int) -> tuple[np.ndarray, np.ndarray]:
    steps: list[tuple[int, int]] = []
    for first in range(0, n, jump):
        block = range(first, min(first + jump, n))
        for time in range(repeat):
            ends = [i + 1 for i in block]
            if time < repeat - 1:
                ends[-1] = first
            steps += zip(block, ends, strict=True)
    i, u = np.array(steps).T
    return i, u


def renoise(keys: Any, process: Process, s: Any, u: Any, x: PyTree) -> PyTree:
    """Draw x_u from q(x_u | x_s), u >= s; where u = s nothing changes."""
    kernel = transition(process, s, u)
    return combine((kernel.shrink, x), (jnp.sqrt(kernel.var), normal(keys, x)))


def run(
    keys: Key[Array, " b"] | Tape,
    denoise: Denoiser,
    sampler: Sampler,
    rows: Rows,
    x: PyTree,
    *,
    look: Look | None = None,
    renoise: Callable[..., PyTree] = renoise,
) -> Any:
    """Walk a sample down the rows.

    Sample i draws from keys[i] alone, folded with the number of the row, so it does not depend on
    the batch around it. Convolutions inside the loop are kept in the form that every backend runs
    fast, gradients included.

    Args:
      keys: [b], one per sample; or the noise itself, a `tape`.
      denoise: the denoiser, guided or not.
      sampler: the solver, corrected or not.
      rows: `grid(ts)` or `travel(ts, ...)`.
      x: x_T, leaves [b, ...].
      look: if given, `look(now, x_s, estimate)` is kept of every row.
      renoise: how to noise from s to u (for other state spaces).

    Returns:
      x at the last time; with `look`, also what it kept, stacked along a first axis.

    >>> import jax
    >>> from jaxdiff import exact, process, samplers
    >>> d = exact.denoiser(exact.gaussian(jnp.ones(1), 0.01 * jnp.eye(1)), process.edm())
    >>> keys = trees.keys_for(jax.random.key(0), jnp.arange(2))
    >>> rows = grid(process.karras(process.edm(), 20))
    >>> x = run(keys, d, samplers.heun(), rows, 80.0 * jnp.ones((2, 1)))
    >>> bool(jnp.all(jnp.abs(x - 1.1) < 0.01))   # one standard deviation above the mean
    True
    """
    _check_keys(keys, rows, x)
    first = denoise.memory(x) if denoise.memory is not None else {}
    n = jnp.max(rows.i) + 1

    def body(carry: tuple[State, dict[str, Any]], row: Rows) -> tuple[Any, PyTree]:
        state, memory = carry
        now = Now(row.t, row.s, row.i, n, fold(keys, row.k), memory)
        state, est = sampler.step(now, denoise, state)
        memory = {name: est.aux[name] for name in memory}
        seen = None if look is None else look(now, state.x, est)
        if row.u is not None:
            state = _jump(now, denoise.process, sampler, state, row.u, renoise)
        return (state, memory), seen

    (state, _), seen = scan(body, (sampler.init(x), first), rows)
    return state.x if look is None else (state.x, seen)


def _jump(now: Now, process: Any, sampler: Sampler, state: State, u: Any, noise: Any) -> State:
    x = noise(fold(now.key, RENOISE), process, now.s, u, state.x)
    fresh = sampler.init(x)
    return State(x, trees.where(jnp.asarray(u) > now.s, fresh.hist, state.hist))


def _check_keys(keys: Any, rows: Rows, x: PyTree) -> None:
    if isinstance(keys, Tape):
        expected, found = rows.k.shape[0], {leaf.shape[0] for leaf in jax.tree.leaves(keys)}
        if found != {expected}:
            raise ValueError(f"the tape has {sorted(found)} rows of noise for {expected} steps")
        return
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"keys of dtype {keys.dtype}: give typed keys, one per sample, e.g. "
            "trees.keys_for(jax.random.key(0), jnp.arange(b))"
        )
    if keys.ndim != 1 or keys.shape[0] != trees.size(x):
        raise ValueError(
            f"keys of shape {keys.shape} for {trees.size(x)} samples: one key per sample, e.g. "
            "trees.keys_for(key, jnp.arange(b))"
        )
