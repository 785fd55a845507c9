"""Sample i depends on its own key alone: not on the batch, and not on how it is spread."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdiff import exact, process, samplers
from tests.problems import gaussian, idle_sampler, keys_of, noise_sampler, point, vector

KEY = jax.random.key(3)


@functools.partial(jax.jit, static_argnums=(0, 1))
def drawn(sampler, b, ids, denoise=None):
    denoise = point(jnp.zeros(3), process.rectified_flow()) if denoise is None else denoise
    draw = functools.partial(samplers.sample, KEY, denoise, sampler, times=process.uniform)
    return draw(shape=(b, 3), steps=3, ids=ids)


@pytest.mark.parametrize("fold", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_noise_is_bit_equal_at_every_batch_size(fold):
    sampler = noise_sampler(fold)
    all_of_them = drawn(sampler, 64, jnp.arange(64))
    for b in (1, 3):
        assert (drawn(sampler, b, jnp.arange(b)) == all_of_them[:b]).all()
    assert (drawn(sampler, 3, jnp.array([7, 63, 0])) == all_of_them[jnp.array([7, 63, 0])]).all()
    assert len(np.unique(np.asarray(all_of_them))) == 64 * 3


def spread():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def test_noise_is_bit_equal_when_sharded():
    ids = jax.device_put(jnp.arange(64), spread())
    sharded = drawn(noise_sampler(), 64, ids)
    assert (np.asarray(sharded) == np.asarray(drawn(noise_sampler(), 64, jnp.arange(64)))).all()


def test_start_solver_and_guide_noise_differ_and_other_keys_give_other_noise():
    x_t, solver, guide = (
        drawn(s, 3, jnp.arange(3)) for s in (idle_sampler, noise_sampler(0), noise_sampler(1))
    )
    assert len({float(a[0, 0]) for a in (x_t, solver, guide)}) == 3
    keys = keys_of(4)
    rows = samplers.grid(jnp.array([1.0, 0.5, 0.0]))
    denoise = point(jnp.zeros(3), process.rectified_flow())
    run = functools.partial(samplers.run, keys, denoise, noise_sampler(), rows)
    _, seen = run(jnp.zeros((4, 3)), look=lambda now, x, est: x)
    assert len(np.unique(np.asarray(seen))) == 2 * 4 * 3


SOLVERS = {"ddpm": samplers.ddpm(), "2m": samplers.dpmpp_2m(), "heun": samplers.heun()}


@pytest.mark.parametrize(
    "name", [n if n == "ddpm" else pytest.param(n, marks=pytest.mark.slow) for n in SOLVERS]
)
def test_samples_do_not_depend_on_the_batch(name):
    denoise = exact.denoiser(gaussian(), process.rectified_flow())
    whole = drawn(SOLVERS[name], 16, jnp.arange(16), denoise)
    one = drawn(SOLVERS[name], 1, jnp.array([5]), denoise)
    sharded = drawn(SOLVERS[name], 16, jax.device_put(jnp.arange(16), spread()), denoise)
    for got in (one[0] - whole[5], np.asarray(sharded) - np.asarray(whole)):
        assert np.abs(got).max() < 1e-5 * jnp.abs(whole).max()


def test_no_collective_in_a_sharded_loop():
    """Nothing of one sample travels to another device."""
    denoise = exact.denoiser(gaussian(), process.rectified_flow())
    x, keys = (jax.device_put(a, spread()) for a in (vector(0, 16, 3), keys_of(16)))

    def walk(keys, x):
        rows = samplers.grid(process.uniform(denoise.process, 3))
        return samplers.run(keys, denoise, samplers.ddpm(), rows, x)

    text = jax.jit(walk).lower(keys, x).compile().as_text()
    assert text and not [
        w for w in ("all-reduce", "all-gather", "all-to-all", "permute") if w in text
    ]
