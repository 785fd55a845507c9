"""Exponential integrals: a value continued as a polynomial through nodes in l = log(alpha/sigma).

Every exponential multistep method steps over h = l_s - l_t by

    x_s = first + gain sum_j w_j (D_j - D_0),    w_j = int_0^k weight(u) L_j(u/k) du,

with `first` the step of first order, D_j the values at the nodes v_j = (l_j - l_t)/h (0 is the
present, negative ones are the past, 1 is the end of the step), and L_j the polynomial that is 1 at
v_j and 0 at the other nodes. The weight is e^(u-k) where x_0 is continued, and e^-u where eps is.
With the moments

    M_m = int_0^k weight(u) (u/k)^m du,    M_0 = 1 - e^-k,
    x_0:  M_m = 1 - m M_(m-1)/k,           eps:  M_m = m M_(m-1)/k - e^-k,

w_j is the sum of L_j's coefficients times the moments. The recurrences lose digits for k < 1; there
M_m is k m! phi_(m+1)(-k) or k e^-k m! phi_(m+1)(k), by the series of the highest phi and
phi_m(x) = x phi_(m+1)(x) + 1/m! for the others.

Hochbruck and Ostermann 2010, Acta Numerica 19.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

Slope = Callable[[Array, Array, bool], Array]
"""slope(k, M_0, by_noise): what stands in for M_1."""


def moments(k: Array, count: int, *, by_noise: bool = False) -> list[Array]:
    """M_0 ... M_(count-1) for k > 0, to rounding in any precision.

    Args:
      k: [b], finite, > 0.
      count: how many, at least 1.
      by_noise: weigh by e^-u, for eps; else by e^(u-k), for x_0.

    >>> [round(float(m[0]), 4) for m in moments(jnp.ones(1), 2)]   # 1 - 1/e, 1/e
    [0.6321, 0.3679]
    """
    found = [-jnp.expm1(-k)]
    if count == 1:
        return found
    large = jnp.maximum(k, 1.0)
    for m in range(1, count):
        lost = m * (found[-1] if m > 1 else -jnp.expm1(-large)) / large
        found.append(lost - jnp.exp(-large) if by_noise else 1 - lost)
    close = _by_series(jnp.minimum(k, 1.0), count, by_noise)
    return [found[0]] + [jnp.where(k < 1, a, b) for a, b in zip(close[1:], found[1:], strict=True)]


def _by_series(k: Array, count: int, by_noise: bool) -> list[Array]:
    """k m! phi_(m+1)(-k), or k e^-k m! phi_(m+1)(k), for 0 <= k <= 1."""
    x, scale = (k, k * jnp.exp(-k)) if by_noise else (-k, k)
    top = count - 1
    total = jnp.ones_like(k)
    for j in range(jnp.finfo(k.dtype).nmant // 3 + 3, 0, -1):
        total = 1 + x * total / (top + 1 + j)
    phis = [total / (top + 1)]
    for m in range(top, 0, -1):
        phis.append((1 + x * phis[-1]) / m)
    return [scale * phi for phi in reversed(phis)]


def lagrange(nodes: list[Array]) -> list[list[Array]]:
    """For every node the coefficients of 1, v, v^2, ... of the polynomial that is 1 there, else 0.

    >>> [[float(c) for c in row] for row in lagrange([jnp.array(0.0), jnp.array(-1.0)])]
    [[1.0, 1.0], [-0.0, -1.0]]
    """
    found = []
    for j, own in enumerate(nodes):
        poly: list[Any] = [jnp.ones_like(own)]
        for other in nodes[:j] + nodes[j + 1 :]:
            zero = jnp.zeros_like(own)
            pairs = zip([-other * a for a in poly] + [zero], [zero, *poly], strict=True)
            poly = [(a + b) / (own - other) for a, b in pairs]
        found.append(poly)
    return found


def weights(nodes: list[Array], used: Array, ladder: list[list[Array]]) -> list[Array]:
    """w_j of every node where the first `used` ones are taken; 0 where a node is not.

    Args:
      nodes: v_j, each [b], all different; in the order in which they are taken.
      used: [b], how many are taken; with 0 every weight is 0.
      ladder: ladder[n - 1] holds the n moments that n nodes are weighed by.

    >>> half = [[jnp.ones(1)], [jnp.ones(1), 0.5 * jnp.ones(1)]]
    >>> [float(w[0]) for w in weights([jnp.zeros(1), -jnp.ones(1)], jnp.array([2]), half)]
    [1.5, -0.5]
    """
    found = [jnp.zeros_like(node) for node in nodes]
    for n, row in enumerate(ladder, start=1):
        for j, poly in enumerate(lagrange(nodes[:n])):
            weight = sum((a * m for a, m in zip(poly, row, strict=True)), jnp.zeros_like(nodes[0]))
            found[j] = jnp.where(used == n, weight, found[j])
    return found


def midpoint(k: Array, whole: Array, by_noise: bool) -> Array:
    """M_0/2 in the place of M_1: DPM-Solver's midpoint, and UniPC's B_2(h) = e^h - 1."""
    return 0.5 * whole


def even(k: Array, whole: Array, by_noise: bool) -> Array:
    """The weight at s times k/2 in the place of M_1: UniPC's B_1(h) = h, and SA-Solver's."""
    return 0.5 * k * jnp.exp(-k) if by_noise else 0.5 * k


def ladder(k: Array, most: int, slope: Slope | None, bend: float, by_noise: bool) -> list[Any]:
    """The moments that 1, 2, ... `most` nodes are weighed by, with what the methods change in them.

    Args:
      k: [b], finite.
      most: number of nodes.
      slope: stands in for M_1 where two nodes are used; None leaves it.
      bend: the share of M_2 where three nodes are used.
      by_noise: see `moments`.

    >>> [len(row) for row in ladder(jnp.ones(1), 3, midpoint, 0.5, False)]
    [1, 2, 3]
    """
    every = moments(k, 1 if most == 2 and slope is not None else most, by_noise=by_noise)
    rows = [every[:n] for n in range(1, most + 1)]
    if slope is not None and most > 1:
        rows[1] = [every[0], slope(k, every[0], by_noise)]
    if most > 2:
        rows[2] = [*every[:2], bend * every[2]]
    return rows
