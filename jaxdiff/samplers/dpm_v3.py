"""DPM-Solver-v3: exponential multistep in a form that statistics of the model choose.

With l = log(alpha/sigma) as the time and y = x/alpha the probability flow is, for any lin,

    dy/dl = -lin y - f,        f = (sigma eps - lin x)/alpha,

and f is written, for any slope and bias, as f = e^S (g + B) with S = int slope dl and
B = int e^-S bias dl, both from the start of the step. So with L = int lin dl

    y_s = e^-L_s [ y_t - int_t^s e^(L + S) (g + B) dl ],

where g is continued as a polynomial through its last values. `model_statistics` chooses lin such
that f is the least sensitive to x, slope and bias such that g changes the least. (1, 0, 0) is
DPM-Solver++, (0, -1, 0) DPM-Solver. The integrals are taken by Gauss's rule with 16 nodes.

Zheng et al. 2023, arXiv:2310.13268, eq. (6)-(14), algorithm 1; their l, s, b are lin, slope, bias.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import log_snr, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.exponential import lagrange
from jaxdiff.samplers.past import Past, empty, remember
from jaxdiff.samplers.statistics import Statistics
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State


class _Held(NamedTuple):
    """f at the last places, x/alpha at the last one, and the x that its step led to."""

    past: Past
    y: PyTree
    led: PyTree


class _Here(NamedTuple):
    """The level now (0 where alpha = 0), f and y there, and the estimate as (x_0, eps)."""

    level: Array
    f: PyTree
    y: PyTree
    x0: PyTree
    eps: PyTree


def dpm_solver_v3(statistics: Statistics, order: int = 3, *, correct: bool = True) -> Sampler:
    """DPM-Solver-v3, multistep, of order 1 to 3; one evaluation a step.

    y_s = e^-L_s [ y_t - int_t^s e^(L + S) (g + B) dl ], g through its last `order` values.

    A step from alpha = 0 or to sigma = 0 is DDIM's.

    Args:
      statistics: of the model, `model_statistics(...)`; or numbers of one's own.
      order: values of g that are continued, 1 to 3.
      correct: take every step again once the estimate at its end is known, with that as one value
        more (no further evaluation): an order more.

    Raises:
      ValueError: if order is not 1, 2 or 3, or the tables have fewer than two levels.

    Zheng et al. 2023, arXiv:2310.13268, algorithm 1, without the pseudo-order of its appendix.

    >>> plus = Statistics(jnp.array([-5.0, 5.0]), jnp.ones(2), jnp.zeros(2), jnp.zeros(2))
    >>> dpm_solver_v3(plus).init(jnp.zeros((2, 3))).hist.past.known.tolist()   # DPM-Solver++
    [0, 0]
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order}: 1, 2 or 3")
    if statistics.level.shape[0] < 2:
        raise ValueError(f"statistics at {statistics.level.shape[0]} level: give two or more")

    def init(x: PyTree) -> State:
        none = jax.tree.map(jnp.zeros_like, x)
        return State(x, _Held(empty(x, order), none, none))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        _one_time(now.s)
        (alpha, _), (alpha_s, sigma_s) = (scales(denoise.process, t) for t in (now.t, now.s))
        there = log_snr(denoise.process, now.s) / 2
        est = denoise(state.x, now.t, now)
        here, past = _here(statistics, denoise, now, state.x, est), state.hist.past
        before = _usable(past)
        if correct:
            again = jnp.where(alpha > 0, before, 0)
            y = _corrected(statistics, here, state.hist, alpha, again, order)
            here = here._replace(y=y)

        def onwards() -> PyTree:
            places = [here.level, *(p[0] for p in past.places[: order - 1])]
            values, used = [here.f, *past.values[: order - 1]], jnp.minimum(before, order - 1) + 1
            return combine((alpha_s, _advance(statistics, places, values, used, there, here.y)))

        straight = combine((alpha_s, here.x0), (sigma_s, here.eps))
        x = jax.lax.cond((alpha > 0) & (sigma_s > 0), onwards, lambda: straight)
        level = jnp.broadcast_to(log_snr(denoise.process, now.t) / 2, (trees.size(state.x),))
        return State(x, _Held(remember(past, here.f, level), here.y, x)), est

    return Sampler(init, step)


def _one_time(s: Any) -> None:
    if jnp.ndim(s):
        raise ValueError(
            "dpm_solver_v3 takes one time for the whole batch: give a grid of shape [n + 1]"
        )


def _here(s: Statistics, denoise: Denoiser, now: Now, x: PyTree, est: Estimate) -> _Here:
    alpha, sigma = scales(denoise.process, now.t)
    away = alpha > 0
    safe = jnp.where(away, alpha, 1.0)
    level = jnp.where(away, log_snr(denoise.process, now.t) / 2, 0.0)
    eps = noise_of(denoise, x, now.t, est.x0)
    lin = _like(s.at(s.lin, level.reshape(1)), x)
    f = jax.tree.map(lambda e, x, c: (sigma * e - _over(c[0], x)) / safe, eps, x, lin)
    f = trees.where(away, f, jax.tree.map(jnp.zeros_like, f))
    return _Here(level, f, combine((1 / safe, x)), est.x0, eps)


