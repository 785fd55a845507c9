"""The door where training steps are compiled: this file and the loop may call jit, others may not.

`step_fn` is the one pure step with its loss and optimiser filled in:

    step_fn = functools.partial(step, loss=loss, optimizer=optimizer)
    run = compile_step(step_fn)                                     # one device
    run = compile_step(step_fn, mesh=m)                             # data parallel
    run = compile_step(step_fn, mesh=m, shardings=state_shardings(m, state))    # fully sharded
    run = compile_step(shard_map_step(step_fn, m))                  # the same by hand
    run = pmap_step(step_fn)                                        # the same, the old way

Each of them computes the same numbers up to rounding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Key

from jaxdiff.training.sharding import (
    AXES,
    batch_sharding,
    check_batch,
    replicated,
    state_shardings,
)
from jaxdiff.training.state import TrainState, create
from jaxdiff.training.step import number
from jaxdiff.trees import size
from jaxdiff.types import Batch, PyTree

StepFn = Callable[..., tuple[TrainState, dict[str, Array]]]


def compile_step(
    step_fn: StepFn,
    *,
    mesh: Mesh | None = None,
    shardings: PyTree = None,
    donate: bool = True,
) -> Any:
    """The compiled step: the same arguments and results, on the devices of the mesh.

    Args:
      step_fn: step_fn(state, batch) -> (state, metrics), a partial of `step`.
      mesh: None compiles for the device the state is on.
      shardings: of the state, from `state_shardings`; None replicates it.
      donate: reuse the memory of the old state; it cannot be read afterwards.

    Returns:
      a jitted function; `.lower(state, batch).compile()` gives what `preflight` reads.

    Raises:
      ValueError: when called, if the batch does not divide over the devices; or here, if shardings
        are given without their mesh.
    """
    given = (0,) if donate else ()
    if mesh is None:
        if shardings is not None:
            raise ValueError("shardings were given without mesh: pass mesh= as well")
        return jax.jit(step_fn, donate_argnums=given)
    own = replicated(mesh) if shardings is None else shardings
    return jax.jit(
        functools.partial(_placed, step_fn, mesh),
        in_shardings=(own, None),
        # Without these the compiler may leave moments on one device, as zeros depend on no input.
        out_shardings=(own, replicated(mesh)),
        donate_argnums=given,
    )


def _placed(step_fn: StepFn, mesh: Mesh, state: TrainState, batch: Batch) -> Any:
    check_batch(size(batch.x), mesh.size)
    split = jax.lax.with_sharding_constraint(number(batch), batch_sharding(mesh))
    return step_fn(state, split)


def compile_create(
    make: Callable[[Array], PyTree],
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    average: bool = True,
    min_size: int = 2**14,
) -> Callable[[Key[Array, ""]], TrainState]:
    """A function key -> TrainState whose arrays are born where they belong; no device holds it all.

    Args:
      make: key -> params, as `Net.init`.
      optimizer: an optax transformation.
      mesh: as made by `mesh`.
      average: whether a moving average is kept.
      min_size: arrays with fewer entries are replicated.
    """

    def init(key: Array) -> TrainState:
        init_key, run_key = jax.random.split(key)
        return create(make(init_key), optimizer, run_key, average=average)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.jit(init, out_shardings=state_shardings(mesh, shapes, min_size=min_size))


def shard_map_step(step_fn: StepFn, mesh: Mesh) -> StepFn:
    """The step written for one device, mapped by `jax.shard_map` over a replicated state.

    Args:
      step_fn: step_fn(state, batch, axis=...) -> (state, metrics), a partial of `step`.
      mesh: as made by `mesh`.

    Returns:
      (state, batch) -> (state, metrics), to be compiled; the batch is global.

    Raises:
      ValueError: when called, if the batch does not divide over the devices.
    """
    mapped = jax.shard_map(
        functools.partial(step_fn, axis=AXES),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXES)),
        out_specs=(PartitionSpec(), PartitionSpec()),
        # A loss may hold loops whose carry starts equal on all devices; tracking would refuse it.
        check_vma=False,
    )

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        check_batch(size(batch.x), mesh.size)
        return mapped(state, number(batch))

    return run


def pmap_step(step_fn: StepFn, devices: Sequence[Any] | None = None) -> StepFn:
    """The step under `jax.pmap`: for code that still uses it; the state has no device axis.

    Args:
      step_fn: step_fn(state, batch, axis=...) -> (state, metrics), a partial of `step`.
      devices: default all.

    Returns:
      (state, batch) -> (state, metrics), compiled; the batch is global.

    Raises:
      ValueError: when called, if the batch does not divide over the devices.
    """
    n = len(jax.devices() if devices is None else devices)
    mapped = jax.pmap(
        functools.partial(step_fn, axis="devices"),
        axis_name="devices",
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
    )

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        check_batch(size(batch.x), n)
        split = jax.tree.map(lambda a: a.reshape(n, -1, *a.shape[1:]), number(batch))
        return mapped(state, split)

    return run
