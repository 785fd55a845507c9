"""Pseudo linear multistep, consistency sampling: orders, and what is the same as what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import exact, process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate
from tests.problems import (
    PROCESSES,
    flow_map,
    gaussian,
    keep_x,
    keys_of,
    mixture,
    passes,
    point,
    restart,
    vector,
)
from tests.problems import ends as last_rows

x64 = pytest.mark.usefixtures("x64")
EDM, FLOW = (1.0, 0.05), (1.0, 0.1)
ORDERS = {
    "ipndm 1": (samplers.ipndm(1), "edm", EDM, 1),
    "ipndm": (samplers.ipndm(), "edm", EDM, 2),  # its first step is Euler's
    "plms": (samplers.plms(), "edm", EDM, 3),  # its second step has two slopes
    "pndm": (samplers.pndm(), "edm", EDM, 4),
    "pndm from alpha = 0": (samplers.pndm(), "flow", FLOW, 4),
}


def measured(solver, proc, ends, counts=(128, 256, 512)):
    """The order on a Gaussian, whose flow is known, with even steps between the ends."""
    dist = gaussian(2)
    x = proc.sigma(jnp.asarray(ends[0])) * vector(5, 8, 2)
    grids = [jnp.linspace(ends[0], ends[1], n + 1) for n in counts]

    @jax.jit
    def walk(denoise, x):
        rows, again = passes(grids, ends[0]), functools.partial(restart, x)
        return samplers.run(keys_of(8), denoise, solver, rows, x, look=keep_x, renoise=again)[1]

    seen = walk(exact.denoiser(dist, proc), x)[last_rows(grids)]
    truth = flow_map(dist, proc, x, *map(jnp.asarray, ends))
    found = np.asarray(jnp.max(jnp.abs(seen - truth[None]), axis=(1, 2)))
    return -np.polyfit(np.log(counts), np.log(found), 1)[0], found


@x64
@pytest.mark.parametrize("name", ORDERS)
def test_order_with_even_steps(name):
    solver, proc, ends, order = ORDERS[name]
    slope, found = measured(solver, PROCESSES[proc](), ends)
    assert abs(slope - order) < 0.25, (slope, found)


@x64
@pytest.mark.parametrize("c", [0.0, 1.0])
def test_even_weights_are_those_of_adams_where_steps_are_even(c):
    """In the frame's own time; elsewhere they differ."""
    proc = process.edm() if c == 0 else process.rectified_flow()
    denoise, x = exact.denoiser(mixture(), proc), vector(1, 4, 2)

    def ends(ts):
        rows = samplers.grid(ts)
        makers = samplers.ipndm, samplers.adams
        return [
            [samplers.run(keys_of(4), denoise, f(k, c=c), rows, x) for k in (1, 2, 3, 4)]
            for f in makers
        ]

    for ts, same in ((jnp.linspace(0.9, 0.1, 8), True), (0.9 * jnp.geomspace(1, 0.1, 8), False)):
        for order, (a, b) in enumerate(zip(*jax.jit(ends)(ts)), 1):
            off = float(jnp.max(jnp.abs(a - b)))
            assert off < 1e-12 if same or order == 1 else off > 1e-4, (order, off)


@pytest.mark.parametrize("order", [0, 5])
def test_there_are_four_orders(order):
    with pytest.raises(ValueError, match="1, 2, 3 or 4"):
        samplers.ipndm(order)


def test_stages_need_one_time():
    denoise = exact.denoiser(gaussian(2), process.edm())
    rows = samplers.grid(jnp.ones((3, 2)) * jnp.array([80.0, 1.0, 0.0])[:, None])
    for make in (samplers.plms, samplers.pndm):
        with pytest.raises(ValueError, match="one time for the whole batch"):
            samplers.run(keys_of(2), denoise, make(), rows, jnp.ones((2, 2)))


def test_pndm_asks_as_often_as_it_says():
    """n + 9 and n + 1 times: counted by what a denoiser is asked."""
    asked = []

    def fn(x, t, now):
        jax.debug.callback(lambda t: asked.append(float(t)), t)
        return Estimate(x * 0.5)

    denoise, rows = Denoiser(process.edm(), Partial(fn)), samplers.grid(jnp.linspace(8.0, 0.0, 9))
    for make, more in ((samplers.pndm, 9), (samplers.plms, 1), (samplers.ipndm, 0)):
        asked.clear()
        jax.block_until_ready(samplers.run(keys_of(1), denoise, make(), rows, jnp.ones((1, 1))))
        jax.effects_barrier()
        assert len(asked) == 8 + more, (make, asked)


def _end_of_flow(dist, proc, x, t, now):
    return Estimate(flow_map(dist, proc, x, t, proc.t_clean))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) for n in ("edm", "table")] + ["flow"]
)
@pytest.mark.slow
def test_a_true_consistency_function_draws_from_the_data_in_any_number_of_steps(name):
    proc, dist = PROCESSES[name](), gaussian(2)
    denoise = Denoiser(proc, Partial(_end_of_flow, dist, proc))
    alpha, sigma = process.scales(proc, proc.t_max)
    x = sigma * vector(3, 4000, 2) + alpha * exact.mean(dist)[None]

    @jax.jit
    def draws(denoise, grids):
        rows, at = passes(grids, grids[0][0]), last_rows(grids)
        return samplers.run(keys_of(4000), denoise, samplers.lcm(), rows, x, look=keep_x)[1][at]

    one, four = draws(denoise, [process.uniform(proc, n) for n in (1, 4)])
    assert jnp.max(jnp.abs(one - flow_map(dist, proc, x, proc.t_max, proc.t_clean))) < 1e-4
    root = jnp.linalg.cholesky(exact.covariance(dist))
    white = jnp.linalg.solve(root, (four - exact.mean(dist)[None]).T)
    assert jnp.max(jnp.abs(white.mean(1))) < 0.06  # four standard deviations of 4000 draws
    assert jnp.max(jnp.abs(jnp.cov(white) - jnp.eye(2))) < 0.09


