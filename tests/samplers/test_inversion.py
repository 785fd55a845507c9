"""DDIM inversion: there and back again, and against the exact flow of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate
from tests.problems import PROCESSES, flow_map, gaussian, keys_of, tree_denoiser, vector

x64 = pytest.mark.usefixtures("x64")


def there_and_back(denoise, x, ts, **options):
    up = samplers.invert(denoise, x, ts, **options)
    return up, samplers.run(keys_of(len(x)), denoise, samplers.ddim(), samplers.grid(ts), up)


@x64
@pytest.mark.parametrize("name", [pytest.param("edm", marks=pytest.mark.slow), "zero_table"])
def test_the_inverse_is_exact(name):
    """Of the whole grid, its step to clean data included; from alpha = 0 too."""
    proc = PROCESSES[name]()
    denoise, x = exact.denoiser(gaussian(2), proc), vector(3, 4, 2)
    which = process.karras if name == "edm" else process.uniform
    ts = jax.jit(which, static_argnums=1)(proc, 6)

    @jax.jit
    def errors(x):
        walks = (there_and_back(denoise, x, ts, rounds=r)[1] for r in (1, 20, 600))
        return [jnp.max(jnp.abs(back - x)) for back in walks]

    plain, some, many = errors(x)
    assert many < 1e-10 < 1e-2 < plain and some < plain


@x64
def test_plain_inversion_is_of_first_order():
    """Towards the flow's own map upwards, as the exact inverse is, and in the way back."""
    proc, dist = process.edm(), gaussian(2)
    denoise, x = exact.denoiser(dist, proc), vector(3, 4, 2)

    def errors(n):
        ts = jnp.geomspace(5.0, 0.1, n + 1)
        true = flow_map(dist, proc, x, ts[-1], ts[0])
        plain, back = there_and_back(denoise, x, ts)
        whole, _ = there_and_back(denoise, x, ts, rounds=30)
        return [jnp.max(jnp.abs(e)) for e in (plain - true, back - x, whole - true)]

    one, two = (jax.jit(errors, static_argnums=0)(n) for n in (80, 160))
    for a, b in zip(one, two, strict=True):
        assert abs(np.log2(a / b) - 1) < 0.25, (a, b)


def test_times_per_sample_and_trees():
    """Two samples on grids of their own are as each would be alone; the frame does not matter."""
    proc = process.rectified_flow()
    denoise = tree_denoiser(proc)
    x = {"image": vector(0, 2, 2, 2, 1), "kernel": vector(1, 2, 3)}
    ts = jnp.array([[0.9, 0.8], [0.5, 0.3], [0.2, 0.1]])

    @jax.jit
    def go(x, ts, c):
        return samplers.invert(denoise, x, ts, rounds=40, c=c)

    both, other = go(x, ts, 1.0), go(x, ts, 0.5)
    for name in x:
        np.testing.assert_allclose(both[name], other[name], atol=1e-5)
        for i in (0, 1):
            alone = go({n: leaf[i : i + 1] for n, leaf in x.items()}, ts[:, i], 1.0)
            np.testing.assert_allclose(alone[name], both[name][i : i + 1], atol=1e-5)


def test_conditions_see_the_steps_of_the_way_back():
    """A denoiser that changes from step to step is inverted with the steps in reverse."""
    proc = process.edm()
    shifts = jnp.array([0.0, 1.0, -2.0])

    def moved(x, t, now):
        return Estimate(x / (1 + t**2) + shifts[now.i] * (now.t - now.s))

    denoise = Denoiser(proc, jax.tree_util.Partial(moved))
    x, ts = vector(0, 3, 1), jnp.array([5.0, 3.0, 1.0, 0.5])
    _, back = there_and_back(denoise, x, ts, rounds=200)
    np.testing.assert_allclose(back, x, atol=1e-4)


def test_what_is_seen_on_the_way():
    denoise, x = exact.denoiser(gaussian(2), process.edm()), vector(3, 4, 2)
    ts = jnp.array([5.0, 3.0, 0.0])
    end, seen = samplers.invert(denoise, x, ts, look=lambda now, x, est: (now.s, x))
    assert seen[0].tolist() == [3.0, 5.0]
    np.testing.assert_allclose(seen[1][-1], end)
    assert jnp.all(jnp.isfinite(end))


def test_bad_input():
    denoise, x = exact.denoiser(gaussian(2), process.edm()), jnp.ones((1, 2))
    with pytest.raises(ValueError, match="must decrease"):
        samplers.invert(denoise, x, jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="rounds=0"):
        samplers.invert(denoise, x, jnp.array([1.0, 0.0]), rounds=0)
