"""The loop around the step, the impure place: it prints, reads the clock and heeds signals.

A run is cut and resumed by the same call. The first thing `fit` does is look for a checkpoint
later than the state it was given; it goes on from there, with the data where they were and the
metrics of the interval that was cut. On the CPU the result is the same bit for bit as that of a
run that never stopped.

The host runs ahead of the device: metrics are read a few steps after they were asked for, when they
have long been computed, so reading them stops nothing.

Ctrl-C (or SIGTERM, as batch systems send it) finishes the step, saves and returns; a second Ctrl-C
aborts at once. What was saved before is intact in either case.
"""

import contextlib
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm.auto import tqdm

from jaxdiff.training import checkpoint
from jaxdiff.training.checkpoint import Checkpoints
from jaxdiff.training.metrics import Writer
from jaxdiff.training.state import TrainState
from jaxdiff.trees import size
from jaxdiff.types import Batch

AHEAD = 16
"""Steps the host may run ahead of the metrics it has read; bounds the batches held in memory."""


class Fit(NamedTuple):
    """What `fit` returns: the state, and whether it was stopped before the last step."""

    state: TrainState
    stopped: bool


def fit(
    state: TrainState,
    batches: Any,
    *,
    step_fn: Callable[[TrainState, Batch], Any],
    steps: int,
    log_every: int = 50,
    save_every: int | None = None,
    checkpoints: Checkpoints | None = None,
    writers: Sequence[Writer] = (),
    look: Callable[[TrainState, int], None] | None = None,
    look_every: int | None = None,
    place: Callable[[Batch], Batch] | None = None,
    patience: int = 50,
    extra: dict[str, Any] | None = None,
    progress: bool = True,
) -> Fit:
    """Train until `steps` steps are done, counted from the first; resume from a checkpoint if any.

    Args:
      state: from `create`. It is given away if step_fn donates it.
      batches: a function step -> Batch (step counts from 0), or an iterator of Batch; to be
        resumed an iterator needs `get_state()` (JSON or bytes) and `set_state(state)`.
      step_fn: (state, batch) -> (state, metrics), compiled; metrics has `loss`, and may have
        `skipped`.
      steps: >= 1.
      log_every: the means over this many steps are written as one record.
      save_every: steps between checkpoints; None: only at the end, and when stopped.
      checkpoints: from `open_checkpoints`; None: nothing is saved.
      writers: see `metrics`.
      look: look(state, step), called every look_every steps: sample grids, evaluation. It must not
        keep the state.
      look_every: steps between looks; None: only at the end.
      place: puts a batch on the devices, such as `partial(place_batch, mesh)`.
      patience: consecutive steps without a finite loss and gradient after which training gives up.
      extra: JSON to be kept in each checkpoint, such as a hash of the configuration.
      progress: whether a bar is shown.

    Returns:
      Fit(state, stopped).

    Raises:
      ValueError: if a number is out of its range, the data end too early, or an iterator that
        cannot be resumed meets a checkpoint; and all that `checkpoint.restore` raises.
      FloatingPointError: if the loss was not finite for `patience` steps; the first of them is
        named. The parameters are those before it.

    >>> import jax.numpy as jnp, optax
    >>> from jaxdiff.training import create, step
    >>> def loss(params, key, batch):
    ...     return jnp.mean((batch.x - params) ** 2), {}
    >>> sgd = optax.sgd(0.5)
    >>> one = jax.jit(lambda s, b: step(s, b, loss=loss, optimizer=sgd))
    >>> done = fit(create(jnp.zeros(()), sgd, jax.random.key(0)), lambda k: Batch(jnp.ones(4)),
    ...            step_fn=one, steps=3, progress=False)
    >>> int(done.state.step), done.stopped
    (3, False)
    """
    _check(steps, log_every, save_every, look_every, patience)
    state, interval = _resume(checkpoints, state, batches)
    begin = done = int(state.step)
    run = _open(writers, begin, steps, log_every, patience, interval, progress)
    take = _source(batches)
    with run.bar, _stopping() as stop:
        while done < steps and not _asked(stop, done, log_every):
            batch = take(done)
            if batch is None:
                break
            state, metrics = step_fn(state, batch if place is None else place(batch))
            done += 1
            _note(run, done, metrics, size(batch.x))
            if look is not None and (done == steps or (look_every and done % look_every == 0)):
                look(state, done)
            if checkpoints is not None and save_every and done % save_every == 0 and done < steps:
                _save(run, checkpoints, state, batches, extra)
        _drain(run, 0)
        if checkpoints is not None and done > begin:
            _save(run, checkpoints, state, batches, extra, wait=True)
    _close(run, done)
    if done < steps and not stop.is_set():
        raise ValueError(f"the data ended after step {done} of {steps}: repeat them")
    if done < steps:
        _say(_how_to_go_on(done, steps, checkpoints))
    return Fit(state, done < steps)


