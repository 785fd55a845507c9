"""One step function, four ways to place it: all agree with one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import training
from jaxdiff.training.sharding import batch_sharding, check_batch
from jaxdiff.trees import keys_for, normal
from jaxdiff.types import Batch

OPTIMIZERS = {"sgd": optax.sgd(0.1), "adam": optax.adam(0.01)}


def make_params(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(first, (4, 16)) / 2, "bias": jnp.zeros(16)},
        "exit": {"kernel": jax.random.normal(second, (16, 4)) / 4},
    }


def loss(params, key, batch):
    """A denoising loss in small: every sample draws noise from its place in the global batch."""
    noise = normal(keys_for(key, batch.row), batch.x)
    hidden = jnp.tanh(
        (batch.x + noise) @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
    )
    error = hidden @ params["exit"]["kernel"] + batch.cond["shift"][:, None] - batch.x
    return jnp.mean(error**2), {"largest_mean": jnp.mean(jnp.max(jnp.abs(error), axis=1))}


def batches(count, b=16):
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.normal(size=(b, 4)).astype(np.float32)
        yield Batch(x, {"shift": rng.normal(size=b).astype(np.float32)})


def start(optimizer, seed=0):
    return training.create(make_params(jax.random.key(seed)), optimizer, jax.random.key(seed + 1))


def step_fn(optimizer, **options):
    return functools.partial(training.step, loss=loss, optimizer=optimizer, **options)


def run(compiled, state, count=3):
    for batch in batches(count):
        state, metrics = compiled(state, batch)
    return state, metrics


def assert_close(a, b, atol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=atol)


@pytest.fixture(scope="module")
def reference():
    return {
        name: run(training.compile_step(step_fn(optimizer)), start(optimizer))
        for name, optimizer in OPTIMIZERS.items()
    }


def compiled(kind, optimizer, state, **options):
    fn, m = step_fn(optimizer, **options), training.mesh()
    if kind == "jit":
        return training.compile_step(fn, mesh=m)
    if kind == "shard_map":
        return training.compile_step(training.shard_map_step(fn, m))
    if kind == "pmap":
        return training.pmap_step(fn)
    m = training.mesh(fsdp=4)
    return training.compile_step(
        fn, mesh=m, shardings=training.state_shardings(m, state, min_size=8)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["jit", "fsdp", "shard_map", "pmap"])
def test_every_placement_equals_one_device(kind, name, reference):
    optimizer = OPTIMIZERS[name]
    state = start(optimizer)
    result = run(compiled(kind, optimizer, state), state)
    assert int(result[0].step) == 3
    assert_close(result, reference[name])


@pytest.mark.parametrize("kind", ["fsdp", "shard_map"])
def test_accumulation_composes_with_placement(kind, reference):
    optimizer = OPTIMIZERS["sgd"]
    state = start(optimizer)
    assert_close(run(compiled(kind, optimizer, state, accumulate=2), state), reference["sgd"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_shard_map_that_tracks_variance_does_not_scale_the_gradient(accumulate):
    """With check_vma=True the gradient may come out 8 times too large; SGD sees it."""
    optimizer = OPTIMIZERS["sgd"]
    state, p = start(optimizer), jax.sharding.PartitionSpec
    batch = training.number(next(batches(1)))
    expected, _ = jax.jit(step_fn(optimizer))(state, batch)
    axes = ("data", "fsdp")
    mapped = jax.shard_map(
        step_fn(optimizer, axis=axes, accumulate=accumulate),
        mesh=training.mesh(),
        in_specs=(p(), p(axes)),
        out_specs=p(),
        check_vma=True,
    )
    result, _ = jax.jit(mapped)(state, batch)
    assert_close(result, expected)


def test_rows_number_themselves_under_an_axis():
    """Without rows the slices count on from one another, so the noise is the global one."""
    optimizer = OPTIMIZERS["sgd"]
    state, p = start(optimizer), jax.sharding.PartitionSpec
    batch = next(batches(1))
    axes = ("data", "fsdp")
    mapped = jax.shard_map(
        step_fn(optimizer, axis=axes),
        mesh=training.mesh(fsdp=2),
        in_specs=(p(), p(axes)),
        out_specs=p(),
        check_vma=False,
    )
    assert_close(jax.jit(mapped)(state, batch)[0], jax.jit(step_fn(optimizer))(state, batch)[0])


@pytest.mark.parametrize("accumulate", [2, 16])
def test_accumulation_equals_the_full_batch(accumulate, reference):
    optimizer = OPTIMIZERS["sgd"]
    parts = run(training.compile_step(step_fn(optimizer, accumulate=accumulate)), start(optimizer))
    assert_close(parts, reference["sgd"], atol=1e-6)


def test_moments_and_average_are_sharded_like_the_parameters():
    m, optimizer = training.mesh(fsdp=4), optax.adam(0.01)
    make = training.compile_create(make_params, optimizer, mesh=m, min_size=8)
    state = make(jax.random.key(0))
    step = training.compile_step(
        step_fn(optimizer), mesh=m, shardings=training.state_shardings(m, state, min_size=8)
    )
    after, _ = step(state, training.place_batch(m, next(batches(1))))
    adam = after.opt_state[0]
    for tree in (after.params, after.ema, adam.mu, adam.nu):
        assert tree["hidden"]["kernel"].sharding.spec == jax.sharding.PartitionSpec(None, "fsdp")
        assert tree["exit"]["kernel"].sharding.spec == jax.sharding.PartitionSpec("fsdp")
        assert tree["hidden"]["kernel"].addressable_shards[0].data.shape == (4, 4)
    assert after.step.sharding.is_fully_replicated


def test_placed_state_and_created_state_agree():
    m, optimizer = training.mesh(fsdp=2), optax.adam(0.01)
    created = training.compile_create(make_params, optimizer, mesh=m, min_size=8)(jax.random.key(3))
    first, second = jax.random.split(jax.random.key(3))
    eager = training.create(make_params(first), optimizer, second)
    placed = training.place_state(m, eager, min_size=8)
    assert_close(created, placed, atol=1e-6)
    for a, b in zip(jax.tree.leaves(created), jax.tree.leaves(placed), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


def test_place_batch_numbers_and_splits():
    m = training.mesh(fsdp=2)
    placed = training.place_batch(m, next(batches(1)))
    assert np.asarray(placed.row).tolist() == list(range(16))
    assert placed.x.sharding == batch_sharding(m)
    assert placed.cond["shift"].addressable_shards[0].data.shape == (2,)
    own = training.place_batch(m, placed._replace(row=np.arange(16, 32, dtype=np.int32)))
    assert np.asarray(own.row).tolist() == list(range(16, 32))


@pytest.mark.parametrize("kind", ["jit", "fsdp", "shard_map", "pmap"])
def test_a_batch_that_does_not_divide_is_refused_by_name(kind):
    optimizer = OPTIMIZERS["sgd"]
    state = start(optimizer)
    with pytest.raises(ValueError, match=r"batch of 12 .* 8 devices: use a batch of 8 or 16"):
        compiled(kind, optimizer, state)(state, next(batches(1, b=12)))


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match=r"batch of 4 .* use a batch of 8$"):
        training.place_batch(training.mesh(), next(batches(1, b=4)))
    with pytest.raises(ValueError, match="accumulate = 2: use a batch of 16 or 32"):
        check_batch(24, 8, 2)
    with pytest.raises(ValueError, match="fsdp = 3 is not the number of devices, 8"):
        training.mesh(fsdp=3)
    with pytest.raises(ValueError, match="accumulate = 3 does not divide the batch of 16"):
        run(step_fn(OPTIMIZERS["sgd"], accumulate=3), start(OPTIMIZERS["sgd"]), 1)
    with pytest.raises(ValueError, match="without mesh"):
        training.compile_step(step_fn(OPTIMIZERS["sgd"]), shardings=())
