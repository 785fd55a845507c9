"""Guided by a gradient, no walk leaves a slow convolution inside its loop (CPU)."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

import jaxdiff as jd
from jaxdiff import guidance, process, samplers
from tests.problems import keys_of
from tests.samplers.test_terminal import SOLVERS
from tests.test_canonical import convolutions, is_canonical, only_cpu

BATCH = 2
X = jnp.zeros((BATCH, 4, 4, 1))
KEYS = keys_of(BATCH)
WEIGHTS = (jnp.ones((3, 3, 1, 3)), jnp.ones((3, 3, 3, 1)))


def two_layers(params, x, time, cond):
    dims = ("NHWC", "HWIO", "NHWC")
    layer = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=dims
    )
    return layer(jnp.tanh(layer(x, params[0])), params[1])


def guided():
    model = jd.model(two_layers, WEIGHTS, process.edm(), process.edm_wiring())
    towards = guidance.towards(Partial(lambda x0: jnp.sum(x0**2)), 1.0)
    return towards(jd.bind(model))


def walk(sampler, denoise):
    return samplers.run(
        KEYS, denoise, sampler, samplers.grid(process.karras(denoise.process, 4)), X
    )


WALKS = {
    **{name: functools.partial(walk, sampler) for name, sampler in SOLVERS.items()},
    "travel": lambda d: samplers.run(
        KEYS, d, samplers.ddim(1.0), samplers.travel(process.karras(d.process, 4), 2), X
    ),
    "adaptive": lambda d: samplers.dpm_adaptive(d, X).x,
    "probability flow": lambda d: samplers.integrate(d, X),
    "reverse SDE": lambda d: samplers.integrate(
        d, X, keys=KEYS, times=process.karras(d.process, 4)
    ),
    "likelihood": lambda d: samplers.log_likelihood(d, X, keys=KEYS),
    "encode": lambda d: samplers.encode(d, X),
    "noise power": lambda d: samplers.noise_power(KEYS, d, X, jnp.array([1.0, 2.0])),
}


@only_cpu
@pytest.mark.parametrize("name", WALKS)
def test_every_convolution_in_a_loop_is_fast(name):
    found = convolutions(jax.make_jaxpr(WALKS[name])(guided()), inside=False)
    assert len(found) >= 3  # two of the network, and the gradient of the second
    assert all(map(is_canonical, found))