def _over(weight: Array, leaf: Array) -> Array:
    """A leaf [b, ...] times a number, or times an array like one sample."""
    return _batched(weight) * leaf


def _batched(a: Array) -> Array:
    return a[None] if a.ndim else a


def _like(table: PyTree, x: PyTree) -> PyTree:
    """A tree like x: of the table's leaves, or of the one table for all leaves."""
    if jax.tree.structure(table) == jax.tree.structure(x):
        return table
    return jax.tree.map(lambda _: table, x)


def _usable(past: Past) -> Array:
    """How many of the last values there are, without one from alpha = 0."""
    known = [(past.known[0] > j) & jnp.isfinite(p[0]) for j, p in enumerate(past.places)]
    return sum((k.astype(int) for k in known), jnp.zeros((), int))


def _corrected(
    s: Statistics, here: _Here, held: _Held, alpha: Array, before: Array, order: int
) -> PyTree:
    """y now, by the step that led here, with what is known here as one value more.

    Only the change is applied: what others did to x since that step stays.
    """
    places = [held.past.places[0][0], here.level, *(p[0] for p in held.past.places[1:order])]
    values = [held.past.values[0], here.f, *held.past.values[1:order]]

    def again() -> PyTree:
        better = _advance(s, places, values, before + 1, here.level, held.y)
        return combine((1.0, here.y), (1.0, better), (-1 / alpha, held.led))

    return jax.lax.cond(before > 0, again, lambda: here.y)


def _advance(
    s: Statistics, places: list[Array], values: list[PyTree], used: Array, end: Array, y: PyTree
) -> PyTree:
    """y at `end`, from y at places[0], with g through the `used` first values of f."""
    start = places[0]
    h = end - start
    taken = [j < used for j in range(len(places))]
    nodes = [jnp.where(t, (p - start) / h, -j) for j, (t, p) in enumerate(zip(taken, places))]
    rows = _coefficients(nodes, used)
    stops = [end] + [jnp.where(t, p, start) for t, p in zip(taken[1:], places[1:])]
    tables = [jax.tree.leaves(_like(table, y)) for table in (s.lin, s.slope, s.bias)]
    held = [jax.tree.leaves(value) for value in values]

    def one(k: int, y: Array) -> Array:
        spans = [_span(s, [table[k] for table in tables], start, stop) for stop in stops]
        return _leaf(y, [value[k] for value in held], spans, rows)

    moved = [one(k, leaf) for k, leaf in enumerate(jax.tree.leaves(y))]
    return jax.tree.unflatten(jax.tree.structure(y), moved)


def _coefficients(nodes: list[Array], used: Array) -> list[list[Array]]:
    """Of each node the coefficients of its Lagrange polynomial through the `used` first ones."""
    found = [[jnp.zeros_like(nodes[0]) for _ in nodes] for _ in nodes]
    for n in range(1, len(nodes) + 1):
        for j, poly in enumerate(lagrange(nodes[:n])):
            for m, c in enumerate(poly):
                found[j][m] = jnp.where(used == n, c, found[j][m])
    return found


class _Span(NamedTuple):
    """Integrals from the start of a step to some level: of lin, slope, e^-S bias, and with g."""

    lin: Array
    slope: Array
    bias: Array
    drift: Array
    moments: list[Array]


def _span(s: Statistics, tables: list[Array], start: Array, end: Array, most: int = 4) -> _Span:
    """int e^(L + S - L_s) (B or u^m) dl, u = 0 ... 1 along the step, and what they are made of."""
    c, weights, rising = (jnp.asarray(a, dtype=start.dtype) for a in _rule())
    h = end - start
    lin, slope, bias = (h * s.at(table, start + h * c) for table in tables)

    def inner(values: Array) -> Array:
        return jnp.tensordot(rising, values, 1)

    def whole(values: Array) -> Array:
        return jnp.tensordot(weights, values, 1)

    waned = jnp.exp(-inner(slope)) * bias
    kernel = h * jnp.exp(inner(slope) + inner(lin) - whole(lin)[None])
    moments = [jnp.tensordot(weights * c**m, kernel, 1) for m in range(most)]
    drift = whole(kernel * inner(waned))
    return _Span(whole(lin), whole(slope), whole(waned), drift, moments)


def _leaf(y: Array, values: list[Array], spans: list[_Span], rows: list[list[Array]]) -> Array:
    step, *shifts = spans
    total = _over(jnp.exp(-step.lin), y) - _batched(step.drift)
    for j, (f, row) in enumerate(zip(values, rows, strict=True)):
        g = f
        if j:
            g = _over(jnp.exp(-shifts[j - 1].slope), f) - _batched(shifts[j - 1].bias)
        weight = sum((a * m for a, m in zip(row, step.moments)), jnp.zeros_like(step.lin))
        total = total - _over(weight, g)
    return total


def _rule(count: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss's nodes c and weights on [0, 1]; the integrals to c_i of the polynomial of node j."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    values = np.polynomial.legendre.legvander(nodes, count)
    rising = np.empty((count, count))
    rising[:, 0] = nodes + 1
    odd = 2 * np.arange(1, count) + 1
    rising[:, 1:] = (values[:, 2:] - values[:, : count - 1]) / odd
    return (nodes + 1) / 2, weights / 2, rising @ np.linalg.inv(values[:, :count]) / 2
