"""Adams-Moulton with a limiter: its order, its limiter, its errors at few steps.

Starts and mixture are those of `k_diffusion.npz`; its five Gaussians have standard deviation 0.7.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers, trees
from tests.problems import (
    PROCESSES,
    ends,
    flow_map,
    gaussian,
    keep_x,
    keys_of,
    mixture,
    passes,
    restart,
    vector,
)

KNOWN = np.load(pathlib.Path(__file__).with_name("k_diffusion.npz"))
ORDERS = (1, 2, 3, 4)
COUNTS = (128, 256, 512)
x64 = pytest.mark.usefixtures("x64")


def walk(denoise, sampler, ts, x):
    return samplers.run(keys_of(trees.size(x)), denoise, sampler, samplers.grid(ts), x)


def graded(n):
    """Even places from 0.8 to 0.3, the first step in tiny ones: low orders then cost nothing."""
    tau = jnp.linspace(0.8, 0.3, n + 1)
    tau = jnp.concatenate([tau[0] - (tau[0] - tau[1]) ** 2 * jnp.arange(8), tau[1:]])
    return 1.05 * tau**2 / (1 - tau)


@x64
def test_order():
    proc, dist = process.edm(), gaussian(2)
    x, grids = 4.0 * vector(5, 8, 2), [graded(n) for n in COUNTS]
    rows, again = passes(grids, grids[0][0]), functools.partial(restart, x)

    @jax.jit
    def seen(kappa):
        run = functools.partial(samplers.run, keys_of(8), exact.denoiser(dist, proc))
        solvers = [samplers.adams_moulton(order, kappa=kappa) for order in ORDERS]
        return [run(s, rows, x, look=keep_x, renoise=again)[1][ends(grids)] for s in solvers]

    truth = flow_map(dist, proc, x, grids[0][0], grids[0][-1])
    for kappa in (0.535, float("inf")):
        for order, found in zip(ORDERS, seen(kappa), strict=True):
            errors = jnp.max(jnp.abs(found - truth[None]), axis=(1, 2))
            measured = -np.polyfit(np.log(COUNTS), np.log(np.asarray(errors)), 1)[0]
            assert abs(measured - order) < 0.25, (order, kappa, measured, errors)


@x64
@pytest.mark.slow
def test_few_steps():
    """Root mean square errors on the mixture, from sigma = 80 to 0."""
    proc = process.edm(1e-9, 80.0)
    weights, means, covs = (jnp.asarray(KNOWN[f"in/gmm_{k}"]) for k in ("w", "mu", "cov"))
    denoise, x = exact.denoiser(exact.mixture(weights, means, covs), proc), 80.0 * KNOWN["in/z2"]
    sampler = samplers.adams_moulton(4, bend=0.0, kappa=0.535, continued=True)
    grid = functools.partial(process.root_flow, bend=0.0)
    ends = jax.jit(lambda x: [walk(denoise, sampler, grid(proc, n), x) for n in known])
    known = {5: 0.0756, 10: 0.0205, 20: 4.32e-3}
    truth = jax.jit(walk, static_argnums=1)(
        denoise, samplers.heun(1.0), process.root_flow(proc, 2000), x
    )
    found = [float(jnp.sqrt(jnp.mean((end - truth) ** 2))) for end in ends(x)]
    assert found == pytest.approx(list(known.values()), rel=0.01)


@pytest.mark.parametrize("name", ["flow", pytest.param("zero_table", marks=pytest.mark.slow)])
def test_it_begins_at_alpha_0(name):
    proc, dist = PROCESSES[name](), gaussian()
    x = vector(1, 8, 3)
    ends = jax.jit(lambda d, x, ts: walk(d, samplers.adams_moulton(), ts, x))
    found = ends(exact.denoiser(dist, proc), x, process.root_flow(proc, 40))
    truth = flow_map(dist, proc, x, proc.t_max, proc.t_clean)
    assert jnp.max(jnp.abs(found - truth)) < 2e-3


@x64
def test_the_limiter_chooses_the_order():
    """Large changes: Euler predicts and the trapezoid corrects, at any order; order 1 is DDIM."""
    proc = process.edm()
    denoise, x = exact.denoiser(mixture(), proc), 80.0 * vector(2, 4, 2)
    ts = 80.0 * jnp.linspace(1.0, 0.0, 7) ** 5

    @jax.jit
    def ends(kappa):
        kinds = [samplers.adams_moulton(order, kappa=kappa) for order in ORDERS]
        return [walk(denoise, s, ts, x) for s in [samplers.ddim(), *kinds]]

    ddim, one, two, three, four = ends(1e-9)
    np.testing.assert_allclose(one, ddim, atol=1e-12)
    np.testing.assert_allclose(three, two, atol=1e-12)
    np.testing.assert_allclose(four, two, atol=1e-12)
    assert jnp.min(jnp.max(jnp.abs(jnp.diff(jnp.stack(ends(1e9)), axis=0)[1:]), axis=(1, 2))) > 1e-3


@x64
@pytest.mark.slow
def test_every_sample_has_its_own_limiter_and_times():
    proc = process.edm()
    denoise = exact.denoiser(mixture(), proc)
    x = jnp.array([1.0, 80.0, 80.0])[:, None] * vector(3, 3, 2)
    ts = jnp.stack([process.root_flow(process.edm(0.002, high), 8) for high in (1.0, 80.0, 80.0)])
    ends = jax.jit(lambda x, ts: walk(denoise, samplers.adams_moulton(), ts, x))
    one = ends(x, ts.T)
    two = ends(x.at[1].set(x[0]), ts.at[1].set(ts[0]).T)
    np.testing.assert_allclose(two, one[jnp.array([0, 0, 2])], atol=1e-12)
    assert not jnp.any(one[0] == one[1])


@x64
def test_what_a_correction_did_stays():
    """A shift after the fifth of 40 steps: the corrector of the next does not take it back."""
    proc, dist = process.edm(0.002, 20.0), gaussian()
    ts, x, shift = process.root_flow(proc, 40), 20.0 * vector(1, 4, 3), 5.0

    def fix(now, process, x, est):
        return x + jnp.where(now.i == 4, shift, 0.0)

    sampler = samplers.after(fix)(samplers.adams_moulton())
    found = jax.jit(walk, static_argnums=1)(exact.denoiser(dist, proc), sampler, ts, x)
    plain = flow_map(dist, proc, x, ts[0], ts[-1])
    truth = flow_map(dist, proc, flow_map(dist, proc, x, ts[0], ts[5]) + shift, ts[5], ts[-1])
    assert jnp.max(jnp.abs(found - truth)) < 0.05 * jnp.max(jnp.abs(truth - plain))


@x64
@pytest.mark.slow
def test_a_long_last_step_is_not_extrapolated():
    """Fine steps to t_min, one to sigma = 0: what is left is the estimate at t_min."""
    proc, dist = process.edm(0.1, 20.0), gaussian()
    denoise, x, ts = exact.denoiser(dist, proc), 20.0 * vector(1, 4, 3), process.root_flow(proc, 80)
    truth = denoise(flow_map(dist, proc, x, ts[0], ts[-2]), ts[-2]).x0
    for continued in (True, False):
        sampler = samplers.adams_moulton(continued=continued)
        found = jax.jit(walk, static_argnums=1)(denoise, sampler, ts, x)
        assert jnp.max(jnp.abs(found - truth)) < 1e-3


def test_numbers_are_arguments():
    traces = []
    denoise = exact.denoiser(gaussian(2), process.edm())

    @jax.jit
    def ends(x, std, bend, kappa, power):
        traces.append(1)
        ts = process.root_flow(process.edm(), 4, std, bend)
        sampler = samplers.adams_moulton(std=std, bend=bend, kappa=kappa, power=power)
        return walk(denoise, sampler, ts, x)

    x = 80 * vector(0, 2, 2)
    given = ((0.7, 0.8, 0.5, 4.0), (0.5, 0.8, 0.5, 4.0), (0.5, 0.0, 0.2, 2.0))
    found = [ends(x, *numbers) for numbers in given]
    assert len(traces) == 1 and not jnp.all(found[0] == found[1])
    assert not jnp.all(found[1] == found[2])


REFUSED = {"order": 5, "std": 0.0, "bend": 2.0, "kappa": -1.0, "power": 0}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_refuses(name):
    with pytest.raises(ValueError, match=f"{name}={REFUSED[name]}"):
        samplers.adams_moulton(**{name: REFUSED[name]})


def test_root_flow():
    """Even places, both ends exact; n spread to t_min where there would be less."""
    flow, short = process.rectified_flow(), process.edm(0.1, 10.0)

    @jax.jit
    def places():
        grids = [(flow, process.root_flow(flow, n, 0.5)) for n in (1, 7)]
        grids.append((short, process.root_flow(short, 30, 0.5)))
        return [process.root_place(proc, ts, process.root(0.5)) for proc, ts in grids], grids[-1][1]

    (one, seven, thirty), ts = places()
    np.testing.assert_allclose(one, [1, 0], atol=1e-6)
    np.testing.assert_allclose(seven, np.linspace(1, 0, 8), atol=1e-6)
    assert ts[0] == 10 and ts[-2] == pytest.approx(0.1, rel=1e-5) and ts[-1] == 0
    np.testing.assert_allclose(np.diff(thirty[:-1], 2), 0, atol=1e-6)
    with pytest.raises(ValueError, match="std=-1"):
        process.root_flow(short, 3, -1.0)
