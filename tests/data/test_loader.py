"""The host loader: the same seed gives the same stream, resumed or sharded as it may be."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import Source, augment, loader


def _source(n: int = 23) -> Source:
    """Row i holds the byte i and the label i, so a batch says which rows it took."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 1))
    return Source(images, np.arange(n, dtype=np.int32), n)


def _labels(batches, count):
    return [np.asarray(batch.cond).tolist() for batch in itertools.islice(batches, count)]


def test_a_batch_is_scaled_and_says_its_rows():
    batch = next(loader(_source(), 5, seed=0))
    assert batch.x.shape == (5, 4, 4, 1)
    assert batch.x.dtype == np.float32
    assert batch.row is not None and batch.row.tolist() == [0, 1, 2, 3, 4]
    assert np.allclose(batch.x[:, 0, 0, 0], batch.cond / 127.5 - 1)


def test_the_seed_decides():
    streams = [_labels(loader(_source(), 5, seed=seed), 8) for seed in (3, 3, 4)]
    assert streams[0] == streams[1] != streams[2]


def test_neighbouring_seeds_share_no_epoch():
    streams = [_labels(loader(_source(), 23, seed=seed), 4) for seed in range(4)]
    assert len({tuple(epoch) for stream in streams for epoch in stream}) == 16


def test_every_epoch_takes_every_row_once():
    stream = _labels(loader(_source(24), 6, seed=1), 12)
    epochs = [list(itertools.chain(*stream[i : i + 4])) for i in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_without_the_remainder_an_epoch_takes_no_row_twice():
    batches = loader(_source(), 5, seed=1)
    assert batches.per_epoch == 4
    assert len(set(itertools.chain(*_labels(batches, 4)))) == 20


def test_with_the_remainder_the_last_batch_is_short():
    batches = loader(_source(), 5, seed=1, drop_remainder=False, epochs=1, shuffle=False)
    assert [len(labels) for labels in _labels(batches, 99)] == [5, 5, 5, 5, 3]


def test_epochs_end_and_order_can_be_kept():
    batches = loader(_source(8), 4, seed=0, epochs=2, shuffle=False)
    assert _labels(batches, 99) == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


@pytest.mark.parametrize("at", [0, 2, 4, 7])  # at the start, within an epoch, at its edge, after
def test_resume_is_exact(at):
    whole = _labels(loader(_source(), 5, seed=9), 12)
    first = loader(_source(), 5, seed=9)
    _labels(first, at)
    state = json.loads(json.dumps(first.get_state()))
    resumed = loader(_source(), 5, seed=9)
    resumed.set_state(state)
    assert _labels(resumed, 12 - at) == whole[at:]


def test_set_state_goes_back_too():
    batches = loader(_source(), 5, seed=9)
    _labels(batches, 3)
    state = batches.get_state()
    after = _labels(batches, 3)
    batches.set_state(state)
    assert _labels(batches, 3) == after


@pytest.mark.parametrize("count", [2, 3])
def test_shards_partition_the_global_batch(count):
    whole = loader(_source(), 6, seed=2)
    shards = [loader(_source(), 6, seed=2, shard=(i, count)) for i in range(count)]
    for _ in range(7):
        batch, parts = next(whole), [next(shard) for shard in shards]
        for field in ("x", "cond", "row"):
            joined = np.concatenate([getattr(part, field) for part in parts])
            assert (joined == getattr(batch, field)).all()


def test_a_run_resumes_on_another_number_of_processes():
    whole = _labels(loader(_source(), 6, seed=2), 6)
    one = loader(_source(), 6, seed=2)
    _labels(one, 4)
    shards = [loader(_source(), 6, seed=2, shard=(i, 2)) for i in range(2)]
    for shard in shards:
        shard.set_state(one.get_state())
    parts = [_labels(shard, 2) for shard in shards]
    assert [a + b for a, b in zip(*parts)] == whole[4:]


def test_a_state_of_another_stream_is_refused():
    state = loader(_source(), 5, seed=0).get_state()
    with pytest.raises(ValueError, match="state has batch=5, this loader batch=4"):
        loader(_source(), 4, seed=0).set_state(state)
    with pytest.raises(ValueError, match="state has seed=0, this loader seed=1"):
        loader(_source(), 5, seed=1).set_state(state)
    with pytest.raises(ValueError, match="state has rows=None"):
        loader(_source(), 5, seed=0).set_state({})


def test_random_access_serves_as_well_as_an_array():
    class Rows:
        """Nothing but len and [i]."""

        def __len__(self):
            return 23

        def __getitem__(self, i):
            return np.full((4, 4, 1), i, np.uint8)

    source = Source(Rows(), np.arange(23, dtype=np.int32))
    for got, expected in zip(
        range(6), zip(loader(source, 5, seed=0), loader(_source(), 5, seed=0))
    ):
        assert (expected[0].x == expected[1].x).all(), got


def test_no_labels_no_condition():
    assert next(loader(Source(_source().images), 5, seed=0)).cond is None


def test_augmentation_depends_on_seed_step_and_row_only():
    def stamp(key, image):
        import jax

        return image + 0.0 + jax.random.uniform(key)

    whole = loader(_source(), 6, seed=2, augment=stamp)
    second = loader(_source(), 6, seed=2, augment=stamp, shard=(1, 2))
    one, two = next(whole), next(whole)
    assert (next(second).x == one.x[3:]).all()
    plain = next(loader(_source(), 6, seed=2)).x
    added = (one.x - plain)[:, 0, 0, 0]
    assert len(set(added.tolist())) == 6
    assert not set((two.x - plain)[:, 0, 0, 0].tolist()) & set(added.tolist())


def test_flips_mirror_the_image_or_leave_it():
    images = np.arange(64, dtype=np.uint8).reshape(4, 4, 4, 1)
    batches = loader(Source(images), 4, seed=0, shuffle=False, augment=augment.flip)
    plain = next(loader(Source(images), 4, seed=0, shuffle=False)).x
    for batch in itertools.islice(batches, 3):
        for got, image in zip(batch.x, plain):
            assert (got == image).all() or (got == image[:, ::-1]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 24}, "batch=24 exceeds the 23 rows"),
        ({"batch": 0}, "batch=0"),
        ({"batch": 5, "shard": (0, 2)}, "batch=5: it must be a positive multiple of 2"),
        ({"batch": 4, "shard": (2, 2)}, r"shard=\(2, 2\)"),
        ({"batch": 4, "seed": -1}, "seed=-1"),
        ({"batch": 4, "shard": (0, 2), "drop_remainder": False}, "a last batch of 3 rows"),
    ],
)
def test_what_cannot_work_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        loader(_source(), **{"seed": 0, **options})


def test_an_unreadable_row_surfaces_where_the_batch_is_asked_for():
    class Broken:
        def __len__(self):
            return 8

        def __getitem__(self, i):
            raise OSError(f"row {i} is gone")

    with pytest.raises(OSError, match="is gone"):
        next(loader(Source(Broken()), 4, seed=0))


def test_device_arrays_serve_as_columns():
    source = Source(jnp.zeros((8, 2), jnp.float32), jnp.arange(8))
    assert next(loader(source, 4, seed=0)).x.shape == (4, 2)
