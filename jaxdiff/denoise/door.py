"""The one door: a network, its parameters, its process and its wiring become a model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.process import Process, Wiring, check_decodable, decode, scales
from jaxdiff.process.gaussian import Time
from jaxdiff.trees import combine, size
from jaxdiff.types import NOWHERE, Estimate, PyTree, Scalar, number, record


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
        """Estimate x_0 from x_t [b, ...] at t of shape (), [b] or [b, n].

        Raises:
          ValueError, TypeError: if the answer is not shaped and typed like x.
        """
        est = self.fn(x, t, now)
        _check_answer(est.x0, x)
        return est


def _check_answer(x0: PyTree, x: PyTree) -> None:
    if jax.tree.structure(x0) != jax.tree.structure(x):
        raise ValueError(
            f"the denoiser answered x_0 as {jax.tree.structure(x0)} to x as "
            f"{jax.tree.structure(x)}: the answer has the structure of x"
        )
    for found, given in zip(jax.tree.leaves(x0), jax.tree.leaves(x), strict=True):
        if jnp.shape(found) != jnp.shape(given):
            raise ValueError(
                f"the denoiser answered x_0 of shape {jnp.shape(found)} to x of shape "
                f"{jnp.shape(given)}: they must agree (a network that also predicts a variance "
                "gives its other channels in aux)"
            )
        if found.dtype != jnp.result_type(given):
            raise TypeError(
                f"the denoiser answered x_0 in {found.dtype} to x in {jnp.result_type(given)}: "
                "cast inside the network, and answer in the type of x"
            )


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

    Args:
      apply: see `model`.
      params: see `model`.
      process: what noise did.
      wiring: how the network's input is scaled and which clock it reads.
      x: x_t [b, ...], or a tree of them.
      t: times, (), [b] or [b, n].
      cond: the condition, as `apply` takes it.

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
        is about 0: a network that was trained so can be used on a process that ends earlier, such
        as the table of betas without its last); if span is not low < high.

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


def condition_at(cond: Any, now: Any) -> Any:
    """The condition at this step: itself, or its function of `now`."""
    return cond(now) if callable(cond) else cond


def _bound(fn: Any, cond: Any, x: Any, t: Any, now: Any) -> Estimate:
    return fn(x, t, condition_at(cond, now), now)


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
