"""Adams-Moulton with a limiter: one evaluation a step, an order that the solution itself chooses.

In the frame of a flow whose data are S wide,

    y = x / (S alpha + sigma),    v = sigma / (S alpha + sigma),
    dy/dv = F = E[eps | x_t] - E[x_0 | x_t] / S,

F is continued as a polynomial not in v but in the place tau of `root_flow`, where even steps suit
it, and integrated exactly against dv. With Newton's divided differences through tau_0, tau_1, ...
(newest first) and v = C tau^2 / (C tau^2 + S (1 - tau) (1 - b tau)),

    int_a^b F dv = sum_m theta_m F[tau_0 .. tau_m] int_a^b (tau - tau_0)..(tau - tau_(m-1)) v' dtau.

Predict from here to the next time, with theta_m = theta^m (Adams-Bashforth where theta = 1). When
the next evaluation is there, correct: repeat the step that led to it, now with it, with theta_m =
1, 1, theta, theta^2 (Adams-Moulton); the evaluation is not repeated. Here

    theta = 1 / (1 + (d/kappa)^M),

d the root mean square, per sample, of the change of E[eps | x_t] since the last evaluation: large
steps are made at low order, small ones at high order, without a switch. Where a step to sigma = 0
is continued, but longer than the one before because the network is not asked below t_min, theta is
multiplied by the square of their ratio: a polynomial is not continued far beyond its slopes.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import Root, root, root_place, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.past import Past, empty, remember
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, Now, PyTree, Sampler, Scalar, State, number

WIDTH = 0.135 / 0.7
"""S over the standard deviation of the data."""
_X, _W = np.polynomial.legendre.leggauss(16)
_NODES, _SHARES = (_X[:, None] + 1) / 2, _W[:, None] / 2


class Course(NamedTuple):
    """Slopes F before this step, the last E[eps | x_t], and the increment that led here."""

    slopes: Past
    eps: PyTree
    made: PyTree


class _Frame(NamedTuple):
    """C, b and S."""

    root: Root
    s: Array


class _Point(NamedTuple):
    """S alpha + sigma, and tau, at a time; each [b]."""

    scale: Array
    tau: Array


def adams_moulton(
    order: int = 3,
    *,
    std: Scalar = 0.7,
    bend: Scalar = 0.8,
    kappa: Scalar = 0.27,
    power: Scalar = 4.0,
    continued: bool = False,
) -> Sampler:
    """Adams-Moulton predictor-corrector of order 1 to 4 with a limiter, for the probability flow.

    One evaluation a step. Made for the grid `root_flow` of the same `std` and `bend`; any other
    will do.

    Args:
      order: largest number of slopes in a polynomial, 1 (Euler) to 4.
      std: standard deviation of the data (that of pixels in [-1, 1] is 0.5 to 0.8).
      bend: in [0, 1], b; 0 suits exact denoisers, 0.8 networks.
      kappa: > 0, the change of the noise from step to step at which the order falls; infinite: no
        limiter.
      power: M > 0, how sharply.
      continued: take the step to sigma = 0 like every other; else it returns the last E[x_0 | x_t],
        so that what was done to that (clip, an edit) holds for the sample.

    Raises:
      ValueError: if order is not 1, 2, 3 or 4, std, kappa or power is not positive,
        or bend not in [0, 1].

    >>> len(adams_moulton().init(jnp.zeros((2, 5))).hist.slopes.values)
    2
    """
    _check(order, kappa, power)
    root(std, bend)  # refuses what is out of range

    def init(x: PyTree) -> State:
        zero = jax.tree.map(jnp.zeros_like, x)
        return State(x, Course(empty(x, order - 1), zero, zero))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        frame = _Frame(root(std, bend), WIDTH * number(std))
        here, there = (_point(denoise, t, frame, state.x) for t in (now.t, now.s))
        est, (past, before, made) = denoise(state.x, now.t, now), state.hist
        eps = noise_of(denoise, state.x, now.t, est.x0)
        slope = combine((1.0, eps), (-1 / frame.s, est.x0))
        theta = _theta(eps, before, number(kappa), number(power))
        taus, slopes = (here.tau, *past.places), (slope, *past.values)
        known, last = past.known, taus[-1 if order == 1 else 1]
        bold, falls = theta * _calm(here, there, last), [theta**m for m in range(order)]
        ahead = [bold**m for m in range(order)]
        ahead = _weights(taus, known, here.tau, there.tau, ahead, frame)
        again = _weights(taus, known, last, here.tau, [1, *falls], frame)
        again = [jnp.where(known > 0, weight, 0.0) for weight in (jnp.full_like(theta, -1), *again)]
        # what others did to x since then stays: only the difference of the two increments is added
        y = combine((1 / here.scale, state.x), *zip(again, (made, *slopes), strict=True))
        made = combine(*zip(ahead, slopes, strict=True))
        x = combine((there.scale, y), (there.scale, made))
        x = x if continued else trees.where(there.tau == 0, est.x0, x)
        return State(x, Course(remember(past, slope, here.tau), eps, made)), est

    return Sampler(init, step)


def _check(order: int, kappa: Scalar, power: Scalar) -> None:
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order={order}: 1, 2, 3 or 4")
    for name, value in (("kappa", kappa), ("power", power)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name}={value}: give a positive number")


def _point(denoise: Denoiser, t: Array, frame: _Frame, x: PyTree) -> _Point:
    alpha, sigma = scales(denoise.process, t)
    found = frame.s * alpha + sigma, root_place(denoise.process, t, frame.root)
    return _Point(*(jnp.broadcast_to(a, (trees.size(x),)) for a in found))


def _theta(eps: PyTree, before: PyTree, kappa: Array, power: Array) -> Array:
    """1 / (1 + (d/kappa)^M), d the root mean square of eps - before; [b]."""
    change = combine((1.0, eps), (-1.0, before))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(change)) / trees.size(change)
    return 1 / (1 + (trees.dots(change, change) / (numbers * kappa**2)) ** (power / 2))


def _calm(here: _Point, there: _Point, last: Array) -> Array:
    """(length of the last step over that of the next)^2, at most 1, on a step to sigma = 0; [b]."""
    ratio = (last - here.tau) / (here.tau - there.tau)
    return jnp.where(there.tau == 0, jnp.minimum(ratio, 1.0) ** 2, 1.0)


def _weights(
    taus: tuple[Array, ...],
    known: Array,
    start: Array,
    end: Array,
    thetas: Sequence[Array | int],
    frame: _Frame,
) -> list[Array]:
    """Weights [b] of the slopes at `taus` in the integral from start to end."""
    nodes, shares = number(_NODES), number(_SHARES)
    tau = start[None] + (end - start)[None] * nodes
    dv = (end - start)[None] * shares * _slope(tau, frame)
    weights = [_v(end, frame) - _v(start, frame)]
    for m in range(1, len(taus)):
        dv = dv * (tau - taus[m - 1][None])
        whole = jnp.where(known >= m, thetas[m] * jnp.sum(dv, axis=0), 0.0)
        weights.append(jnp.zeros_like(whole))
        for j in range(m + 1):
            gaps = [taus[j] - taus[i] for i in range(m + 1) if i != j]
            gap = functools.reduce(jnp.multiply, gaps)
            weights[j] += whole / jnp.where(gap == 0, 1.0, gap)  # 0: there is no such past yet
    return weights


def _v(tau: Array, frame: _Frame) -> Array:
    (c, b), s = frame
    return c * tau**2 / (c * tau**2 + s * (1 - tau) * (1 - b * tau))


def _slope(tau: Array, frame: _Frame) -> Array:
    """dv/dtau."""
    (c, b), s = frame
    whole = c * tau**2 + s * (1 - tau) * (1 - b * tau)
    return c * s * tau * (2 - (1 + b) * tau) / whole**2
