"""DPM-Solver-v3: what it reduces to, its orders, its statistics on Gaussians, where it is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.trees import fold, normal
from tests.problems import (
    PROCESSES,
    flow_map,
    gaussian,
    keep_x,
    keys_of,
    mixture,
    passes,
    restart,
    tree_denoiser,
    vector,
)
from tests.problems import ends as last_rows
from tests.samplers.test_solvers import graded

x64 = pytest.mark.usefixtures("x64")


def ramp(lin, slope, bias):
    """Tables that are linear over the levels from -3 to 3: pairs of numbers."""
    level = jnp.array([-3.0, 3.0])
    return samplers.Statistics(level, *(jnp.array(v, float) for v in (lin, slope, bias)))


PLUS, NOISE = ((1, 1), (0, 0), (0, 0)), ((0, 0), (-1, -1), (0, 0))
MIXED = ((0.5, 1.0), (-0.4, 0.1), (0.3, -0.2))


@x64
@pytest.mark.parametrize("name", ["edm", pytest.param("zero_table", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_constant_statistics_are_dpm_solver_and_its_plus(name):
    proc = PROCESSES[name]()
    denoise, ts = exact.denoiser(mixture(), proc), process.karras(proc, 6)
    v3 = functools.partial(samplers.dpm_solver_v3, correct=False)
    pairs = [
        (v3(ramp(*PLUS), 2), samplers.dpmpp_2m(midpoint=False)),
        (v3(ramp(*NOISE), 3), samplers.dpm_solver_m(3, midpoint=False)),
    ]

    @jax.jit
    def ends(x):
        walk = functools.partial(samplers.run, keys_of(4), denoise)
        return [[walk(s, samplers.grid(ts), x) for s in pair] for pair in pairs]

    for one, other in ends(proc.sigma(ts[0]) * vector(1, 4, 2)):
        assert jnp.max(jnp.abs(one - other)) < 1e-11


@x64
@pytest.mark.slow
@pytest.mark.parametrize("order, correct", [(1, True), (2, False), (2, True), (3, True)])
def test_order_by_any_smooth_statistics(order, correct):
    proc, dist = process.edm(), gaussian(2)
    x, counts = 4.0 * vector(5, 8, 2), (32, 64, 128)
    places = (graded(jnp.linspace(-2 * jnp.log(4.0), 2.0, n + 1), 5) for n in counts)
    grids = [process.time_of(proc, lam) for lam in places]

    @jax.jit
    def walk(denoise, x):
        solver = samplers.dpm_solver_v3(ramp(*MIXED), order, correct=correct)
        rows, again = passes(grids, 4.0), functools.partial(restart, x)
        return samplers.run(keys_of(8), denoise, solver, rows, x, look=keep_x, renoise=again)[1]

    found = walk(exact.denoiser(dist, proc), x)[last_rows(grids)]
    truth = flow_map(dist, proc, x, grids[0][0], grids[0][-1])
    errors = np.asarray(jnp.max(jnp.abs(found - truth[None]), axis=(1, 2)))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - (order + correct)) < 0.25, (slope, errors)


def diagonal():
    """A Gaussian whose entries are independent."""
    mean, variances = jnp.array([1.0, -2.0, 0.3]), jnp.array([0.1, 1.0, 4.0])
    return exact.gaussian(mean, jnp.diag(variances)), variances


@x64
@pytest.mark.slow
def test_the_statistics_of_a_gaussian_make_one_step_exact():
    """Each entry's eps is linear in x: f does not depend on x, its change is all bias."""
    proc, (dist, variances) = process.vp_linear(), diagonal()
    denoise, x = exact.denoiser(dist, proc), vector(3, 5, 3)
    x0, keys = exact.draw(jax.random.key(2), dist, 16), keys_of(16)
    grid = samplers.grid(jnp.array([0.9, 0.05]))
    truth = flow_map(dist, proc, x, jnp.array(0.9), jnp.array(0.05))

    times = process.uniform_lambda(proc, 320)[:-1]

    @jax.jit
    def one_step(times):
        found = samplers.model_statistics(keys, denoise, x0, times)
        kinds = samplers.dpm_solver_v3(found, 1), samplers.ddim()
        return found, *(samplers.run(keys_of(5), denoise, s, grid, x) for s in kinds)

    found, end, ddim = one_step(times)
    alpha, sigma = (a[:, None] for a in process.scales(proc, times))
    assert jnp.allclose(found.lin, sigma**2 / (alpha**2 * variances[None] + sigma**2))
    assert jnp.all(found.slope == 0)
    assert jnp.max(jnp.abs(end - truth)) < 3e-4  # by the tables: 2.0e-3 with 80 levels
    assert jnp.max(jnp.abs(ddim - truth)) > 0.3


