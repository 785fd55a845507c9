"""The step, the average, the optimisers: against closed forms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import training
from jaxdiff.training.optimizers import is_hidden
from jaxdiff.types import Batch

SGD = optax.sgd(0.1)


def loss(params, key, batch):
    """Half the squared distance to the data: the gradient is params - mean(x)."""
    error = batch.x - params["w"][None]
    return 0.5 * jnp.mean(jnp.sum(error**2, axis=1)), {"x": jnp.mean(batch.x)}


def start(optimizer=SGD, **options):
    return training.create({"w": jnp.arange(3.0)}, optimizer, jax.random.key(0), **options)


def one(optimizer=SGD, **options):
    return functools.partial(training.step, loss=loss, optimizer=optimizer, **options)


def same_bits(a, b):
    a, b = (jax.tree.map(_plain, tree) for tree in (a, b))
    return all(
        x.tobytes() == y.tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _plain(a):
    is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(a) if is_key else a)


def test_a_step_is_gradient_descent():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    state, metrics = one()(start(), Batch(x))
    gradient = np.arange(3) - x.mean(0)
    np.testing.assert_allclose(state.params["w"], np.arange(3) - 0.1 * gradient, atol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-6)
    np.testing.assert_allclose(metrics["x"], x.mean(), atol=1e-6)
    assert metrics["skipped"] == 0 and int(state.step) == 1


def test_every_step_has_its_own_noise_and_the_same_noise_again():
    def noise(params, key, batch):
        return jnp.sum(params["w"]), {"draw": jax.random.normal(key, ())}

    run = functools.partial(training.step, loss=noise, optimizer=SGD)
    first, a = run(start(), Batch(jnp.ones((2, 3))))
    _, b = run(first, Batch(jnp.ones((2, 3))))
    _, again = run(start(), Batch(jnp.ones((2, 3))))
    assert a["draw"] != b["draw"] and a["draw"] == again["draw"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, accumulate):
    run = training.compile_step(one(optax.adam(0.1), accumulate=accumulate), donate=False)
    before, _ = run(start(optax.adam(0.1)), Batch(jnp.ones((4, 3))))
    after, metrics = run(before, Batch(jnp.ones((4, 3)).at[1, 2].set(bad)))
    assert metrics["skipped"] == 1 and int(after.step) == int(before.step) + 1
    assert same_bits(after[1:], before[1:])
    after, metrics = run(after, Batch(jnp.ones((4, 3))))
    assert metrics["skipped"] == 0 and not same_bits(after.params, before.params)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_entry_in_any_leaf_is_enough(bad, place):
    def loss(params, key, batch):
        return sum((jnp.sum(p * x) for p, x in zip(params, batch.x)), jnp.zeros(())), {}

    params = (jnp.ones(3), jnp.ones((2, 2)), jnp.ones(()))
    x = [jnp.ones((1, 3)), jnp.ones((1, 2, 2)), jnp.ones((1,))]
    x[place] = x[place].ravel().at[-1].set(bad).reshape(x[place].shape)
    params = tuple(p[None] for p in params)
    state = training.create(params, SGD, jax.random.key(0))
    after, metrics = training.step(state, Batch(tuple(x)), loss=loss, optimizer=SGD)
    assert metrics["skipped"] == 1 and same_bits(after.params, params)


def test_a_huge_gradient_is_still_a_gradient():
    def loss(params, key, batch):
        return jnp.sum(params["w"] * 1e30), {}

    state = training.create({"w": jnp.zeros(3)}, SGD, jax.random.key(0))
    _, metrics = training.step(state, Batch(jnp.ones((1, 3))), loss=loss, optimizer=SGD)
    assert metrics["skipped"] == 0  # though its squares overflow


def test_the_test_of_the_gradient_is_compiled_once():
    n = 24

    def loss(params, key, batch):
        return sum((jnp.sum(jnp.sin(p * batch.x.mean())) for p in params), jnp.zeros(())), {}

    state = training.create([jnp.ones(4 + i) for i in range(n)], SGD, jax.random.key(0))
    run = training.compile_step(functools.partial(training.step, loss=loss, optimizer=SGD))
    text = run.lower(state, Batch(jnp.ones((4, 3)))).compile().as_text()
    ands, maxima = text.count(" and("), text.count(" maximum(")
    assert ands + maxima < n * n / 2  # each leaf has a few; n^2: each update tests all leaves


def test_donation_leaves_the_average_alone():
    run = training.compile_step(one())
    state = start()
    for _ in range(2):
        state, _ = run(state, Batch(jnp.ones((2, 3))))
    assert np.isfinite(state.ema["w"]).all() and np.isfinite(state.params["w"]).all()


def test_a_state_without_average_keeps_none():
    state, _ = one()(start(average=False), Batch(jnp.ones((2, 3))))
    assert state.ema is None
    kept, _ = one(ema=None)(start(), Batch(jnp.ones((2, 3))))
    assert kept.ema["w"].tolist() == [0, 1, 2]


def test_power_average_has_its_weights():
    """Unrolled: theta(k) has weight (1 - beta_k) prod_{j > k} beta_j, beta_n = (1 - 1/n)^g."""
    n, g = 30, 13.0
    values = np.random.default_rng(0).normal(size=n)
    beta = (1 - 1 / np.arange(1, n + 1)) ** g
    weights = [(1 - beta[k]) * np.prod(beta[k + 1 :]) for k in range(n)]
    average = jnp.asarray(7.0)
    for k, value in enumerate(values):
        average = training.power_ema(average, jnp.asarray(value, jnp.float32), k, exponent=g)
    np.testing.assert_allclose(average, np.dot(weights, values), rtol=1e-5)
    np.testing.assert_allclose(sum(weights), 1.0)


def test_power_average_stays_exact_late_in_training():
    """At step 10^7 the decay 1 - 1.3e-6 must not round to a multiple of the f32 spacing at 1."""
    moved = training.power_ema(jnp.zeros(()), jnp.asarray(1e6), 10**7 - 1)
    np.testing.assert_allclose(moved, 1.3, rtol=1e-3)


def test_constant_average():
    average = training.constant_ema(jnp.zeros(()), jnp.ones(()), 10**6, decay=0.9)
    np.testing.assert_allclose(average, 0.1, rtol=1e-6)
    np.testing.assert_allclose(
        training.constant_ema(jnp.zeros(()), jnp.ones(()), 0), 0.9, rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"decay = 1\.5"):
        training.constant_ema(jnp.zeros(()), jnp.ones(()), 0, decay=1.5)


def test_accumulation_keeps_convolutions_canonical():
    """In a loop XLA:CPU runs only NHWC/HWIO convolutions fast; gradients must be rewritten."""

    def conv_loss(params, key, batch):
        y = jax.lax.conv_general_dilated(
            batch.x, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(y**2), {}

    state = training.create({"k": jnp.ones((3, 3, 2, 2))}, SGD, jax.random.key(0))
    run = functools.partial(training.step, loss=conv_loss, optimizer=SGD, accumulate=2)
    jaxpr = jax.make_jaxpr(run)(state, Batch(jnp.ones((4, 8, 8, 2))))
    found = list(_convolutions(jaxpr.jaxpr))
    assert len(found) == 2
    for numbers in found:
        assert tuple(numbers) == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def _convolutions(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn.params["dimension_numbers"]
        for value in eqn.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from _convolutions(inner)


# --- optimisers ---


def first_update(optimizer, gradient) -> Any:
    return jax.jit(lambda g: optimizer.update(g, optimizer.init(g), g)[0])(gradient)


def test_muon_moves_kernels_along_orthogonal_matrices():
    """The update of a kernel has singular values near lr * 0.2 sqrt(max(fan_in, fan_out))."""
    shape, fan = (3, 3, 8, 16), 72
    gradient = {
        "block": {"kernel": jax.random.normal(jax.random.key(0), shape)},
        "exit": {"kernel": jnp.full((4, 4), 3.0)},
        "norm": {"scale": jnp.full((4,), -2.0)},
    }
    optimizer = training.muon(1e-2, clip=None)
    update = first_update(optimizer, gradient)
    matrix = np.asarray(update["block"]["kernel"]).reshape(fan, 16)
    values = np.linalg.svd(matrix, compute_uv=False) / (1e-2 * 0.2 * np.sqrt(fan))
    assert values.min() > 0.6 and values.max() < 1.3
    overlap = np.sum(matrix * np.asarray(gradient["block"]["kernel"]).reshape(fan, 16))
    assert overlap < 0
    np.testing.assert_allclose(update["exit"]["kernel"], -1e-2, rtol=1e-3)
    np.testing.assert_allclose(update["norm"]["scale"], 1e-2, rtol=1e-3)


def test_muon_trains_inside_the_step():
    def fit_loss(params, key, batch):
        return jnp.mean((batch.x @ params["mid"]["kernel"] - batch.x) ** 2), {}

    optimizer = training.muon(training.schedule(0.05, 60, warmup=5))
    params = {"mid": {"kernel": jnp.zeros((4, 4))}}
    state = training.create(params, optimizer, jax.random.key(0))
    run = training.compile_step(
        functools.partial(training.step, loss=fit_loss, optimizer=optimizer)
    )
    x = jax.random.normal(jax.random.key(1), (32, 4))
    for _ in range(60):
        state, metrics = run(state, Batch(x))
    assert metrics["loss"] < 0.01


def test_which_kernels_are_hidden():
    kernel = jnp.zeros((4, 4))
    for path in ("middle/0/attention/out/kernel", "grow/1/kernel", "blocks/3/mlp/first/kernel"):
        assert is_hidden(path, kernel)
    for path in ("entry/kernel", "exit/kernel", "embedding/table", "down/0/film/kernel", "a/bias"):
        assert not is_hidden(path, kernel)
    assert not is_hidden("a/kernel", jnp.zeros(4))


def test_schedule_rises_holds_and_falls():
    rate = training.schedule(4e-3, 1000)
    values = np.asarray([rate(k) for k in (0, 19, 39, 400, 649, 824, 999, 5000)]) / 4e-3
    expected = [1 / 40, 0.5, 1, 1, 1, 1 - 0.99 / 2, 0.01, 0.01]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    constant = training.schedule(1.0, 10, warmup=0, cooldown=0.0)
    assert [float(constant(k)) for k in (0, 5, 9, 20)] == [1.0] * 4
    short = training.schedule(1.0, 20, warmup=40)
    assert max(float(short(k)) for k in range(20)) == 1.0


def test_bad_recipes_are_named():
    with pytest.raises(ValueError, match="steps = 0"):
        training.schedule(1.0, 0)
    with pytest.raises(ValueError, match=r"cooldown = 35 .*not a number of steps"):
        training.schedule(1.0, 10, cooldown=35)
    with pytest.raises(ValueError, match="clip = 0"):
        training.adam(0.1, clip=0.0)
    everything = training.muon(0.1, hidden=lambda path, leaf: True)
    with pytest.raises(ValueError, match=r"shape \(3,\) is no matrix"):
        everything.init({"b": jnp.ones(3)})


def test_clip_bounds_the_gradient():
    """Adam's update is -lr as long as the gradient is constant, which a clip makes it here."""
    for clip, expected in ((1.0, -0.1), (None, -0.0741)):
        optimizer: Any = training.adam(0.1, clip=clip)
        state = optimizer.init(jnp.ones(()))
        for size in (1.0, 1000.0):
            update, state = optimizer.update(jnp.asarray(size), state, jnp.ones(()))
        np.testing.assert_allclose(update, expected, rtol=0.02)
