"""The sampler that estimates its noise level: the plain one where the level is as planned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate, Now, Sampler, State
from tests.problems import PROCESSES, gaussian, keys_of, vector

x64 = pytest.mark.usefixtures("x64")


@x64
@pytest.mark.parametrize("name", [pytest.param("edm", marks=pytest.mark.slow), "zero_table"])
def test_the_true_level_is_the_plain_sampler(name):
    """Every step of a grid, from t_max (alpha = 0 in the table) to clean data."""
    proc = PROCESSES[name]()
    denoise, x = exact.denoiser(gaussian(2), proc), vector(0, 4, 2)
    ts = jax.jit(process.karras, static_argnums=1)(proc, 5)

    @jax.jit
    def both(t, s):
        now = Now(t, s, 0, 5, keys_of(4), {})
        true = jnp.broadcast_to(process.log_snr(proc, t), (4,))
        kinds = samplers.ddpm(), samplers.adjusted(lambda x: true)(samplers.ddpm())
        return [kind.step(now, denoise, State(x))[0].x for kind in kinds]

    for t, s in zip(ts[:-1], ts[1:]):
        plain, found = both(t, s)
        np.testing.assert_allclose(found, plain, rtol=1e-8)


def _of_level(x):
    return x[:, 0]


def _to_level(now, denoise, state):
    return State(process.log_snr(denoise.process, now.s)[:, None]), Estimate(state.x)


SPY = Sampler(State, _to_level)  # x is the level itself


@x64
@pytest.mark.parametrize("left", [samplers.linear_left, samplers.fibonacci_left, None])
def test_the_schedules_are_what_they_are_called(left):
    """The betas that are stepped, from the end: j, or Fibonacci's, or those planned, times 1.3."""
    proc, n = process.edm(), 8
    ts = jnp.append(jnp.geomspace(20.0, 0.2, n), 0.0)
    planned = jnp.log1p(ts**2)
    start = -jnp.log(jnp.expm1(1.3 * planned[:1]))[:, None]

    @jax.jit
    def levels(start):
        sampler = samplers.adjusted(_of_level, left)(SPY)
        denoise = Denoiser(proc, jax.tree_util.Partial(lambda x, t, now: Estimate(x)))
        rows = samplers.grid(ts)
        seen = samplers.run(keys_of(1), denoise, sampler, rows, start, look=lambda _, x, e: x)[1]
        return jax.nn.softplus(-jnp.append(start, seen))

    noise = levels(start)
    betas = (noise[:-1] - noise[1:])[::-1]
    assert noise[-1] == 0
    if left is samplers.linear_left:
        np.testing.assert_allclose(betas / betas[0], jnp.arange(1, n + 1), rtol=1e-6)
    elif left is samplers.fibonacci_left:
        np.testing.assert_allclose(betas[2:], betas[1:-1] + betas[:-2], rtol=1e-6)
        np.testing.assert_allclose(betas[0], betas[1], rtol=1e-6)
    else:
        np.testing.assert_allclose(noise, 1.3 * planned, rtol=1e-6)


@pytest.mark.parametrize("left", [None, samplers.linear_left])
def test_a_wrong_start_is_seen(left):
    """Noise of 5 on a grid from 10; in 2000 dimensions the norm of x tells the level."""
    d, c, proc = 2000, 0.5, process.edm()
    denoise = Denoiser(proc, jax.tree_util.Partial(lambda x, t, now: Estimate(_shrunk(c, x, t))))
    x = (c + 25) ** 0.5 * vector(0, 3, d)

    def level(x):
        return -jnp.log(jnp.maximum(jnp.mean(x**2, axis=1) - c, 1e-6))

    @jax.jit
    def ends(x):
        rows = samplers.grid(jnp.append(jnp.geomspace(10.0, 0.02, 30), 0.0))
        kinds = samplers.ddpm(), samplers.adjusted(level, left)(samplers.ddpm())
        return [jnp.mean(samplers.run(keys_of(3), denoise, s, rows, x) ** 2, axis=1) for s in kinds]

    plain, found = ends(x)
    assert jnp.all(plain < 0.9 * c)
    assert jnp.all(jnp.abs(found - c) < 0.1 * c)


def _shrunk(c, x, t):
    return x * (c / (c + jnp.broadcast_to(t, len(x)) ** 2))[:, None]


def test_bad_input():
    proc = process.edm()
    denoise, x = exact.denoiser(gaussian(2), proc), jnp.ones((2, 2))
    now = Now(jnp.array(3.0), jnp.array(1.0), 0, 1, keys_of(2), {})
    for level, kind, words in (
        (_of_level, samplers.dpmpp_2m(), "keeps a history"),
        (jnp.sum, samplers.ddim(), "log-SNR a sample"),
        (_of_level, samplers.heun(), "one time for the whole batch"),
    ):
        sampler = samplers.adjusted(level)(kind)
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(lambda x: sampler.step(now, denoise, sampler.init(x)), x)  # noqa: B023
