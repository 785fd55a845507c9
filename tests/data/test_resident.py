"""Batches from the device: pure in (seed, step), every epoch covered exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxdiff.data import Resident, Source, augment, resident, resident_batch, toys
from jaxdiff.data.resident import shuffled


def _data(n: int) -> Resident:
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 2, 1))
    return resident(Source(images, np.arange(n, dtype=np.int32)))


@functools.partial(jax.jit, static_argnums=3)
def _batch(data, seed, step, batch):
    return resident_batch(data, seed, step, batch)


def _stream(data, key, batch, steps):
    return np.concatenate([_batch(data, key, i, batch).cond for i in range(steps)])


@pytest.mark.parametrize(("n", "batch"), [(24, 6), (23, 5), (5, 8), (7, 7), (1, 1), (4, 8)])
def test_every_epoch_holds_every_row_once(n, batch):
    stream = _stream(_data(n), jax.random.key(0), batch, -(-3 * n // batch))
    for epoch in stream[: 3 * n].reshape(3, n):
        assert sorted(epoch.tolist()) == list(range(n))


def test_epochs_and_keys_have_their_own_order():
    streams = [_stream(_data(60), jax.random.key(i), 20, 6).reshape(2, 60) for i in range(2)]
    orders = {tuple(epoch.tolist()) for stream in streams for epoch in stream}
    assert len(orders) == 4


@pytest.mark.parametrize("n", [2, 3, 97, 1000, 4097])
def test_the_order_is_a_bijection_for_any_size(n):
    order = jax.jit(lambda key: shuffled(key, n, jnp.zeros(n, jnp.int32), jnp.arange(n)))
    for i in range(3):
        assert (np.sort(order(jax.random.key(i))) == np.arange(n)).all()


def test_the_order_looks_like_chance():
    """Places of a row over 400 epochs are uniform, and neighbours do not stay together."""
    n, epochs = 50, 400
    place, epoch = jnp.tile(jnp.arange(n), epochs), jnp.repeat(jnp.arange(epochs), n)
    orders = shuffled(jax.random.key(0), n, epoch, place).reshape(epochs, n)
    counts = np.stack([np.bincount(column, minlength=n) for column in np.asarray(orders).T])
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    freedom = (n - 1) ** 2
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)
    steps = np.abs(np.diff(np.asarray(orders), axis=1))
    # |i - j| of two distinct rows at random has mean (n + 1) / 3; 19,600 pairs, std about 12.
    assert abs(steps.mean() - (n + 1) / 3) < 5 * 12 / np.sqrt(steps.size)


def test_a_batch_is_scaled_labelled_and_numbered():
    batch = _batch(_data(200), 3, 0, 8)
    assert batch.x.shape == (8, 2, 2, 1)
    assert batch.x.dtype == jnp.float32
    assert np.asarray(batch.row).tolist() == list(range(8))
    assert np.allclose(batch.x[:, 0, 0, 0], (2 * batch.cond - 255) / 255)


def test_a_number_is_as_good_as_its_key():
    data = _data(20)
    fixed = jax.jit(lambda data: resident_batch(data, 7, 2, 4).cond)(data)
    assert (fixed == _batch(data, jax.random.key(7), 2, 4).cond).all()
    assert (fixed == _batch(data, 7, 2, 4).cond).all()


def test_it_is_pure_in_the_step_and_does_not_retrace():
    data, traces = _data(20), []

    @jax.jit
    def labels(data, key, step):
        traces.append(None)
        return resident_batch(data, key, step, 4).cond

    forward = [labels(data, jax.random.key(1), i).tolist() for i in range(8)]
    backward = [labels(data, jax.random.key(1), i).tolist() for i in reversed(range(8))]
    assert forward == backward[::-1]
    assert len(traces) == 1


def test_rows_ask_for_a_part_of_the_same_batch():
    data = _data(23)
    whole = _batch(data, 0, 5, 8)
    part = jax.jit(lambda data, rows: resident_batch(data, 0, 5, 8, rows=rows))(
        data, jnp.array([6, 1])
    )
    assert part.cond.tolist() == [int(whole.cond[6]), int(whole.cond[1])]
    assert np.asarray(part.row).tolist() == [6, 1]


def test_shards_make_their_own_rows():
    data, mesh = _data(23), jax.make_mesh((8,), ("data",))

    def local(data):
        rows = jax.lax.axis_index("data") * 2 + jnp.arange(2)
        return resident_batch(data, 0, 5, 16, rows=rows).cond

    spread = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(), out_specs=P("data")))(data)
    assert (np.asarray(spread) == np.asarray(_batch(data, 0, 5, 16).cond)).all()


def test_augmentation_is_part_of_the_pure_function():
    images = np.arange(160, dtype=np.uint8).reshape(10, 4, 4, 1)
    data = resident(Source(images))
    make = jax.jit(lambda step: resident_batch(data, 0, step, 10, augment=augment.flip).x)
    flipped = [
        (np.asarray(make(i)) != np.asarray(_batch(data, 0, i, 10).x)).any((1, 2, 3))
        for i in range(4)
    ]
    assert (np.asarray(make(2)) == np.asarray(make(2))).all()
    assert 8 < np.stack(flipped).sum() < 32
    assert len({tuple(f.tolist()) for f in flipped}) == 4


def test_late_steps_do_not_overflow():
    """Step 2^30 of batches of 64 lies at position 2^36: as in integers of any length."""
    n, batch, step = 23, 64, 2**30 + 5
    got = _batch(_data(n), 0, step, batch).cond
    position = step * batch + np.arange(batch)
    key = jax.random.fold_in(jax.random.key(0), 0)
    epoch = jnp.asarray((position // n).astype(np.uint32).astype(np.int32))
    assert (got == shuffled(key, n, epoch, jnp.asarray((position % n).astype(np.int32)))).all()


def test_points_of_the_plane_pass_unscaled():
    x, label = jax.jit(toys.two_moons, static_argnums=1)(jax.random.key(0), 32)
    batch = _batch(resident(Source(x, label)), 0, 0, 32)
    assert batch.x.shape == (32, 2)
    assert np.allclose(np.sort(batch.x, 0), np.sort(x, 0))


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="batch=0"):
        resident_batch(_data(5), 0, 0, 0)
    with pytest.raises(ValueError, match="step=-1"):
        resident_batch(_data(5), 0, -1, 2)
    many = Resident(jnp.zeros((2**20 + 7, 0)))
    with pytest.raises(ValueError, match="batch=4096 and n=1048583"):
        resident_batch(many, 0, 0, 4096)
    with pytest.raises(ValueError, match="images has dtype int32"):
        resident(Source(np.zeros((2, 2, 2, 1), np.int32)))
