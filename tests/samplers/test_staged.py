"""Staged, adaptive and stochastic solvers: their orders, against flows and laws in closed form.

The law at the end of a walk on a Gaussian is Gaussian, because the denoiser is linear: x_end =
A x_start + B + sum C_k z_k. The derivatives A and C_k of its steps give the variance of that law
without a single sample, and for the flow (no C_k) its map.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers, trees
from jaxdiff.trees import Tape
from jaxdiff.types import SOLVER, STAGE, Now, State
from tests.problems import PROCESSES, gaussian, keep_x, keys_of, vector
from tests.samplers.test_solvers import graded

x64 = pytest.mark.usefixtures("x64")
COUNTS = (16, 32, 64)


def ratio(r):
    return r


def square(r):
    return r**2


def even(n, start=0):
    """Even in log sigma from 4 to 1/e."""
    places = jnp.linspace(-2 * jnp.log(4.0), 2.0, n + 1)
    return jnp.exp(-(graded(places, start) if start else places) / 2)


def slope(errors):
    return -np.polyfit(np.log(COUNTS), np.log(np.abs(errors)), 1)[0]


def affine(sampler, rows, variance=0.6, who=(SOLVER,)):
    """A and the variance of the noise of each row, for a solver without history."""
    dist = exact.gaussian(jnp.full(1, 0.7), variance * jnp.eye(1))
    denoise = exact.denoiser(dist, process.edm())

    def move(x, noise, t, s, i):
        now = Now(t, s, i, 1, trees.fold(Tape(noise), 0), {})
        return sampler.step(now, denoise, State(x))[0].x[0, 0]

    def one(t, s, i):
        still = {k: jnp.zeros((1, 1, 1)) for k in who}
        kept, gains = jax.grad(move, argnums=(0, 1))(jnp.full((1, 1), 0.7), still, t, s, i)
        return kept[0, 0], sum(jnp.sum(g**2) for g in jax.tree.leaves(gains))

    return jax.jit(jax.vmap(one))(rows.t, rows.s, rows.i)


def law(sampler, grids, **options):
    """[(A, variance of the noise)] of the walks down the grids: all their rows at once."""
    rows = jax.tree.map(lambda *a: jnp.concatenate(a), *map(samplers.grid, grids))
    kept, noise = map(np.asarray, affine(sampler, rows, **options))
    ends = np.cumsum([len(ts) - 1 for ts in grids])[:-1]
    for a, v in zip(np.split(kept, ends), np.split(noise, ends), strict=True):
        after = np.append(np.cumprod(a[::-1])[::-1][1:], 1.0)
        yield np.prod(a), np.sum(v * after**2)


def walked(sampler, grids, variance=0.6):
    """The same for one that has a history: one walk, whose samples have a grid each."""
    longest = max(len(ts) for ts in grids)
    further = [ts[-1] * 0.99 ** jnp.arange(1, longest - len(ts) + 1) for ts in grids]
    rows = samplers.grid(jnp.stack([jnp.append(*a) for a in zip(grids, further)], axis=1))
    ends, b = jnp.array([len(ts) - 2 for ts in grids]), jnp.arange(len(grids))
    denoise = exact.denoiser(exact.gaussian(jnp.full(1, 0.7), variance * jnp.eye(1)), process.edm())

    def end(x, z):
        seen = samplers.run(Tape({SOLVER: z}), denoise, sampler, rows, x, look=keep_x)[1]
        return jnp.sum(seen[ends, b])

    still = jnp.zeros((longest - 1, len(grids), 1))
    kept, gains = jax.jit(jax.grad(end, argnums=(0, 1)))(jnp.full((len(grids), 1), 0.7), still)
    return zip(np.asarray(kept[:, 0]), np.asarray(jnp.sum(gains**2, axis=(0, 2))), strict=True)


def off(law, grids, variance=0.6):
    """By how much the law at the end is wrong: its variance, begun in the law of the process."""
    begun, ended = (float(variance + grids[0][end] ** 2) for end in (0, -1))
    return np.array([kept**2 * begun + drawn - ended for kept, drawn in law])


BOTH = (SOLVER, STAGE)
ORDERS = {
    "dpm_2": (lambda: samplers.dpm_2(r=0.3), 2),
    "dpm_3": (lambda: samplers.dpm_3(r1=0.25), 3),
    "dpmpp_2s": (lambda: samplers.dpmpp_2s(r=0.7), 2),
    "dpmpp_3s": (lambda: samplers.dpmpp_3s(), 3),
    "dpmpp_3s of another second stage": (lambda: samplers.dpmpp_3s(r2=0.8), 2),
    "dpmpp_3s halved": (lambda: samplers.singlestep(3, halved=True), 3),
    "dpm_fast": (lambda: samplers.dpm_fast(3 * 64 + 1), 3),
    "dpmpp_sde 0": (lambda: samplers.dpmpp_sde(0.0), 2),
    "dpm_2 1": (lambda: samplers.dpm_2(1.0), 2),
    "dpm_3 1": (lambda: samplers.dpm_3(1.0), 3),
    "dpmpp_2s 1/2": (lambda: samplers.dpmpp_2s(0.5), 2),
    "dpmpp_3s 1": (lambda: samplers.dpmpp_3s(1.0), 3),
    "dpmpp_sde": (lambda: samplers.dpmpp_sde(), 2),
    "dpmpp_sde 1/2": (lambda: samplers.dpmpp_sde(0.5, r=0.4), 2),
    "dpmpp_sde of independent noises": (lambda: samplers.dpmpp_sde(paired=False), 1),
}
WITH_A_PAST = {
    "er_sde 1": (lambda: samplers.er_sde(1, square), 1, 0),
    "er_sde 2": (lambda: samplers.er_sde(2, square), 2, 0),
    "er_sde 2 as recommended": (lambda: samplers.er_sde(2), 2, 0),
    "er_sde 3": (lambda: samplers.er_sde(3, square), 2, 0),
    "er_sde 3, the flow": (lambda: samplers.er_sde(3, ratio), 3, 5),
    "er_sde 3, the flow as published": (
        lambda: samplers.er_sde(3, ratio, published=True), 2, 5,
    ),
}  # fmt: skip
FAST = {"dpm_3", "dpmpp_2s", "dpmpp_3s", "dpmpp_3s 1", "dpmpp_sde",
        "dpmpp_sde of independent noises", "er_sde 3", "er_sde 3, the flow"}  # fmt: skip


def some(table):
    return [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in table]


@x64
@pytest.mark.parametrize("name", some(ORDERS))
def test_order(name):
    """Of the variance: for the flow that is twice the error of A."""
    make, order = ORDERS[name]
    grids = [even(4 * n if "sde" in name else n) for n in COUNTS]
    found = off(law(make(), grids, who=BOTH), grids)
    assert abs(slope(found) - order) < 0.25, (slope(found), found)


@x64
@pytest.mark.parametrize("name", some(WITH_A_PAST))
def test_order_with_a_past(name):
    make, order, start = WITH_A_PAST[name]
    grids = [even(4 * n, start) for n in COUNTS]
    found = off(walked(make(), grids), grids)
    assert abs(slope(found) - order) < 0.25, (slope(found), found)


def late(sampler):
    """The sampler's steps, as if they came at the end of a long grid."""
    return lambda now, denoise, state: sampler.step(now._replace(i=now.i + 9), denoise, state)


