"""The words of the house: every other module imports its types from here and redefines none.

A network predicts, a process says what noise does, a denoiser joins the two, a guide turns one
denoiser into another, a sampler walks a denoiser down a grid of times. What passes between them
is written down here, so that it can be read in one place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

PyTree = Any
"""Nested containers of arrays."""

Scalar = float | int | jax.Array
"""One number of a user's: doors cast it with `number`, so that a new value does not retrace."""

_T = TypeVar("_T")


def static(**options: Any) -> Any:
    """A field of a `record` that belongs to its structure (shapes, orders, sites)."""
    return field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static,))
def record(cls: type[_T]) -> type[_T]:
    """Make a frozen dataclass of `cls` and register it as a pytree.

    Fields marked with `static()` are part of the tree's structure: they are hashed, and a new
    value retraces. All other fields are leaves or subtrees: a new value does not.

    >>> @record
    ... class Pair:
    ...     first: float
    ...     name: str = static(default="pair")
    >>> jax.tree.leaves(Pair(1.0))
    [1.0]
    """
    made: Any = dataclass(frozen=True, eq=False)(cls)
    static_names = [f.name for f in fields(made) if f.metadata.get("static", False)]
    data_names = [f.name for f in fields(made) if f.name not in static_names]
    return jax.tree_util.register_dataclass(made, data_names, static_names)


def number(value: Any) -> jax.Array:
    """Cast to a floating array of the default precision, so that new values do not retrace.

    >>> number(2).dtype == jnp.zeros(()).dtype
    True
    """
    return jnp.asarray(value, dtype=float)


class Batch(NamedTuple):
    """What a loss eats: data, condition, and the place of every row in the global batch.

    `x` [b, ...] data in the value range of the model; `cond` any tree with leading axis b (labels
    [b], or a dict), or None; `row` [b] int32, the position in the GLOBAL batch. `row` is sharded
    along with `x`, so the noise of a sample does not depend on how the batch is spread.
    """

    x: PyTree
    cond: PyTree = None
    row: jax.Array | None = None


class Net(NamedTuple):
    """A network as two pure functions: `init(key) -> params`, `apply(params, x, time, cond)`."""

    init: Callable[..., PyTree]
    apply: Callable[..., jax.Array]


class Estimate(NamedTuple):
    """What a denoiser answers.

    `x0` the posterior mean E[x_0 | x_t], shaped like x; `var` its elementwise variance
    Var[x_0 | x_t] or None; `aux` a dict of further arrays (taps, memories).
    """

    x0: PyTree
    var: PyTree = None
    aux: dict[str, Any] = {}  # noqa: RUF012  (never mutated: every writer makes a new dict)


class GridOnly(AttributeError):
    """Raised at trace time when something asks for a step where there are no steps."""


class _Nowhere:
    """A `Now` without steps: plain calls, Diffrax and likelihoods hand it out."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise GridOnly(
            f"now.{name} was asked for outside a loop over steps: this guide, condition or "
            "correction needs `sample` or `run`; it cannot serve a plain call, a Diffrax "
            "integration or a likelihood"
        )

    def __repr__(self) -> str:
        return "NOWHERE"


jax.tree_util.register_pytree_node(_Nowhere, lambda _: ((), None), lambda *_: NOWHERE)
NOWHERE = _Nowhere()


class Now(NamedTuple):
    """What the loop knows: it steps from time `t` to `s`.

    `i` the number of the step in the grid, `n` the number of steps, `key` [b] one key per sample,
    already folded with the number of this evaluation, `memory` what denoisers kept in `aux`.
    """

    t: Any
    s: Any
    i: Any
    n: Any
    key: Any
    memory: dict[str, Any]


class At(NamedTuple):
    """The point at which a guide is asked: the noisy `x` = alpha x0 + sigma eps at time `t`.

    `vjp` takes a cotangent at x0 to the cotangent at x, without a new forward pass.
    """

    x: PyTree
    t: Any
    alpha: jax.Array
    sigma: jax.Array
    vjp: Callable[[PyTree], PyTree]
    now: Any


class State(NamedTuple):
    """What a sampler carries: the sample and its history. EVERY leaf has leading axis b."""

    x: PyTree
    hist: PyTree = ()


class Sampler(NamedTuple):
    """A solver: `init(x) -> State`, `step(now, denoise, State) -> (State, Estimate)`.

    The estimate is that of the FIRST evaluation in the step.
    """

    init: Callable[[PyTree], State]
    step: Callable[..., tuple[State, Estimate]]


class Rows(NamedTuple):
    """The programme of a loop: step t -> s, then noise s -> u (u None: never).

    `i` is the number of the step in its grid, `k` counts the rows; keys are folded with k.
    """

    t: jax.Array
    s: jax.Array
    u: jax.Array | None
    i: jax.Array
    k: jax.Array


@dataclass(frozen=True)
class Site:
    """A place inside a network at which `control` is asked; static and hashable.

    `port` is qkv, logits, probs, out, resnet, skip, block or temb; `stage` where in the network
    (down, middle, up, blocks), `level` and `index` count there; `kind` self, cross or conv;
    `hw` the spatial size, `heads` the number of attention heads (0 if none).
    """

    path: str
    port: str
    stage: str
    level: int
    index: int
    kind: str
    hw: tuple[int, int]
    heads: int


SOLVER, GUIDE, RENOISE, CHURN, STAGE = 0, 1, 2, 3, 4
"""What the key of a step is folded with, by who draws from it (STAGE: inside a solver's step)."""

Control = Callable[[Site], Callable[..., Any] | None]
Pull = Callable[[Estimate, At], PyTree]
Edit = Callable[[Estimate, At], PyTree]
