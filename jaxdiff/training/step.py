"""One step of training: a pure function from state and batch to state and metrics.

    g = mean over the batch of grad loss(params, fold_in(key, step), batch)
    params <- params + update(g);   ema <- average(ema, params)

The same function runs under `jax.jit` with shardings, under `jax.shard_map` and under `jax.pmap`.
With jit the batch is global and the compiler inserts the collectives; under the two maps each
device sees its slice, and `axis` names what the gradients are averaged over. The loss has to be a
MEAN over the batch, and has to draw the noise of sample i from fold_in(key, batch.row[i]): then
all of these, and any number of microbatches, compute the same gradient up to rounding.

A gradient that is not finite changes nothing but the step counter: parameters, moments and average
stay as they are bit for bit, and the metric `skipped` is 1. No value travels to the host for that.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdiff.canonical import scan
from jaxdiff.training.ema import power_ema
from jaxdiff.training.state import TrainState
from jaxdiff.trees import size
from jaxdiff.types import Batch, PyTree

Loss = Callable[[PyTree, Array, Batch], tuple[Array, dict[str, Array]]]
"""loss(params, key, batch) -> (mean over the batch, metrics that are means as well)."""

Axis = str | tuple[str, ...] | None


def number(batch: Batch) -> Batch:
    """Fill `row` of a GLOBAL batch with 0 .. b-1, if it is empty.

    Args:
      batch: x a tree of [b, ...].

    Returns:
      Batch with row [b] int32.

    >>> number(Batch(jnp.zeros((3, 2)))).row.tolist()
    [0, 1, 2]
    """
    if batch.row is not None:
        return batch
    return batch._replace(row=jnp.arange(size(batch.x), dtype=jnp.int32))


def step(
    state: TrainState,
    batch: Batch,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema: Callable[[PyTree, PyTree, Any], PyTree] | None = power_ema,
    accumulate: int = 1,
    axis: Axis = None,
) -> tuple[TrainState, dict[str, Array]]:
    """One update of the parameters, the optimiser and the average.

    Args:
      state: what `create` or the last step returned.
      batch: x [b, ...]; global under jit, this device's slice under shard_map and pmap.
      loss: loss(params, key, batch) -> (scalar, metrics), means over the batch.
      optimizer: the optax transformation the state was created with.
      ema: ema(average, params, step) -> average, or None: the average stays as it is.
      accumulate: number of microbatches, computed one after the other and averaged; divides b.
      axis: name (or names) of the mapped axis under shard_map and pmap; None under jit.

    Returns:
      (state, metrics): metrics holds those of the loss (f32 scalars) and `loss`, `grad_norm`
        (before
      any clipping by the optimizer), `skipped` (1 if the gradient was not finite, else 0).

    Raises:
      ValueError: if accumulate < 1 or does not divide b.

    >>> def loss(params, key, batch):
    ...     return jnp.mean((batch.x - params) ** 2), {}
    >>> from jaxdiff.training.state import create
    >>> state = create(jnp.zeros(()), optax.sgd(0.5), jax.random.key(0))
    >>> state, metrics = step(state, Batch(jnp.ones(4)), loss=loss, optimizer=optax.sgd(0.5))
    >>> float(state.params), float(metrics["loss"])
    (1.0, 1.0)
    """
    batch = number(batch) if axis is None else _number_slice(batch, axis)
    key = jax.random.fold_in(state.key, state.step)
    value, metrics, grads = _gradient(loss, state.params, key, batch, accumulate, axis)
    if axis is not None:
        value, metrics, grads = jax.lax.pmean((value, metrics, grads), axis)
    norm = optax.tree.norm(grads)
    # The norm may overflow where the gradient is finite, so each entry is asked.
    fine = jnp.isfinite(value) & jnp.isfinite(_root_of_largest(grads))
    new = _keep(fine, _update(state, grads, optimizer, ema), state)
    skipped = 1.0 - fine.astype(jnp.float32)
    return new, {**metrics, "loss": value, "grad_norm": norm, "skipped": skipped}


def _number_slice(batch: Batch, axis: Axis) -> Batch:
    if batch.row is not None:
        return batch
    b = size(batch.x)
    row = jax.lax.axis_index(axis) * b + jnp.arange(b)
    return batch._replace(row=row.astype(jnp.int32))


def _gradient(
    loss: Loss, params: PyTree, key: Array, batch: Batch, accumulate: int, axis: Axis
) -> tuple[Array, dict[str, Array], PyTree]:
    # Marked as different on each device BEFORE differentiation: otherwise a shard_map that tracks
    # this (check_vma=True) has summed the gradient already, and the mean over devices does nothing.
    params = _varying(params, axis)
    grad = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        (value, metrics), grads = grad(params, key, batch)
        return value, metrics, grads

    def body(total: PyTree, micro: Batch) -> tuple[PyTree, Any]:
        out, grads = grad(params, key, micro)
        return jax.tree.map(lambda a, g: a + g.astype(jnp.float32), total, grads), out

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    total, out = scan(body, _varying(zeros, axis), _microbatches(batch, accumulate))
    value, metrics = jax.tree.map(lambda v: jnp.mean(v, axis=0), out)
    grads = jax.tree.map(lambda g, p: (g / accumulate).astype(p.dtype), total, params)
    return value, metrics, grads


def _varying(tree: PyTree, axis: Axis) -> PyTree:
    return tree if axis is None else jax.lax.pcast(tree, axis, to="varying")


def _microbatches(batch: Batch, count: int) -> Batch:
    b = size(batch.x)
    if count < 1 or b % count:
        raise ValueError(
            f"accumulate = {count} does not divide the batch of {b}: "
            f"use one of {[k for k in range(1, b + 1) if b % k == 0][:8]}"
        )
    # Microbatch j takes rows j, j + count, ...: on a sharded batch every device keeps its own rows.
    return jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(b // count, count, *a.shape[1:]), 1, 0), batch
    )


def _update(
    state: TrainState,
    grads: PyTree,
    optimizer: optax.GradientTransformation,
    ema: Callable[[PyTree, PyTree, Any], PyTree] | None,
) -> TrainState:
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if ema is not None and average is not None:
        average = ema(average, params, state.step)
    return TrainState(state.step + 1, params, opt_state, average, state.key)


def _keep(fine: Array, new: TrainState, old: TrainState) -> TrainState:
    chosen = jax.tree.map(lambda n, o: jnp.where(fine, n, o), new, old)
    return chosen._replace(step=new.step, key=old.key)


def _root_of_largest(tree: PyTree) -> Array:
    """sqrt(max |leaf|), NaN if any entry is.

    The root is for the compiler alone: it holds a root for too dear to compute twice, but would
    repeat a test of all leaves inside the update of every leaf, and compile a third longer.
    """
    largest = [jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.max(jnp.stack([m.astype(jnp.float32) for m in largest])))
