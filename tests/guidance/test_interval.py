"""Guidance in an interval: inside it is classifier-free guidance, outside the plain condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import bind, cfg, guidance, model, process


def answer(params, x, time, cond):
    return x * 0 + cond[:, None]


@pytest.mark.parametrize("noise", [process.edm(), process.rectified_flow()], ids=["edm", "flow"])
def test_the_scale_acts_in_the_interval_alone(noise):
    network = model(answer, {}, noise, process.wiring(process.x0), span=None)
    cond, null = jnp.array([1.0, 2.0]), jnp.zeros(2)
    x = jnp.ones((2, 1))
    guided = cfg(network, cond, null, guidance.interval(3.0, 0.1, 2.0))
    for t, inside in ((0.05, False), (0.5, True), (1.0, noise.t_max > 1)):
        expected = (3.0 if inside else 1.0) * bind(network, cond)(x, t).x0
        np.testing.assert_allclose(guided(x, t).x0, expected, rtol=1e-6)


def test_every_sample_has_its_own_time():
    network = model(answer, {}, process.edm(), process.wiring(process.x0), span=None)
    guided = cfg(
        network, jnp.ones(3), jnp.zeros(3), guidance.interval(jnp.array([2.0, 3.0, 4.0]), high=1.0)
    )
    found = jax.jit(lambda x, t: guided(x, t).x0)(jnp.ones((3, 1)), jnp.array([0.5, 0.9, 5.0]))
    np.testing.assert_allclose(found[:, 0], [2.0, 3.0, 1.0], rtol=1e-6)
