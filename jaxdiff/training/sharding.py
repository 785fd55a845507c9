"""Where arrays live: one mesh with the axes `data` and `fsdp`, and a rule for every tree.

The batch is split over both axes. Parameters are replicated (data parallelism), or each large
array is split along one of its axes over `fsdp` (fully sharded data parallelism); the rule looks
at the shape alone, so moments and averages, which have the shapes of the parameters, land where
those are.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.trees import size
from jaxdiff.types import Batch, PyTree

AXES = ("data", "fsdp")
"""The axes of the mesh; the batch is split over both."""


def mesh(devices: Sequence[Any] | None = None, *, data: int = -1, fsdp: int = 1) -> Mesh:
    """A mesh of data * fsdp devices.

    Args:
      devices: the devices, default all.
      data: number of groups the batch is split over; -1: as many as there are devices for.
      fsdp: number of devices over which the parameters are split inside each group; 1: replicated.

    Returns:
      Mesh with the axes ("data", "fsdp").

    Raises:
      ValueError: if data * fsdp is not the number of devices.

    >>> mesh(jax.devices()[:1]).shape["fsdp"]
    1
    """
    found = list(jax.devices() if devices is None else devices)
    n = len(found)
    groups = n // fsdp if data == -1 and fsdp > 0 else data
    if groups < 1 or fsdp < 1 or groups * fsdp != n:
        raise ValueError(
            f"data = {data} times fsdp = {fsdp} is not the number of devices, {n}: "
            f"leave data at -1 and let fsdp be one of {_divisors(n)}"
        )
    return Mesh(np.asarray(found).reshape(groups, fsdp), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def fsdp_shardings(mesh: Mesh, tree: PyTree, *, min_size: int = 2**14) -> PyTree:
    """For each array the largest axis that `fsdp` divides is split; small arrays are replicated.

    Args:
      mesh: as made by `mesh`.
      tree: tree of arrays or of their shapes.
      min_size: arrays with fewer entries are replicated.

    Returns:
      tree of NamedSharding with the structure of `tree`.

    >>> shardings = fsdp_shardings(mesh(jax.devices()[:1]), {"w": np.zeros((8, 4))}, min_size=1)
    >>> shardings["w"].spec
    P()
    """
    parts = mesh.shape["fsdp"]

    def one(leaf: Any) -> NamedSharding:
        axes = [i for i, n in enumerate(leaf.shape) if n and n % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < min_size:
            return replicated(mesh)
        split = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * split, "fsdp"))

    return jax.tree.map(one, tree)


def state_shardings(mesh: Mesh, state: PyTree, *, min_size: int = 2**14) -> PyTree:
    """Shardings for a whole training state: parameters, moments and average alike.

    Args:
      mesh: as made by `mesh`; with fsdp = 1 everything is replicated.
      state: TrainState, or its shapes by `jax.eval_shape`.
      min_size: arrays with fewer entries are replicated.

    Returns:
      TrainState of NamedSharding.
    """
    return fsdp_shardings(mesh, state, min_size=min_size)


def place_state(mesh: Mesh, state: PyTree, *, min_size: int = 2**14) -> PyTree:
    """The state, moved to where `state_shardings` wants it; the old one must not be used again."""
    return jax.device_put(state, state_shardings(mesh, state, min_size=min_size))


def check_batch(count: int, devices: int, accumulate: int = 1) -> None:
    """Raise ValueError unless a batch of `count` divides into devices * accumulate equal parts.

    >>> check_batch(10, 8)
    Traceback (most recent call last):
    ValueError: a batch of 10 does not divide over 8 devices: use a batch of 8 or 16
    """
    parts = devices * accumulate
    if count > 0 and count % parts == 0:
        return
    lower, upper = count // parts * parts, (count // parts + 1) * parts
    fix = f"{lower} or {upper}" if lower else f"{upper}"
    micro = f" times accumulate = {accumulate}" if accumulate > 1 else ""
    raise ValueError(
        f"a batch of {count} does not divide over {devices} devices{micro}: use a batch of {fix}"
    )


def dividing(count: int, most: int) -> int:
    """The largest number of devices, at most `most`, that a batch of `count` divides over.

    >>> dividing(64, 12), dividing(7, 4)
    (8, 1)
    """
    return next((k for k in range(min(count, most), 1, -1) if count % k == 0), 1)


def place_batch(mesh: Mesh, batch: Batch) -> Batch:
    """Put a batch on the mesh, split over all devices, its rows numbered.

    With several processes each hands in its own part of the global batch, all parts equally large.

    Args:
      mesh: as made by `mesh`.
      batch: x [b, ...] of this process, numpy or jax arrays.

    Returns:
      Batch of global jax arrays; row is the position in the global batch.

    Raises:
      ValueError: if the global batch does not divide over the devices.

    >>> place_batch(mesh(jax.devices()[:1]), Batch(np.zeros((2, 3)))).row.tolist()
    [0, 1]
    """
    sharding = batch_sharding(mesh)
    b = size(batch.x) * jax.process_count()
    check_batch(b, mesh.size)
    rows = np.arange(b, dtype=np.int32)
    row = jax.make_array_from_callback((b,), sharding, lambda index: rows[index])
    if batch.row is not None:
        row = _place(sharding, batch.row)
    x, cond = jax.tree.map(lambda a: _place(sharding, a), (batch.x, batch.cond))
    return Batch(x, cond, row)


def _place(sharding: NamedSharding, array: Any) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(array))


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]
