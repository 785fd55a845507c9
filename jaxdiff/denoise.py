"""The joint of the library: networks become models here, models become denoisers, and only here.

A MODEL answers E[x_0 | x_t, cond] for any condition. A DENOISER has its condition bound: it answers
E[x_0 | x_t], and carries its process, so that no guide and no sampler takes one. What is linear in
the prediction (score, noise, velocity) is read off the posterior mean by Tweedie's formula,

    E[eps | x_t] = (x_t - alpha E[x_0 | x_t]) / sigma,   score = -E[eps | x_t] / sigma.

Efron 2011, doi:10.1198/jasa.2011.tm11181.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.process import (
    Process,
    Wiring,
    check_decodable,
    decode,
    log_snr,
    scales,
    time_of,
)
from jaxdiff.process.gaussian import Time, _derivative
from jaxdiff.trees import combine, size
from jaxdiff.types import NOWHERE, At, Estimate, Now, PyTree, Scalar, number, record

Number = float | int | Array | Callable[[At], Array]
"""A number in a guide: a scalar, one per sample [b], or a function of the point `At`."""


@record
class Model:
    """A network with its process: `fn(x, t, cond, now) -> Estimate`. Made by `model`.

    `span` is the value range of the data (low, high), or None where there is none.
    """

    process: Process
    fn: Callable[..., Estimate]
    span: tuple[Array, Array] | None


@record
class Denoiser:
    """The currency: `denoise(x, t) -> Estimate` of x_0 given x_t, with the process that made x_t.

    `fn(x, t, now)` answers; `memory(x)` gives the first values of what it keeps between steps in
    `now.memory`, or is None; `span` is the value range of the data or None.
    """

    process: Process
    fn: Callable[..., Estimate]
    memory: Callable[[PyTree], dict[str, Any]] | None = None
    span: tuple[Array, Array] | None = None

    def __call__(self, x: PyTree, t: Time, now: Any = NOWHERE) -> Estimate:
        """Estimate x_0 from x_t [b, ...] at t of shape (), [b] or [b, n]."""
        return self.fn(x, t, now)


def predict(
    apply: Callable[..., Any],
    params: PyTree,
    process: Process,
    wiring: Wiring,
    x: PyTree,
    t: Time,
    cond: PyTree,
) -> tuple[PyTree, PyTree]:
    """Ask the network: p = apply(params, c_in (x - alpha m), c_noise, cond).

    Returns:
      p, and the centred sample x - alpha m, from which p is decoded.
    """
    t = number(t)
    alpha, _ = scales(process, t)
    ones = jax.tree.map(jnp.ones_like, x)
    centred = combine((1.0, x), (-alpha * wiring.center, ones))
    clock = jnp.broadcast_to(wiring.clock(process, t), _times_shape(t, x))
    p = apply(params, combine((wiring.scale_in(process, t), centred)), clock, cond)
    return p, centred


def _network(
    apply: Any, params: Any, process: Any, wiring: Any, x: Any, t: Any, cond: Any, now: Any
) -> Estimate:
    p, centred = predict(apply, params, process, wiring, x, t, cond)
    x0, _ = decode(wiring.prediction, process, t, centred, p)
    return Estimate(jax.tree.map(lambda leaf: leaf + wiring.center, x0))


def _times_shape(t: Any, x: PyTree) -> tuple[int, ...]:
    return jnp.shape(t) if jnp.ndim(t) > 1 else (size(x),)


def model(
    apply: Callable[..., Any],
    params: PyTree,
    process: Process,
    wiring: Wiring,
    *,
    span: tuple[Scalar, Scalar] | None = (-1.0, 1.0),
) -> Model:
    """The one door: a network, its parameters, its process and its wiring become a model.

    x_0 = decode(prediction, x, apply(params, c_in(t) (x - alpha m), c_noise(t), cond)) + m.

    Args:
      apply: `apply(params, x [b, ...], time [b], cond) -> p [b, ...]`, a module-level function, a
        `Net.apply`, or a `Partial`.
      params: its parameters.
      process: what noise did.
      wiring: what it predicts, how its input is scaled, which clock it reads.
      span: the value range (low, high) of the data it was trained on, None for none.

    Raises:
      ValueError: if x_0 cannot be decoded from this prediction at t_max (eps or score where alpha
        is about 0); if span is not low < high.

    >>> from jaxdiff import process as pr
    >>> net = lambda params, x, time, cond: jnp.zeros_like(x)
    >>> m = model(net, {}, pr.edm(), pr.edm_wiring(0.5))
    >>> bind(m, None)(jnp.ones((2, 3)), 0.5).x0.tolist()[0]   # c_skip x = x / 2
    [0.5, 0.5, 0.5]
    """
    check_decodable(wiring.prediction, process, process.t_max)
    if not isinstance(apply, Partial):
        apply = Partial(apply)
    return Model(process, Partial(_network, apply, params, process, wiring), _check_span(span))


def _check_span(span: tuple[Any, Any] | None) -> tuple[Array, Array] | None:
    if span is None:
        return None
    low, high = number(span[0]), number(span[1])
    if not isinstance(low, Tracer) and not float(low) < float(high):
        raise ValueError(f"span={span}: give (low, high) with low < high, e.g. (-1.0, 1.0)")
    return low, high


def check_range(x: PyTree, span: tuple[Array, Array] | None, name: str) -> None:
    """Refuse data outside the value range of a model, integers and NaN; traced data pass.

    Raises:
      ValueError: naming the argument, its range and the model's.

    >>> check_range(jnp.zeros((1, 2)), (number(-1), number(1)), "x")
    """
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} has dtype {leaf.dtype}: samples are floating point; scale integer pixels "
                "to the model's value range first"
            )
        if isinstance(leaf, Tracer) or leaf.size == 0:
            continue
        low, high = float(jnp.min(leaf)), float(jnp.max(leaf))
        if low != low or high != high:
            raise ValueError(f"{name} holds NaN: clean the data first")
        if span is not None:
            _check_within(low, high, float(span[0]), float(span[1]), name)


def _check_within(low: float, high: float, bottom: float, top: float, name: str) -> None:
    slack = 0.01 * (top - bottom)
    if low < bottom - slack or high > top + slack:
        raise ValueError(
            f"{name} spans [{low:g}, {high:g}], but the model was made for [{bottom:g}, {top:g}]: "
            "rescale it, or say span=(low, high) where the model is made"
        )


def _condition(cond: Any, now: Any) -> Any:
    return cond(now) if callable(cond) else cond


def _bound(fn: Any, cond: Any, x: Any, t: Any, now: Any) -> Estimate:
    return fn(x, t, _condition(cond, now), now)


def bind(model: Model, cond: PyTree = None) -> Denoiser:
    """Give a model its condition.

    Args:
      model: the model.
      cond: a tree with leading axis b, or a function (a `Partial`) `now -> tree` for conditions
        that change from step to step, or None.

    >>> from jaxdiff import process as pr
    >>> net = lambda params, x, time, cond: x * 0 + cond["a"]
    >>> m = model(net, {}, pr.edm(), pr.wiring(pr.x0))
    >>> float(bind(m, {"a": 0.25})(jnp.ones((1, 1)), 1.0).x0[0, 0])
    0.25
    """
    return Denoiser(model.process, Partial(_bound, model.fn, cond), span=model.span)


def mix(model: Model, conds: Sequence[PyTree], weights: Sequence[Number]) -> Denoiser:
    """x_0 = sum_k w_k E[x_0 | x_t, cond_k] in ONE call of the network at b * r.

    Rows are interleaved (sample * r + branch), never concatenated: a batch that is sharded over
    devices stays where it is.

    Args:
      model: the model.
      conds: r conditions of one structure; arrays without an axis serve every sample.
      weights: r numbers (scalars, [b], or functions of `At`), which should sum to 1.

    Raises:
      ValueError: if there are not as many weights as conditions, or their structures differ.
    """
    if len(conds) != len(weights) or not conds:
        raise ValueError(f"{len(conds)} conditions and {len(weights)} weights: give one each")
    shapes = {jax.tree.structure(c) for c in conds if not callable(c)}
    if len(shapes) > 1:
        raise ValueError(
            f"the conditions have different structures, {sorted(map(str, shapes))}: every branch "
            "needs the same keys; use the null label or empty tokens where one has none"
        )
    fn = Partial(_mixed, model.fn, tuple(conds), tuple(map(_numeric, weights)), model.process)
    return Denoiser(model.process, fn, span=model.span)


def _numeric(value: Number) -> Any:
    return value if callable(value) else number(value)


def value_at(weight: Any, at: At) -> Array:
    """The number that a guide's argument is at this point: itself, or its function of `at`."""
    if callable(weight):
        answer: Any = weight(at)
        return answer
    return number(weight)


