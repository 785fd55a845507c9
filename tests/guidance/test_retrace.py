"""A new number in a guide is no new program."""

import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from jaxdiff import bind, denoise, guidance
from jaxdiff.types import Estimate, Now
from tests.guidance.problems import waves
from tests.problems import keys_of, vector
from tests.test_retrace import traces_of

X, ONES, ZEROS = vector(0, 2, 3), jnp.ones(2), jnp.zeros(2)


def far(x0, target):
    return jnp.sum((x0 - target) ** 2)


def late(x, t, target):
    return t * far(x, target)


def logits(x, t):
    return x * t


def weighted(weight, branches, at):
    return Estimate(weight * branches[0] + branches[1])


def guided(make):
    return lambda v: make(v)(bind(waves()))


def target(v):
    return (v * jnp.ones((1, 3)),)


CASES = {
    "combined": lambda v: denoise.combined(
        waves(), (v * ONES, ZEROS), Partial(weighted, jnp.float32(v))
    ),
    "compose": lambda v: guidance.compose(waves(), (v * ONES, ONES), ZEROS, (v, -v)),
    "autoguided": lambda v: guidance.autoguided(bind(waves(), v * ONES), bind(waves(), ONES), v),
    "apg": lambda v: guidance.apg(waves(), v * ONES, ZEROS, v, eta=0.1 * v, norm=v, momentum=-v),
    "cfg_plus": lambda v: guidance.cfg_plus(waves(), v * ONES, ZEROS, 0.3 * v, eta=0.4 * v),
    "rescaled_cfg": lambda v: guidance.rescaled_cfg(waves(), ONES, ZEROS, v, rescale=0.4 * v),
    "dynamic_threshold": guided(lambda v: guidance.dynamic_threshold(0.4 * v, -v, v)),
    "classifier": guided(lambda v: guidance.classifier(logits, int(v), 1.0 * v)),
    "noisy": guided(lambda v: guidance.noisy(late, v, each=target(v))),
    "energy": guided(lambda v: guidance.towards(far, v, each=target(v))),
    "smoothed": guided(
        lambda v: guidance.pulled(guidance.smoothed(far, 2, v, r=0.1 * v, each=target(v)))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_two_values_are_one_trace(name):
    def use(d):
        memory = d.memory(X) if d.memory else {}
        now = Now(jnp.array(0.6), jnp.array(0.4), 0, 2, keys_of(2), memory)
        return d(X, 0.6, now).x0

    assert traces_of(use, [CASES[name](v) for v in (1.0, 2.0)]) == 1