# --- the beginning -------------------------------------------------------------------------------


def _check(steps: int, *others: int | None) -> None:
    names = ("log_every", "save_every", "look_every", "patience")
    for name, value in zip(("steps", *names), (steps, *others), strict=True):
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value}: it counts steps, so it has to be at least 1")


def _resume(checkpoints: Checkpoints | None, state: TrainState, batches: Any) -> tuple[Any, Any]:
    """The state to begin with, and the metrics of the interval that was cut."""
    last = None if checkpoints is None else checkpoint.latest(checkpoints)
    if checkpoints is None or last is None or last < int(state.step):
        return state, []
    if not _is_function(batches) and not hasattr(batches, "set_state"):
        raise ValueError(
            f"{checkpoints.folder} holds step {last}, but the data cannot be resumed: give a "
            "function step -> Batch, an iterator with get_state and set_state, or an empty folder"
        )
    state, kept = checkpoint.restore(checkpoints, state)
    if not _is_function(batches):
        batches.set_state(_unpacked(kept["data"]))
    _say(f"resumed at step {last} from {checkpoints.folder}")
    return state, kept["interval"]


def _is_function(batches: Any) -> bool:
    return callable(batches) and not hasattr(batches, "__iter__")


def _source(batches: Any) -> Callable[[int], Batch | None]:
    if _is_function(batches):
        return batches
    # The iterator itself, so that its position is that of `batches`, which is asked for its state.
    own: Iterator[Batch] = iter(batches)
    return lambda step: next(own, None)


def _packed(value: Any) -> Any:
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


def _unpacked(value: Any) -> Any:
    whole = isinstance(value, dict) and value.keys() == {"bytes"}
    return bytes.fromhex(value["bytes"]) if whole else value


# --- metrics on their way to the writers ---------------------------------------------------------


@dataclass
class _Run:
    """What changes from step to step besides the state."""

    writers: Sequence[Writer]
    log_every: int
    patience: int
    bar: Any
    interval: list[dict[str, float]]
    waiting: deque[Any] = field(default_factory=deque)
    bad: int = 0
    images: int = 0
    clock: float = field(default_factory=time.monotonic)


def _open(
    writers: Sequence[Writer],
    begin: int,
    steps: int,
    log_every: int,
    patience: int,
    interval: list[dict[str, float]],
    progress: bool,
) -> _Run:
    main = jax.process_index() == 0
    writers = writers if main else ()
    for writer in writers:
        # The interval that was cut is in the checkpoint, so its record is written anew.
        writer.rewind(begin - begin % log_every)
    bar = tqdm(total=steps, initial=begin, unit="step", disable=not (progress and main))
    return _Run(writers, log_every, patience, bar, interval)


def _note(run: _Run, step: int, metrics: dict[str, Any], images: int) -> None:
    for value in metrics.values():
        if hasattr(value, "copy_to_host_async"):
            value.copy_to_host_async()
    run.waiting.append((step, metrics, images))
    _drain(run, AHEAD)