def _mixed(fn: Any, conds: Any, weights: Any, process: Any, x: Any, t: Any, now: Any) -> Estimate:
    b, r = size(x), len(conds)
    rows = _interleave([x] * r, b)
    times = t if jnp.ndim(t) == 0 else jnp.repeat(jnp.asarray(t), r, axis=0)
    branches = _interleave([_condition(c, now) for c in conds], b)
    est = fn(rows, times, branches, _widen(now, r))
    at = At(x, t, *scales(process, t), _no_vjp, now)
    terms = [
        (value_at(w, at), jax.tree.map(lambda leaf, k=k: _split(leaf, b, r)[:, k], est.x0))
        for k, w in enumerate(weights)
    ]
    aux = jax.tree.map(lambda leaf: _split(leaf, b, r), est.aux)
    return Estimate(combine(*terms), None, aux)


def _no_vjp(cotangent: PyTree) -> PyTree:
    raise TypeError("at.vjp is not to be had in a weight: weights act before the guides")


def _split(leaf: Array, b: int, r: int) -> Array:
    return leaf.reshape(b, r, *leaf.shape[1:])


def _interleave(trees: list[PyTree], b: int) -> PyTree:
    """Stack r trees along a new axis 1 and flatten: row = sample * r + branch."""

    def stack(*leaves: Any) -> Array:
        full = [jnp.asarray(leaf) for leaf in leaves]
        full = [jnp.broadcast_to(a, (b, *a.shape[1:])) for a in full]
        shape = jnp.broadcast_shapes(*(a.shape for a in full))
        stacked = jnp.stack([jnp.broadcast_to(a, shape) for a in full], axis=1)
        return stacked.reshape(b * len(full), *stacked.shape[2:])

    return jax.tree.map(stack, *trees)


