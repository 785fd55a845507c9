"""A guided loop of a convolutional network keeps no convolution that is slow on the CPU."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import pytest

from jaxdiff import inverse, process, samplers
from jaxdiff.denoise import bind, model
from jaxdiff.guidance import chain, towards
from tests.problems import keys_of, vector
from tests.test_canonical import conv, convolutions, is_canonical, only_cpu

SHAPE = (8, 8, 2)
X, Y = vector(0, 2, *SHAPE), vector(1, 2, 4, 4, 2)
LOOPS = ("scan", "while")


def net(params, x, time, cond):
    x = jax.nn.silu(conv(x, params["first"], stride=2))
    return jax.image.resize(conv(x, params["last"]), (x.shape[0], *SHAPE), "nearest")


def denoiser():
    params = {"first": vector(2, 3, 3, 2, 4), "last": vector(3, 3, 3, 4, 2)}
    return bind(model(net, params, process.rectified_flow(), process.wiring(process.velocity)))


def in_loops(jaxpr):
    """The convolutions inside loops only: those outside are rewritten by the compiler."""
    found = []
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    look = convolutions if eqn.primitive.name in LOOPS else in_loops
                    found += look(inner)
    return found


def cost(x0):
    return jnp.sum(x0**2)


POOL = inverse.average_pool(2, SHAPE)
GUIDES = {
    "dps": inverse.dps(POOL, Y, noise=0.1),
    "mmps": inverse.mmps(POOL, Y, noise=0.1, steps=2),
    "chain": chain(towards(cost), inverse.pigdm(POOL, Y, noise=0.1)),
}


def slow(fn):
    found = in_loops(jax.make_jaxpr(fn)(X))
    assert len(found) >= 4
    return [eqn for eqn in found if not is_canonical(eqn)]


def walk(denoise, sampler):
    rows = samplers.grid(jnp.array([1.0, 0.6, 0.3, 0.0]))
    return lambda x: samplers.run(keys_of(2), denoise, sampler, rows, x)


@only_cpu
@pytest.mark.parametrize(
    "name", [n if n == "mmps" else pytest.param(n, marks=pytest.mark.slow) for n in GUIDES]
)
def test_guided_loops(name):
    denoise = GUIDES[name](denoiser())
    assert slow(walk(denoise, samplers.heun())) == []
    assert slow(lambda x: samplers.integrate(denoise, x)) == []
    times = jnp.linspace(0.9, 0.1, 5)
    noisy = functools.partial(samplers.integrate, denoise, keys=keys_of(2), times=times)
    assert slow(functools.partial(noisy, solver=diffrax.Euler())) == []


@only_cpu
def test_corrections():
    published = inverse.dps_published(POOL, Y, zeta=0.1)(samplers.ddpm())
    assert slow(walk(denoiser(), published)) == []


@only_cpu
def test_the_check_sees_what_is_slow():
    def plain(x):
        guided = GUIDES["dps"](denoiser())
        return jax.lax.scan(lambda x, t: (guided(x, t).x0, None), x, jnp.array([0.9, 0.5]))[0]

    assert slow(plain) != []