def _drain(run: _Run, left: int) -> None:
    """Read the oldest metrics until only `left` are still on the device."""
    while len(run.waiting) > left:
        step, metrics, images = run.waiting.popleft()
        row = {name: float(np.asarray(value)) for name, value in metrics.items()}
        run.interval.append(row)
        run.images += images
        run.bar.update(1)
        _watch(run, step, row)
        if step % run.log_every == 0:
            _record(run, step)


def _watch(run: _Run, step: int, row: dict[str, float]) -> None:
    run.bad = 0 if _is_fine(row) else run.bad + 1
    if run.bad >= run.patience:
        raise FloatingPointError(
            f"loss or gradient was not finite for {run.bad} steps, since step "
            f"{step - run.bad + 1}; the parameters are those before it. Lower the learning rate, "
            "look for NaN in the data, or go on from an earlier checkpoint"
        )


def _is_fine(row: dict[str, float]) -> bool:
    return math.isfinite(row.get("loss", 0.0)) and not row.get("skipped", 0.0)


def _record(run: _Run, step: int) -> None:
    """Means over the interval, without the steps that were skipped; those are counted."""
    fine = [row for row in run.interval if _is_fine(row)] or run.interval
    values = {name: math.fsum(row[name] for row in fine) / len(fine) for name in fine[0]}
    values["skipped"] = math.fsum(row.get("skipped", 0.0) for row in run.interval)
    for writer in run.writers:
        writer.write(step, values)
    now = time.monotonic()
    rate = run.images / max(now - run.clock, 1e-9)
    run.bar.set_postfix_str(f"loss {values.get('loss', math.nan):.4g}, {rate:.0f} imgs/s")
    run.images, run.clock, run.interval = 0, now, []


def _close(run: _Run, step: int) -> None:
    if run.interval:
        _record(run, step)
    for writer in run.writers:
        writer.close()


# --- saving and stopping -------------------------------------------------------------------------


def _save(
    run: _Run,
    checkpoints: Checkpoints,
    state: TrainState,
    batches: Any,
    extra: dict[str, Any] | None,
    *,
    wait: bool = False,
) -> None:
    """Save; a disk that is full is reported, and training goes on."""
    _drain(run, 0)
    contents = {"interval": run.interval, "extra": extra or {}, "data": None}
    if hasattr(batches, "get_state"):
        contents["data"] = _packed(batches.get_state())
    # The first reports the save before this one, which must not keep this one from being tried.
    for act in (
        lambda: checkpoint.finish(checkpoints),
        lambda: checkpoint.save(checkpoints, state, contents, wait=wait),
    ):
        try:
            act()
        except OSError as error:
            _say(f"WARNING: NOT SAVED, training goes on: {error}")


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second SIGINT interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def heed(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        _say("stopping after this step; Ctrl-C again aborts at once")

    before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _asked(stop: threading.Event, done: int, log_every: int) -> bool:
    """Whether to stop now. Several processes have to agree, and do so at the end of an interval."""
    if jax.process_count() == 1:
        return stop.is_set()
    if done % log_every:
        return False
    if bool(np.any(multihost_utils.process_allgather(np.asarray(stop.is_set())))):
        stop.set()
    return stop.is_set()


def _how_to_go_on(done: int, steps: int, checkpoints: Checkpoints | None) -> str:
    if checkpoints is None:
        return f"stopped after step {done} of {steps}; nothing is saved: no checkpoints were given"
    last = checkpoint.latest(checkpoints)
    return (
        f"stopped after step {done} of {steps}; step {last} is saved in {checkpoints.folder}. "
        "Run the same command to go on"
    )


def _say(text: str) -> None:
    if jax.process_index() == 0:
        tqdm.write(text, file=sys.stderr)