def _widen(now: Any, r: int) -> Any:
    """The same step for r times as many rows: keys and memory are repeated."""
    if not isinstance(now, Now):
        return now
    repeat = lambda tree: jax.tree.map(lambda leaf: jnp.repeat(leaf, r, axis=0), tree)  # noqa: E731
    t, s = (t if jnp.ndim(t) == 0 else repeat(t) for t in (now.t, now.s))
    return now._replace(t=t, s=s, key=repeat(now.key), memory=repeat(now.memory))


def _one_minus(weight: Any, at: At) -> Array:
    return 1 - value_at(weight, at)


def cfg(model: Model, cond: PyTree, null: PyTree, scale: Number) -> Denoiser:
    """Classifier-free guidance: x_0 = x_0(null) + scale (x_0(cond) - x_0(null)), in one call at 2b.

    Args:
      model: a model trained with its condition dropped at times.
      cond: the condition, a tree with leading axis b.
      null: the empty condition (for class labels the number of classes), or a negative one.
      scale: w; 0 is unconditional, 1 conditional, above 1 sharper. A scalar, [b], or At -> scalar.

    Ho & Salimans 2022, arXiv:2207.12598, eq. (6), with w here = 1 + w there.

    >>> from jaxdiff import process as pr
    >>> net = lambda params, x, time, cond: x * 0 + cond[:, None]
    >>> m = model(net, {}, pr.edm(), pr.wiring(pr.x0))
    >>> float(cfg(m, jnp.float32(1.0), jnp.float32(0.0), 3.0)(jnp.zeros((1, 1)), 1.0).x0[0, 0])
    3.0
    """
    scale = _numeric(scale)
    return mix(model, (null, cond), (Partial(_one_minus, scale), scale))


