"""One step of every exponential multistep method: correct where we are, then predict where to go.

With l = log(alpha/sigma), h = l_s - l_t, r = sigma/alpha and eta >= 0 the share of the reverse SDE,

    x_0:  first = (sigma_s/sigma_t) e^(-eta h) x_t + alpha_s (1 - e^-k) x_0 + sigma_s std z,
          k = (1 + eta) h,  gain = alpha_s,  std^2 = 1 - e^(-2 eta h);
    eps:  first = (alpha_s/alpha_t) x_t - (1 + eta) excess eps + sqrt(eta) alpha_s r_t std z,
          k = h,  gain = -(1 + eta) alpha_s r_t,  excess = alpha_s r_t - sigma_s,
          std^2 = 1 - e^(-2h).

The predictor adds what the values before t say (see `exponential`). The corrector takes that back
and adds what the value at the end of the step says: no evaluation more, the same noise, and what
others did to x since then stays. The value at t remains the one at the predicted point.

Where h is infinite (alpha_t = 0 or sigma_s = 0) the value is constant: the step is of first order,
in eps it is DDIM's, and it is not corrected.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, log_snr, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.exponential import Slope, ladder, weights
from jaxdiff.samplers.past import Past, empty, remember
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, Scalar, State, number


class Method(NamedTuple):
    """What tells the methods apart.

    `predictor` and `corrector` count nodes (corrector 0: none); `slope` and `bend` see `ladder`;
    `by_noise`: eps is continued, else x_0. With fewer than `taper` steps the last ones are of order
    ..., 2, 1; with `euler_final` the very last one is of order 1.
    """

    predictor: int
    corrector: int = 0
    slope: Slope | None = None
    bend: float = 1.0
    by_noise: bool = False
    taper: Scalar = 0
    euler_final: bool = False


class Last(NamedTuple):
    """The step before: what the predictor added, and the gain and k [b] it did so with."""

    added: PyTree
    gain: Array
    k: Array


class History(NamedTuple):
    """Values before this step; `last` is () where nothing corrects."""

    past: Past
    last: Any


class _Here(NamedTuple):
    """A step to be made: from x, which the corrector has moved (None: nobody has), with noise z."""

    process: Process
    now: Now
    x: PyTree
    moved: PyTree | None
    x0: PyTree
    eps: PyTree | None
    eta: Array
    z: PyTree | None


def rate(value: Any, name: str, power: int = 1) -> Callable[[Array], Any] | None:
    """value^power as a function of sigma/alpha; None for a Python 0, where nothing is drawn."""
    if callable(value):
        return lambda ratio: number(value(ratio)) ** power
    if isinstance(value, int | float):
        if value < 0:
            raise ValueError(
                f"{name}={value}: 0 is deterministic, 1 the reverse SDE; give {name} >= 0"
            )
        if value == 0:
            return None
    return lambda ratio: number(value) ** power


def multistep(method: Method, eta: Callable[[Array], Any] | None = None) -> Sampler:
    """The solver of a method; `eta` is a function of sigma/alpha at t, None draws no noise."""
    length = max(method.predictor, method.corrector, 2 if method.corrector else 1) - 1

    def init(x: PyTree) -> State:
        none = jnp.zeros(trees.size(x))
        return State(x, History(empty(x, length), Last(x, none, none) if method.corrector else ()))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        x, (past, last), process = state.x, state.hist, denoise.process
        b = trees.size(x)
        est = denoise(x, now.t, now)
        eps = noise_of(denoise, x, now.t, est.x0) if method.by_noise else None
        value = eps if method.by_noise else est.x0
        level = jnp.broadcast_to(log_snr(process, now.t) / 2, (b,))
        moved = _correction(method, now, past, last, level, value) if method.corrector else None
        x = x if moved is None else combine((1.0, x), (1.0, moved))
        z = None if eta is None else normal(fold(now.key, SOLVER), x)
        here = _Here(process, now, x, moved, est.x0, eps, _rate(process, now, eta), z)
        first, *rest = (_by_noise if method.by_noise else _by_data)(here)
        gain, h, k = (jnp.broadcast_to(a, (b,)) for a in rest)
        x, past_now = first, remember(past, value, level)
        if method.predictor > 1:
            added = _prediction(method, now, past, level, value, gain, h, k)
            x = combine((1.0, first), (1.0, added))
        if method.corrector:
            last = Last(added if method.predictor > 1 else _zeros(x), gain, k)
        return State(x, History(past_now, last)), est

    return Sampler(init, step)


def _zeros(x: PyTree) -> PyTree:
    return combine((0.0, x))


def _rate(process: Process, now: Now, eta: Callable[[Array], Any] | None) -> Array:
    alpha, sigma = scales(process, now.t)
    return number(0.0 if eta is None else eta(sigma / alpha))


def _by_data(at: _Here) -> tuple[PyTree, Array, Array, Array]:
    """The step of first order in x_0, its gain, h and k."""
    (_, sigma), (alpha_s, sigma_s) = (scales(at.process, t) for t in (at.now.t, at.now.s))
    h = _distance(at)
    lost = at.eta * jnp.minimum(h, 1e3)  # e^-1000 is 0, and 0 times infinity is not
    k = h + lost
    terms = [((sigma_s / sigma) * jnp.exp(-lost), at.x), (-alpha_s * jnp.expm1(-k), at.x0)]
    if at.z is not None:
        terms.append((sigma_s * jnp.sqrt(-jnp.expm1(-2 * lost)), at.z))
    return combine(*terms), alpha_s, h, k


def _by_noise(at: _Here) -> tuple[PyTree, Array, Array, Array]:
    """The step of first order in eps, its gain, h and k."""
    (alpha, sigma), (alpha_s, sigma_s) = (scales(at.process, t) for t in (at.now.t, at.now.s))
    h = _distance(at)
    finite = jnp.isfinite(h)
    kept = jnp.where(finite, alpha_s / jnp.where(finite, alpha, 1.0), 0.0)
    stretch = kept * sigma  # alpha_s r_t = sigma_s e^h
    excess = -stretch * jnp.expm1(-h)
    # (alpha_s/alpha_t) x_t by x_0 and eps, which make up the point before it was moved
    terms = [(alpha_s, at.x0), (sigma_s - at.eta * excess, at.eps)]
    if at.moved is not None:
        terms.append((kept, at.moved))
    if at.z is not None:
        terms.append((jnp.sqrt(at.eta) * stretch * jnp.sqrt(-jnp.expm1(-2 * h)), at.z))
    return combine(*terms), -(1 + at.eta) * stretch, h, h


def _distance(at: _Here) -> Array:
    return (log_snr(at.process, at.now.s) - log_snr(at.process, at.now.t)) / 2


def _cap(method: Method, now: Now, left: Any) -> Array:
    """The highest order of a step with which `left` steps remain, itself included."""
    cap = jnp.where(now.n < number(method.taper), jnp.minimum(left, 9), 9)
    return jnp.where(left == 1, 1, cap) if method.euler_final else cap


def _nodes(places: tuple[Array, ...], zero: Array, h: Array, known: Array) -> tuple[Any, Array]:
    """Places before this step in units of h, and how many of them are usable."""
    nodes, count = [], jnp.zeros_like(known)
    for j, place in enumerate(places):
        usable = (known > j) & jnp.isfinite(place)
        away = jnp.where(usable, place, 0.0) - jnp.where(usable, zero, 0.0)
        nodes.append(jnp.where(usable, away / h, -1.0 - j))  # anything, but no two alike
        count = count + usable
    return nodes, count


def _prediction(
    method: Method, now: Now, past: Past, level: Array, value: PyTree, gain: Any, h: Any, k: Any
) -> PyTree:
    """What the values before this one add to the step of first order."""
    most, finite = method.predictor, jnp.isfinite(h)
    h, k = (jnp.where(finite, a, 1.0) for a in (h, k))
    nodes, count = _nodes(past.places[: most - 1], level, h, past.known)
    used = jnp.minimum(jnp.minimum(count + 1, most), _cap(method, now, now.n - now.i))
    rows = ladder(k, most, method.slope, method.bend, method.by_noise)
    found = weights([jnp.zeros_like(h), *nodes], jnp.where(finite, used, 1), rows)
    return combine(*_about(value, gain, found[1:], past.values[: most - 1]))


def _correction(
    method: Method, now: Now, past: Past, last: Last, level: Array, value: PyTree
) -> PyTree:
    """What the corrector adds to x, where there was a step before and its length was finite."""
    most, start = method.corrector, past.places[0]
    going = (past.known > 0) & jnp.isfinite(start)
    h = jnp.where(going, level - jnp.where(going, start, 0.0), 1.0)
    k = jnp.where(going, last.k, 1.0)
    older, count = _nodes(past.places[1 : most - 1], start, h, past.known - 1)
    used = jnp.minimum(jnp.minimum(count + 2, most), _cap(method, now, now.n - now.i + 1) + 1)
    nodes = [jnp.ones_like(h), jnp.zeros_like(h), *older][:most]
    rows = ladder(k, most, method.slope, method.bend, method.by_noise)
    new, *old = weights(nodes, jnp.where(going, used, 0), rows)
    values = (value, *past.values[1 : most - 1])
    terms = _about(past.values[0], last.gain, [new, *old[1:]], values)
    return combine((jnp.where(going, -1.0, 0.0), last.added), *terms)


def _about(
    base: PyTree, gain: Array, found: list[Array], values: tuple[PyTree, ...]
) -> list[tuple[Array, PyTree]]:
    """The terms of gain sum_j w_j (D_j - base)."""
    found = [gain * w for w in found]
    return [(-sum(found[1:], found[0]), base), *zip(found, values, strict=True)]