@x64
@pytest.mark.parametrize("name", ["edm", "zero_table"])
def test_tcd_lies_between_ddim_and_lcm(name):
    proc = PROCESSES[name]()
    denoise, ts = exact.denoiser(mixture(), proc), process.uniform(proc, 4)
    x, noise = proc.sigma(ts[0]) * vector(1, 4, 2), samplers.tape(vector(2, 4, 4, 2))

    @jax.jit
    def ends(denoise, gamma):
        kinds = samplers.tcd(gamma), samplers.ddim(), samplers.lcm()
        return [samplers.run(noise, denoise, s, samplers.grid(ts), x) for s in kinds]

    for gamma, alike in ((0.0, 1), (1.0, 2)):
        found = ends(denoise, gamma)
        assert jnp.max(jnp.abs(found[0] - found[alike])) < 1e-9
        assert jnp.max(jnp.abs(found[0] - found[3 - alike])) > 1e-2
    with pytest.raises(ValueError, match=r"gamma=1.5"):
        samplers.tcd(1.5)


def _with_v(inner, v, x, t, now):
    return inner(x, t, now)._replace(aux={"v": v})


@x64
def test_a_learned_range_lies_between_small_and_large():
    """One step of one point: what z is multiplied by is the root of the variance."""
    proc, target = process.vp_linear(), jnp.array([0.5, -0.5])
    x, v = vector(0, 3, 2), jnp.array([[-1.0, 1.0], [0.0, 0.5], [-0.3, -1.0]])
    denoise = Denoiser(proc, Partial(_with_v, point(target, proc), v))
    ts, noise = jnp.array([0.6, 0.5]), jnp.ones((1, 3, 2))

    @jax.jit
    def spread(denoise, noise):
        kinds = samplers.learned_range, samplers.fixed_small, samplers.fixed_large

        def end(kind, z):
            rows = samplers.grid(ts)
            return samplers.run(samplers.tape(z), denoise, samplers.ddpm(kind), rows, x)

        return [end(kind, noise) - end(kind, 0 * noise) for kind in kinds]

    found, small, large = spread(denoise, noise)
    (a, v_t), (a_s, v_s) = process.scales(proc, ts[0]), process.scales(proc, ts[1])
    lost = 1 - (a * v_s / (a_s * v_t)) ** 2
    assert jnp.allclose(small, v_s * jnp.sqrt(lost)) and jnp.allclose(large, v_t * jnp.sqrt(lost))
    assert jnp.allclose(found, small ** ((1 - v) / 2) * large ** ((1 + v) / 2), atol=1e-12)


def test_a_learned_range_ends_clean_and_says_what_it_lacks():
    proc = process.from_betas(process.linear_betas())
    x, target = vector(0, 3, 2), jnp.array([0.5, -0.5])
    denoise = Denoiser(proc, Partial(_with_v, point(target, proc), jnp.ones((3, 2))))
    sampler = samplers.ddpm(samplers.learned_range)
    rows = samplers.grid(process.uniform(proc, 3))
    found = jax.jit(lambda d: samplers.run(keys_of(3), d, sampler, rows, x))(denoise)
    assert jnp.max(jnp.abs(found - target[None])) < 1e-4
    with pytest.raises(ValueError, match="no 'v'"):
        samplers.run(keys_of(3), point(target, proc), sampler, rows, x)


@pytest.mark.parametrize("bad", [{"eta": -1.0}, {"temperature": 0.0}])
def test_ito_has_a_range(bad):
    with pytest.raises(ValueError, match="give"):
        samplers.ito(**bad)


@x64
def test_ito_is_of_first_order_in_law():
    """Mean and variance of what a linear step makes of a Gaussian, followed without noise."""
    proc, size = process.edm(), 0.8
    denoise = exact.denoiser(exact.gaussian(jnp.zeros(1), size**2 * jnp.eye(1)), proc)

    @functools.partial(jax.jit, static_argnums=0)
    def variance(n):
        ts = jnp.linspace(2.0, 0.2, n + 1)
        x = jnp.sqrt(size**2 + ts[0] ** 2) * jnp.ones((1, 1))
        noise = jnp.eye(n)[:, :, None]  # row k of sample k
        grid = samplers.grid(ts)
        still = samplers.tape(jnp.zeros((n, 1, 1)))
        moved = samplers.run(still, denoise, samplers.ito(), grid, x)
        drawn = samplers.run(samplers.tape(noise), denoise, samplers.ito(), grid, jnp.zeros((n, 1)))
        return moved[0, 0] ** 2 + jnp.sum(drawn**2)

    counts = np.array([32, 64, 128])
    errors = [abs(float(variance(int(n))) - (size**2 + 0.2**2)) for n in counts]
    assert abs(-np.polyfit(np.log(counts), np.log(errors), 1)[0] - 1) < 0.25, errors