def _blended(fns: Any, weights: Any, process: Any, x: Any, t: Any, now: Any) -> Estimate:
    ests = [fn(x, t, now) for fn in fns]
    at = At(x, t, *scales(process, t), _no_vjp, now)
    x0 = combine(*[(value_at(w, at), e.x0) for w, e in zip(weights, ests, strict=True)])
    return Estimate(x0, None, joined([e.aux for e in ests]))


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One dict of several; a name that occurs twice is an error."""
    out: dict[str, Any] = {}
    for part in parts:
        if clash := sorted(out.keys() & part.keys()):
            raise ValueError(f"two guides keep {clash} under one name: give one of them another")
        out |= part
    return out


def _memories(parts: Any, x: PyTree) -> dict[str, Any]:
    return joined([part(x) for part in parts])


def all_memories(memories: Sequence[Callable[..., Any] | None]) -> Callable[..., Any] | None:
    """The memories of several denoisers as one."""
    present = tuple(m for m in memories if m is not None)
    return Partial(_memories, present) if present else None


def blend(denoisers: Sequence[Denoiser], weights: Sequence[Number]) -> Denoiser:
    """x_0 = sum_k w_k x_0^(k)(x_t) of different networks on one process, one call each.

    Autoguidance is blend((weak, strong), (1 - w, w)).

    Karras et al. 2024, arXiv:2406.02507, eq. (3).

    Raises:
      ValueError: if there are not as many weights as denoisers.
    """
    if len(denoisers) != len(weights) or not denoisers:
        raise ValueError(f"{len(denoisers)} denoisers and {len(weights)} weights: give one each")
    first = denoisers[0]
    fns = tuple(d.fn for d in denoisers)
    fn = Partial(_blended, fns, tuple(map(_numeric, weights)), first.process)
    return Denoiser(first.process, fn, all_memories([d.memory for d in denoisers]), first.span)


def _rebased(fn: Any, old: Any, new: Any, x: Any, t: Any, now: Any) -> Estimate:
    there = time_of(old, log_snr(new, t))
    (a, s), (a_new, s_new) = scales(old, there), scales(new, t)
    # at equal signal-to-noise (alpha, sigma) are parallel, so their lengths give the scale
    return fn(combine((jnp.hypot(a, s) / jnp.hypot(a_new, s_new), x)), there, now)


def rebase(denoise: Denoiser, process: Process) -> Denoiser:
    """The same denoiser for samples of another process: the frame changes, the knowledge does not.

    E[x_0 | x'_t'] = denoise(c x', t), SNR(t) = SNR'(t'), c = |(alpha, sigma)|/|(alpha', sigma')|.
    Where the new process leaves the noise range of the old one, the nearer end is used.

    Karras et al. 2022, arXiv:2206.00364, section 2 and appendix C.
    """
    fn = Partial(_rebased, denoise.fn, denoise.process, process)
    return Denoiser(process, fn, denoise.memory, denoise.span)


def noise(denoise: Denoiser, x: PyTree, t: Time, now: Any = NOWHERE) -> PyTree:
    """E[eps | x_t] = (x - alpha E[x_0 | x_t]) / sigma."""
    alpha, sigma = scales(denoise.process, t)
    return combine((1 / sigma, x), (-alpha / sigma, denoise(x, t, now).x0))


def score(denoise: Denoiser, x: PyTree, t: Time, now: Any = NOWHERE) -> PyTree:
    """grad log p_t(x) = -(x - alpha E[x_0 | x_t]) / sigma^2."""
    alpha, sigma = scales(denoise.process, t)
    return combine((-1 / sigma**2, x), (alpha / sigma**2, denoise(x, t, now).x0))


def velocity(denoise: Denoiser, x: PyTree, t: Time, now: Any = NOWHERE) -> PyTree:
    """dx/dt of the probability flow: alpha' E[x_0 | x_t] + sigma' E[eps | x_t].

    It equals f x - g^2/2 score: Song et al. 2021, arXiv:2011.13456, eq. (13).
    """
    process = denoise.process
    _, slope = _derivative(process.sigma, number(t))
    alpha, sigma = scales(process, t)
    x0 = denoise(x, t, now).x0
    on_x = slope / sigma
    on_x0 = _derivative(process.alpha, number(t))[1] - on_x * alpha
    return combine((on_x, x), (on_x0, x0))
