"""Restart sampling: a part of the walk is walked again and again, each time from fresh noise.

Where the walk has come down to sigma/alpha = low, it is noised up to high and solved back down, K
times over: noise, like an SDE's, wipes out the errors made so far, and the solver between, being
deterministic, makes few new ones. A restart shrinks an error in law by what the probability flow
shrinks from high to low.

Xu et al. 2023, arXiv:2306.14878, section 3 and algorithm 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Num

from jaxdiff.process import Process, check_grid, scales, time_of
from jaxdiff.process.grids import lowest
from jaxdiff.process.noise_grids import LARGEST_RATIO
from jaxdiff.types import Rows, Scalar, number


class Again(NamedTuple):
    """An interval to be walked again: from `high` to `low`, in sigma/alpha, `repeat` times, in
    `steps` steps each time."""

    low: Scalar
    high: Scalar
    steps: int
    repeat: int


def restart(
    ts: Num[Array, " m"],
    process: Process,
    intervals: Sequence[tuple[Scalar, Scalar, int, int]],
    *,
    rho: Scalar = 7.0,
) -> Rows:
    """The rows of restart sampling: those of a grid, with intervals that are walked again.

    Each interval begins at the point of the grid next to its lower end (never at its two ends), and
    reaches at least to the point before. Any solver walks them; its history is void after a jump.
    They take repeat * steps steps more.

    Args:
      ts: [n + 1] decreasing times.
      process: what noise does, for the levels of the intervals.
      intervals: (low, high, steps, repeat) or `Again`: levels in sigma/alpha, 0 < low < high, and
        numbers of at least 1.
      rho: how the steps of an interval are spread, as in `karras`.

    Returns:
      rows for `run`; in `sample`, give a partial of this as `rows`.

    Raises:
      ValueError: if the times do not decrease, an interval is empty, or a number is below 1.

    Xu et al. 2023, arXiv:2306.14878, algorithm 2.

    >>> from jaxdiff import process
    >>> rows = restart(jnp.array([80.0, 2.0, 0.1, 0.0]), process.edm(), [(0.1, 1.0, 1, 2)])
    >>> [[round(float(a), 2) for a in column] for column in (rows.t, rows.s, rows.u)]
    [[80.0, 2.0, 2.0, 2.0, 0.1], [2.0, 0.1, 0.1, 0.1, 0.0], [2.0, 2.0, 2.0, 0.1, 0.0]]
    """
    check_grid(ts)
    ts, n = number(ts), ts.shape[0] - 1
    count = jnp.arange(n)
    t, s, place, i = [ts[:-1]], [ts[1:]], [number(count)], [count]
    for which, interval in enumerate(intervals):
        again = _checked(Again(*interval))
        at = _nearest(process, ts, again.low)
        walk = _walk(process, ts, at, again, number(rho))
        share = (jnp.arange(again.steps * again.repeat) + 1) / (again.steps * again.repeat + 1)
        t.append(jnp.tile(walk[:-1], again.repeat))
        s.append(jnp.tile(walk[1:], again.repeat))
        place.append(at - 1 + (which + share) / len(intervals))
        i.append(jnp.clip(jnp.searchsorted(-ts, -t[-1], side="right") - 1, 0, n - 1))
    order = jnp.argsort(jnp.concatenate(place))
    t, s, i = (jnp.concatenate(column)[order] for column in (t, s, i))
    return Rows(t, s, jnp.concatenate([t[1:], s[-1:]]), i, jnp.arange(len(t)))


def _checked(again: Again) -> Again:
    low, high, steps, repeat = again
    plain = all(isinstance(a, int | float) for a in (low, high))
    if plain and not 0 < low < high:
        raise ValueError(f"low={low}, high={high}: give levels in sigma/alpha, 0 < low < high")
    if steps < 1 or repeat < 1:
        raise ValueError(f"steps={steps}, repeat={repeat}: both must be at least 1")
    return again


def _nearest(process: Process, ts: Array, low: Scalar) -> Array:
    """Number of the point inside of the grid that is next to the level."""
    alpha, sigma = scales(process, ts[1:-1] if len(ts) > 2 else ts[1:])
    return jnp.argmin(jnp.abs(sigma / alpha - number(low))) + 1


def _walk(process: Process, ts: Array, at: Array, again: Again, rho: Array) -> Array:
    """[steps + 1] times from high down to the point `at` of the grid."""
    top = jnp.maximum(time_of(process, -2 * jnp.log(number(again.high))), ts[at - 1])
    alpha, sigma = scales(process, jnp.stack([top, ts[at]]))
    ratios = jnp.clip(sigma / alpha, lowest(process)[1], LARGEST_RATIO)
    high, low = ratios ** (1 / rho)
    ratios = (high + jnp.linspace(0.0, 1.0, again.steps + 1) * (low - high)) ** rho
    inside = time_of(process, -2 * jnp.log(ratios[1:-1]))
    return jnp.concatenate([top[None], inside, ts[at][None]])