@x64
@pytest.mark.parametrize("name", some(["edm", "flow", "zero_table"]))
def test_one_evaluation_is_euler(name):
    """Order 1, the step beyond the last order, the step to clean data, and one from alpha = 0."""
    proc = PROCESSES[name]()
    denoise, x = exact.denoiser(gaussian(2), proc), proc.sigma(proc.t_max) * vector(1, 3, 2)
    ts = process.uniform(proc, 4)
    kinds = {
        "first": (ts[1:3], samplers.singlestep(1, data=False)),
        "beyond": (ts[1:3], samplers.euler()._replace(step=late(samplers.singlestep((3,))))),
        "clean": (ts[-2:], samplers.dpmpp_3s()),
        "from zero": (ts[:2], samplers.dpm_3()),
        "from zero, by data": (ts[:2], samplers.dpmpp_3s()),
    }
    if name == "edm":
        kinds = {k: v for k, v in kinds.items() if "zero" not in k}

    @jax.jit
    def both():
        walk = functools.partial(samplers.run, keys_of(3), denoise)
        return {
            k: (walk(s, samplers.grid(t), x), walk(samplers.euler(), samplers.grid(t), x))
            for k, (t, s) in kinds.items()
        }

    for label, (found, euler) in both().items():
        assert jnp.allclose(found, euler, rtol=0, atol=1e-12 * proc.t_max), label


def test_bad_stages_are_refused():
    for order in (0, 4, (3, 0)):
        with pytest.raises(ValueError, match="give 1, 2 or 3"):
            samplers.singlestep(order)
    for make in (samplers.dpm_2, samplers.dpmpp_2s):
        with pytest.raises(ValueError, match="give it in"):
            make(r=1.0)
    with pytest.raises(ValueError, match="r2=0"):
        samplers.dpmpp_3s(r2=0)
    with pytest.raises(ValueError, match=r"r=1\.5"):
        samplers.dpmpp_sde(r=1.5)
    for make in (samplers.dpmpp_sde, samplers.dpm_3, samplers.dpmpp_3s):
        with pytest.raises(ValueError, match=r"give eta in \[0, 1\]"):
            make(1.5)
    with pytest.raises(ValueError, match="evaluations=0"):
        samplers.dpm_fast(0)
    with pytest.raises(ValueError, match="order=4"):
        samplers.er_sde(4)


@pytest.mark.parametrize("count", [3])
def test_fast_spends_its_budget(count):
    seen, proc = [], process.edm()
    exactly = exact.denoiser(gaussian(2), proc)

    def spy(x, t, now):
        jax.debug.callback(lambda _: seen.append(1), t)
        return exactly(x, t, now)

    denoise = exactly.__class__(proc, jax.tree_util.Partial(spy))
    ts = even(samplers.fast_steps(count))
    samplers.run(keys_of(1), denoise, samplers.dpm_fast(count), samplers.grid(ts), jnp.ones((1, 2)))
    jax.effects_barrier()
    assert len(seen) == count