@x64
@pytest.mark.slow
def test_the_slope_is_that_of_the_regression():
    """f' of samples of a mixture on f, the derivative taken by differences along the flow."""
    proc, dist = process.edm(), mixture()
    denoise, keys = exact.denoiser(dist, proc), keys_of(200)
    x0 = exact.draw(jax.random.key(1), dist, 200)
    times = jnp.exp(jnp.linspace(0.5, -0.5, 41))
    found = jax.jit(lambda: samplers.model_statistics(keys, denoise, x0, times))()
    i, h = 20, 1e-5
    lin, change = found.lin[i], (found.lin[i + 1] - found.lin[i - 1]) / 0.05

    def f(x, t, lin):
        return x - denoise(x, t).x0 - lin[None] * x

    x, t = x0 + times[i] * normal(fold(fold(keys, i), 0), x0), times[i]
    rate = x - denoise(x, t).x0  # dx/dlog(t); the level falls with it
    ahead = f(x - h * rate, t * jnp.exp(-h), lin + h * change)
    prime = (ahead - f(x + h * rate, t * jnp.exp(h), lin - h * change)) / (2 * h)
    here = f(x, t, lin)
    for entry in range(2):
        slope, bias = np.polyfit(np.asarray(here[:, entry]), np.asarray(prime[:, entry]), 1)
        assert abs(found.slope[i, entry] - slope) < 1e-6
        assert abs(found.bias[i, entry] - bias) < 1e-6


@pytest.mark.slow
def test_statistics_are_arguments_and_trees():
    proc, traces = process.rectified_flow(), []
    denoise = tree_denoiser(proc)
    x = {"a": vector(0, 4, 2, 2), "b": vector(1, 4, 3)}
    times = jnp.array([0.9, 0.5, 0.2, 0.1])

    @jax.jit
    def walk(statistics):
        traces.append(1)
        rows = samplers.grid(process.uniform(proc, 3))
        return samplers.run(keys_of(4), denoise, samplers.dpm_solver_v3(statistics, 1), rows, x)

    for pooled in (False, True):
        found = samplers.model_statistics(keys_of(4), denoise, x, times, pooled=pooled)
        assert found.lin["b"].shape == ((4,) if pooled else (4, 3))
        for made in (found, jax.tree.map(lambda leaf: 0.5 * leaf, found)):
            assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(walk(made)))
    assert len(traces) == 2


def _shift(now, proc, x, est):
    return x + 100.0


def test_a_correction_keeps_what_others_did():
    """What is added after each step is there at the end, corrected steps or not."""
    denoise, x = exact.denoiser(gaussian(2), process.rectified_flow()), vector(0, 2, 2)
    rows = samplers.grid(jnp.linspace(0.9, 0.5, 4))

    @jax.jit
    def end(x):
        kinds = [samplers.dpm_solver_v3(ramp(*PLUS), 1, correct=c) for c in (False, True)]
        return [
            samplers.run(keys_of(2), denoise, samplers.after(_shift)(s), rows, x) for s in kinds
        ]

    plain, corrected = end(x)
    assert jnp.all(plain > 150) and jnp.all(jnp.abs(corrected / plain - 1) < 0.2)


def test_bad_arguments_are_refused():
    for order in (0, 4):
        with pytest.raises(ValueError, match="1, 2 or 3"):
            samplers.dpm_solver_v3(ramp(*PLUS), order)
    with pytest.raises(ValueError, match="two or more"):
        one = jax.tree.map(lambda leaf: leaf[:1], ramp(*PLUS))
        samplers.dpm_solver_v3(one)
    denoise = exact.denoiser(gaussian(2), process.rectified_flow())
    for times in (jnp.array([1.0, 0.5]), jnp.array([0.5, 0.0])):
        with pytest.raises(ValueError, match="leave out"):
            samplers.model_statistics(keys_of(2), denoise, jnp.zeros((2, 2)), times)
    rows = samplers.grid(jnp.ones((3, 2)) * jnp.array([0.9, 0.5, 0.0])[:, None])
    with pytest.raises(ValueError, match="one time for the whole batch"):
        samplers.run(
            keys_of(2), denoise, samplers.dpm_solver_v3(ramp(*PLUS)), rows, jnp.ones((2, 2))
        )
