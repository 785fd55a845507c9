"""One step of every exponential multistep method: correct where we are, then predict where to go.

With l = log(alpha/sigma), h = l_s - l_t, r = sigma/alpha and eta >= 0 the share of the reverse SDE,

    x_0:  first = (sigma_s/sigma_t) e^(-eta h) x_t + alpha_s (1 - e^-k) x_0 + sigma_s std z,
          k = (1 + eta) h,  gain = alpha_s,  std^2 = 1 - e^(-2 eta h);
    eps:  first = (alpha_s/alpha_t) x_t - (1 + eta) excess eps + sqrt(eta) alpha_s r_t std z,
          k = h,  gain = -(1 + eta) alpha_s r_t,  excess = alpha_s r_t - sigma_s,
          std^2 = 1 - e^(-2h).

The predictor weighs the value at t and the ones before (see `exponential`). The corrector repeats
the step that led to t, with the value at its end and the same noise: no evaluation more. The value
at t stays the one at the predicted point. Where h is infinite (alpha_t = 0 or sigma_s = 0) the
value is constant: the step is of first order, in eps DDIM's, and is not corrected.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import log_snr, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.exponential import moments, weights
from jaxdiff.samplers.past import Past, empty, remember
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, Scalar, State, number


def midpoint(k: Array, whole: Array, by_noise: bool) -> Array:
    """M_0/2 in the place of M_1: DPM-Solver's midpoint, and UniPC's B_2(h) = e^h - 1."""
    return 0.5 * whole


def even(k: Array, whole: Array, by_noise: bool) -> Array:
    """The weight at s times k/2 in the place of M_1: UniPC's B_1(h) = h, and SA-Solver's."""
    return 0.5 * k * jnp.exp(-k) if by_noise else 0.5 * k


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


class Method(NamedTuple):
    """What tells the methods apart.

    `predictor` and `corrector` count nodes (corrector 0: none); `slope` stands in for M_1 where two
    nodes are used (None: M_1 itself), `bend` is the share of M_2 where three are; `by_noise`: eps
    is continued, else x_0. With fewer than `taper` steps the last ones are of order ..., 2, 1;
    with `euler_final` the very last one is of order 1.
    """

    predictor: int
    corrector: int = 0
    slope: Callable[..., Array] | None = None
    bend: float = 1.0
    by_noise: bool = False
    taper: Scalar = 0
    euler_final: bool = False


class Last(NamedTuple):
    """What the corrector repeats: the first-order end of the step before, its gain and k [b]."""

    first: PyTree
    gain: Array
    k: Array


class History(NamedTuple):
    """Values before this step; `last` is () where nothing corrects."""

    past: Past
    last: Any


def multistep(method: Method, eta: Callable[[Array], Any] | None = None) -> Sampler:
    """The solver of a method; `eta` is a function of sigma/alpha at t, None draws no noise."""

    def init(x: PyTree) -> State:
        past = empty(x, max(method.predictor, method.corrector, 2 if method.corrector else 1) - 1)
        none = jnp.zeros(trees.size(x))
        last = Last(x, none, none) if method.corrector else ()
        return State(x, History(past, last))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        (past, last), b = state.hist, trees.size(state.x)
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0) if method.by_noise else None
        value = eps if method.by_noise else est.x0
        level = jnp.broadcast_to(log_snr(denoise.process, now.t) / 2, (b,))
        x = state.x
        if method.corrector:
            x = _corrected(method, now, state, level, value)
        z = None if eta is None else normal(fold(now.key, SOLVER), state.x)
        rate = jnp.zeros(()) if eta is None else _rate(denoise, now, eta)
        leg = _by_noise if method.by_noise else _by_data
        first, gain, h, k = leg(denoise, now, rate, state.x, x, est.x0, eps, z)
        gain, h, k = (jnp.broadcast_to(a, (b,)) for a in (gain, h, k))
        x = _predicted(method, now, Last(first, gain, k), level, h, value, past)
        last = Last(first, gain, k) if method.corrector else ()
        return State(x, History(remember(past, value, level), last)), est

    return Sampler(init, step)


def _rate(denoise: Denoiser, now: Now, eta: Callable[[Array], Any]) -> Array:
    alpha, sigma = scales(denoise.process, now.t)
    return number(eta(sigma / alpha))


def _by_data(
    denoise: Denoiser, now: Now, eta: Array, _: Any, x: PyTree, x0: PyTree, __: Any, z: PyTree
) -> tuple[PyTree, Array, Array, Array]:
    (_, sigma), (alpha_s, sigma_s) = scales(denoise.process, now.t), scales(denoise.process, now.s)
    h = (log_snr(denoise.process, now.s) - log_snr(denoise.process, now.t)) / 2
    lost = eta * jnp.minimum(h, 1e3)  # e^-1000 is 0, and 0 times infinity is not
    k = h + lost
    terms = [((sigma_s / sigma) * jnp.exp(-lost), x), (-alpha_s * jnp.expm1(-k), x0)]
    if z is not None:
        terms.append((sigma_s * jnp.sqrt(-jnp.expm1(-2 * lost)), z))
    return combine(*terms), alpha_s, h, k


def _by_noise(
    denoise: Denoiser, now: Now, eta: Array, was: PyTree, x: PyTree, x0: PyTree, eps: Any, z: PyTree
) -> tuple[PyTree, Array, Array, Array]:
    (alpha, sigma), (alpha_s, sigma_s) = (scales(denoise.process, t) for t in (now.t, now.s))
    h = (log_snr(denoise.process, now.s) - log_snr(denoise.process, now.t)) / 2
    finite = jnp.isfinite(h)
    kept = jnp.where(finite, alpha_s / jnp.where(finite, alpha, 1.0), 0.0)
    stretch = kept * sigma  # alpha_s r_t = sigma_s e^h
    excess = -stretch * jnp.expm1(-h)
    terms = [(alpha_s, x0), (sigma_s - eta * excess, eps)]
    if x is not was:  # x_0 and eps make up the predicted point, not the corrected one
        terms += [(kept, x), (-kept, was)]
    if z is not None:
        terms.append((jnp.sqrt(eta) * stretch * jnp.sqrt(-jnp.expm1(-2 * h)), z))
    return combine(*terms), -(1 + eta) * stretch, h, h


def _cap(method: Method, now: Now, left: Any) -> Array:
    """The highest order of a step with which `left` steps remain, itself included."""
    cap = jnp.where(now.n < number(method.taper), jnp.minimum(left, 9), 9)
    return jnp.where(left == 1, 1, cap) if method.euler_final else cap


def _ladder(method: Method, k: Array, most: int) -> list[list[Array]]:
    count = 1 if most == 2 and method.slope is not None else most
    every = moments(k, count, by_noise=method.by_noise)
    rows = [every[:n] for n in range(1, most + 1)]
    if method.slope is not None and most > 1:
        rows[1] = [every[0], method.slope(k, every[0], method.by_noise)]
    if most > 2:
        rows[2] = [*every[:2], method.bend * every[2]]
    return rows


def _nodes(places: tuple[Array, ...], zero: Array, h: Array, known: Array) -> tuple[Any, Array]:
    """Places before this step in units of h, and how many of them are usable."""
    nodes, count = [], jnp.zeros_like(known)
    for j, place in enumerate(places):
        usable = (known > j) & jnp.isfinite(place)
        away = jnp.where(usable, place, 0.0) - jnp.where(usable, zero, 0.0)
        nodes.append(jnp.where(usable, away / h, -1.0 - j))  # anything, but no two alike
        count = count + usable
    return nodes, count


def _predicted(
    method: Method, now: Now, leg: Last, level: Array, h: Array, value: PyTree, past: Past
) -> PyTree:
    if method.predictor == 1:
        return leg.first
    finite = jnp.isfinite(h)
    h, k = (jnp.where(finite, a, 1.0) for a in (h, leg.k))
    most = method.predictor
    nodes, count = _nodes(past.places[: most - 1], level, h, past.known)
    used = jnp.minimum(jnp.minimum(count + 1, most), _cap(method, now, now.n - now.i))
    used = jnp.where(finite, used, 1)
    found = weights([jnp.zeros_like(h), *nodes], used, _ladder(method, k, most))
    return _joined(leg.first, leg.gain, value, found[1:], past.values[: most - 1])


def _corrected(method: Method, now: Now, state: State, level: Array, value: PyTree) -> PyTree:
    past, last = state.hist
    most = method.corrector
    h = level - past.places[0] if past.places else level
    going = (past.known > 0) & jnp.isfinite(h)
    h, k = (jnp.where(going, a, 1.0) for a in (h, last.k))
    older, count = _nodes(past.places[1 : most - 1], past.places[0], h, past.known - 1)
    used = jnp.minimum(jnp.minimum(count + 2, most), _cap(method, now, now.n - now.i + 1) + 1)
    used = jnp.where(going, used, 0)
    one = jnp.ones_like(h)
    nodes = [one, jnp.zeros_like(h), *older][:most]
    new, *old = weights(nodes, used, _ladder(method, k, most))
    values = (value, *past.values[1 : most - 1])
    x = _joined(last.first, last.gain, past.values[0], [new, *old[1:]], values)
    return trees.where(used > 0, x, state.x)


def _joined(
    first: PyTree, gain: Array, base: PyTree, found: list[Array], values: tuple[PyTree, ...]
) -> PyTree:
    """first + gain sum_j w_j (D_j - base)."""
    found = [gain * w for w in found]
    own = -sum(found[1:], found[0])
    return combine((1.0, first), (own, base), *zip(found, values, strict=True))
