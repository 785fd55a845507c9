"""Batches from the host: Grain shuffles, reads ahead in threads and counts, so that a run resumes.

The order of the GLOBAL stream depends on the seed only. Process `index` of `count` reads the rows
[index, index + 1) * batch / count of every global batch, so the processes partition the epoch, and
a run may be resumed with another number of processes without seeing other batches.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.data.augment import Augment, augmented
from jaxdiff.data.sources import Source, check_source, take
from jaxdiff.data.values import unit
from jaxdiff.types import Batch


class Batches:
    """An iterator of batches that knows where it is. Made by `loader`."""

    def __init__(self, iterator: Any, identity: dict[str, Any], per_epoch: int) -> None:
        self._iterator = iterator
        self._identity = identity
        self.per_epoch = per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Where the iterator is and in which stream: a dict that JSON can hold."""
        return {**self._identity, "position": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken: the next batch is the one that came next there.

        Errors: ValueError, naming what differs, if the state is of another stream.
        """
        for name, value in self._identity.items():
            if name not in state or state[name] != value:
                raise ValueError(
                    f"state has {name}={state.get(name)!r}, this loader {name}={value!r}: a state "
                    "belongs to one stream; make the loader as it was when the state was taken"
                )
        self._iterator.set_state(state["position"])


def loader(
    source: Source,
    batch: int,
    *,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    drop_remainder: bool = True,
    augment: Augment | None = None,
    epochs: int | None = None,
    shuffle: bool = True,
    threads: int = 2,
) -> Batches:
    """An iterator of shuffled batches that can be resumed exactly.

    `batch` the GLOBAL batch size; `seed` in [0, 2^32); `shard` (index, count) of this process,
    which gets batch / count rows; `drop_remainder` leaves out the rows of an epoch that fill no
    batch (others every epoch); `augment(key, image) -> image` for one image, run on the default
    device: on an accelerator rather do it inside the step; `epochs` None for endless; `threads`
    read ahead, two batches each. Returns batches of numpy arrays: x float32 [b, h, w, c] in
    [-1, 1], cond the labels or None, row int32 [b].
    Errors: ValueError for a batch that exceeds the set or that `count` does not divide.

    >>> source = Source(np.zeros((10, 8, 8, 1), np.uint8), np.arange(10, dtype=np.int32))
    >>> batches = loader(source, 4, seed=0)
    >>> next(batches).x.shape, batches.per_epoch
    ((4, 8, 8, 1), 2)
    """
    import grain

    n = _check(source, batch, seed, shard, drop_remainder)
    per_epoch = n // batch if drop_remainder else -(-n // batch)
    read = partial(_read, source, _order(n, seed, shuffle), (n, batch, per_epoch), shard)
    if augment is not None:
        read = partial(_augment, augment, jax.random.key(seed), read)
    # Grain calls with (position in the endless stream, element): the element is not needed.
    steps = grain.MapDataset.range(per_epoch).repeat(epochs).map_with_index(lambda i, _: read(i))
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    identity = {
        "rows": n,
        "batch": batch,
        "seed": seed,
        "shuffle": shuffle,
        "drop_remainder": drop_remainder,
    }
    return Batches(iter(steps.to_iter_dataset(ahead)), identity, per_epoch)


def _order(n: int, seed: int, shuffle: bool) -> Any:
    """Random access to the endless order: entry e * n + j is the j-th row of epoch e."""
    import grain

    order = grain.MapDataset.range(n)
    if not shuffle:
        return order
    # Grain shuffles epoch e by seed + e: without this, seeds 0 and 1 would share their epochs.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return order.shuffle(seed=mixed)


def _read(
    source: Source, order: Any, sizes: tuple[int, int, int], shard: tuple[int, int], step: int
) -> Batch:
    """This process's rows of global batch `step`, scaled."""
    n, batch, per_epoch = sizes
    index, count = shard
    epoch, within = divmod(step, per_epoch)
    present = min(batch, n - within * batch)
    local = present // count
    row = np.arange(index * local, (index + 1) * local, dtype=np.int32)
    chosen = np.array([order[epoch * n + within * batch + int(j)] for j in row], np.int64)
    x = unit(take(source.images, chosen), f"images (rows {chosen[:3].tolist()} ...)")
    labels = source.labels
    cond = None if labels is None else np.asarray(take(labels, chosen), np.int32)
    return Batch(x, cond, row)  # pyright: ignore[reportArgumentType]  (numpy until it is placed)


def _augment(augment: Augment, key: jax.Array, read: Callable[[int], Batch], step: int) -> Batch:
    found = read(step)
    rows = jnp.asarray(found.row)
    x = augmented(augment, jax.random.fold_in(key, step), rows, jnp.asarray(found.x))
    return found._replace(x=np.asarray(x))


def _check(
    source: Source, batch: int, seed: int, shard: tuple[int, int], drop_remainder: bool
) -> int:
    n = check_source(source)
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard={shard}: (index, count) needs 0 <= index < count")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: it must be in [0, 2^32)")
    if batch < 1 or batch % count:
        raise ValueError(f"batch={batch}: it must be a positive multiple of {count} processes")
    if drop_remainder and batch > n:
        raise ValueError(
            f"batch={batch} exceeds the {n} rows of the source, so no batch would ever be full: "
            "take a smaller batch or drop_remainder=False"
        )
    if not drop_remainder and (n % batch) % count:
        raise ValueError(
            f"drop_remainder=False leaves a last batch of {n % batch} rows, which {count} "
            "processes cannot share evenly: take drop_remainder=True or another batch"
        )
    return n
