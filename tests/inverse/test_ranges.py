"""A measurement in other units is refused by what steps, as it is by guides."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import inverse, process, samplers
from jaxdiff.samplers import run
from tests.inverse.problems import SHAPE
from tests.problems import keys_of, tree_denoiser, vector

FLOW, POOL = process.rectified_flow(), inverse.average_pool(2, SHAPE)
ROWS = samplers.grid(jnp.array([1.0, 0.5, 0.0]))
Y, X = 0.3 * vector(1, 2, 2, 2, SHAPE[-1]), vector(0, 2, *SHAPE)


def net(ranged=True):
    span = (jnp.array(-1.0), jnp.array(1.0)) if ranged else None
    return dataclasses.replace(tree_denoiser(FLOW), span=span)


def walked(sampler, denoise):
    return run(keys_of(2), denoise, sampler, ROWS, X)


def asked(guide, denoise):
    return guide(denoise)(X, 0.5).x0


def _red_diff(y, denoise):
    ts = jnp.array([0.7, 0.3])
    return inverse.red_diff(keys_of(2), denoise, ts, X, POOL, y, noise=0.1)


STEPS = {
    "dps_published": lambda y: inverse.dps_published(POOL, y, zeta=0.1)(samplers.ddim()),
    "dps_poisson": lambda y: inverse.dps_poisson(POOL, y, zeta=0.1, low=-2.0)(samplers.ddim()),
    "mcg": lambda y: inverse.mcg(POOL, y, zeta=0.1)(samplers.ddpm()),
    "project": lambda y: inverse.project(POOL, y)(samplers.ddpm()),
    "flowchef": lambda y: inverse.flowchef(POOL, y, rate=0.3)(samplers.ddim()),
    "resample": lambda y: inverse.resample(POOL, y, steps=2)(samplers.ddim()),
    "flowdps": lambda y: inverse.flowdps(POOL, y),
    "ddrm": lambda y: inverse.ddrm(POOL, y, noise=0.1),
    "ddnm_plus": lambda y: inverse.ddnm_plus(POOL, y, noise=0.1),
}
DOORS = {name: lambda y, d, make=make: walked(make(y), d) for name, make in STEPS.items()} | {
    "hard_consistency": lambda y, d: asked(inverse.hard_consistency(POOL, y, steps=2), d),
    "sitcom": lambda y, d: asked(inverse.sitcom(POOL, y, noise=0.1, steps=1), d),
    "red_diff": _red_diff,
}


@pytest.mark.parametrize("name", list(DOORS))
def test_a_step_refuses_a_measurement_in_other_units(name):
    """Pixels from 0 to 255 for a denoiser of [-1, 1]; NaN where nothing was measured."""
    for bad, words in ((127.5 * (Y + 1), "value range"), (Y.at[0, 0, 0].set(jnp.nan), "NaN")):
        with pytest.raises(ValueError, match=words):
            DOORS[name](bad, net())
    jax.eval_shape(lambda: DOORS[name](Y, net()))
    jax.eval_shape(lambda: DOORS[name](1e3 * Y, net(ranged=False)))  # no range, nothing to say


def test_the_look_is_taken_inside_a_compiled_function_too():
    """y is known while tracing there, and A of three pictures is computed at that time."""
    denoise = net()
    for bad in (127.5 * (Y + 1), Y.at[0].set(jnp.inf)):
        sampler = STEPS["ddrm"](bad)
        with pytest.raises(ValueError, match="y "):
            jax.jit(lambda x, sampler=sampler: walked(sampler, denoise))(X)
    # what is an argument of the function is not known
    for name in ("ddrm", "project"):
        jax.eval_shape(lambda y, name=name: walked(STEPS[name](y), denoise), 127.5 * (Y + 1))
