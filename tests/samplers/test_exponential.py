"""Exponential multistep methods: integrals by quadrature, orders, the last step, noise."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.samplers.exponential import lagrange, moments
from tests.problems import (
    ends,
    flow_map,
    gaussian,
    keep_x,
    keys_of,
    passes,
    point,
    restart,
    vector,
)

x64 = pytest.mark.usefixtures("x64")
EVERY = {
    "unipc 1": samplers.unipc(1, taper=0),
    "unipc 2": samplers.unipc(2, taper=0),
    "unipc 3": samplers.unipc(3, taper=0),
    "unipc 1 bh1": samplers.unipc(1, bh1=True, taper=0),
    "unipc 2 bh1": samplers.unipc(2, bh1=True, taper=0),
    "unipc 2 in eps": samplers.unipc(2, by_noise=True, taper=0),
    "unipc 3 in eps": samplers.unipc(3, by_noise=True, taper=0),
    "unip 2": samplers.unipc(2, corrector=False, taper=0),
    "unip 3": samplers.unipc(3, corrector=False, taper=0),
    "deis 1": samplers.deis(1, taper=0),
    "deis 2": samplers.deis(2, taper=0),
    "deis 3": samplers.deis(3, taper=0),
    "dpm_solver_m 2": samplers.dpm_solver_m(2),
    "dpm_solver_m 3": samplers.dpm_solver_m(3),
    "dpm_solver_m 3 as published": samplers.dpm_solver_m(3, published=True),
    "sa_solver 2 2": samplers.sa_solver(0, taper=0),
    "sa_solver 3 3": samplers.sa_solver(0, predictor=3, corrector=3, taper=0),
    "sa_solver 3 4": samplers.sa_solver(0, predictor=3, corrector=4, taper=0),
    "sa_solver 3 0": samplers.sa_solver(0, predictor=3, corrector=0, taper=0),
}
ORDERS = dict(zip(EVERY, (2, 3, 4, 2, 3, 3, 4, 2, 3, 1, 2, 3, 2, 3, 2, 2, 3, 4, 3), strict=True))

SOME = ("unipc 2", "unipc 3 in eps", "deis 3", "sa_solver 3 4")


@pytest.mark.parametrize("by_noise", [False, True])
def test_moments_are_integrals(by_noise):
    """Against Gauss-Legendre quadrature, from a k of rounding size to a large one."""
    k = np.concatenate([np.geomspace(1e-9, 30.0, 60), [0.999999, 1.0, 1.000001]])
    places, quadrature = np.polynomial.legendre.leggauss(60)
    v = (places[:, None] + 1) / 2
    weight = np.exp(-k * (v if by_noise else 1 - v))
    truth = [quadrature @ (weight * v**m) * k / 2 for m in range(4)]
    with jax.enable_x64(True):
        found = moments(jnp.asarray(k), 4, by_noise=by_noise)
    np.testing.assert_allclose(found, truth, rtol=2e-13)  # what the quadrature is good for
    single = moments(jnp.asarray(k, jnp.float32), 4, by_noise=by_noise)
    np.testing.assert_allclose(single, truth, rtol=2e-5 if by_noise else 2e-6)


def test_lagrange_polynomials_are_one_at_their_node():
    nodes = np.array([1.0, 0.0, -0.3, -2.0])
    polys = np.asarray(lagrange([jnp.asarray(v) for v in nodes]))
    powers = nodes[None] ** np.arange(4)[:, None]
    np.testing.assert_allclose(polys @ powers, np.eye(4), atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def end_points(names, denoise, x, grids):
    rows, at = passes(grids, grids[0][0]), ends(grids)
    walk = functools.partial(samplers.run, keys_of(len(x)), denoise, look=keep_x)
    again = functools.partial(restart, x)
    return {k: walk(EVERY[k], rows, x, renoise=again)[1][at] for k in names}


@x64
@pytest.mark.parametrize(
    "names", [SOME, pytest.param(tuple(EVERY), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_orders(names):
    """On a Gaussian, whose flow is known, by even steps of log-SNR behind five tiny ones."""
    proc, dist = process.edm(), gaussian(2)
    x, counts, grids = 4.0 * vector(5, 4, 2), np.array([64, 128, 256]), []
    for n in counts:
        places = jnp.linspace(-2 * jnp.log(4.0), 2.0, n + 1)
        tiny = (places[1] - places[0]) * abs(places[1] - places[0])
        places = jnp.concatenate([places[0] + tiny * jnp.arange(5), places[1:]])
        grids.append(process.time_of(proc, places))
    truth = flow_map(dist, proc, x, grids[0][0], grids[0][-1])
    for name, found in end_points(names, exact.denoiser(dist, proc), x, grids).items():
        errors = np.max(np.abs(found - truth[None]), axis=(1, 2))
        measured = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert abs(measured - ORDERS[name]) < 0.25, (name, measured, errors)


@x64
def test_small_and_large_steps_are_those_of_the_flow():
    """A Gaussian's flow over steps of 1e-7 in log-SNR, and from alpha = 0: no digits are lost."""
    dist = gaussian(2)

    @jax.jit
    def walk(denoise, ts, x):
        rows = samplers.grid(ts)
        kinds = (EVERY[name] for name in ("unipc 3", "unipc 2 in eps"))
        return [samplers.run(keys_of(4), denoise, s, rows, x) for s in kinds]

    for proc, ts in (
        (process.edm(), 2.0 * (1 - 1e-7) ** jnp.arange(9)),
        (process.rectified_flow(), jnp.concatenate([jnp.ones(1), 1 - 1e-6 * jnp.arange(1, 9)])),
    ):
        x, denoise = proc.sigma(ts[0]) * vector(0, 4, 2), exact.denoiser(dist, proc)
        truth = flow_map(dist, proc, x, ts[0], ts[-1])
        for found in walk(denoise, ts, x):
            assert jnp.max(jnp.abs(found - truth)) < 1e-11


def test_the_last_step_is_eulers_where_asked():
    """Fewer steps than `taper`, or `euler_final`: from where the last step began, by Euler."""
    proc = process.vp_linear()
    denoise, ts, x = exact.denoiser(gaussian(2), proc), jnp.linspace(1.0, 0.3, 6), vector(0, 4, 2)

    rules: list[tuple[dict[str, Any], bool]] = [
        ({"taper": 6}, True), ({"euler_final": True}, True), ({"taper": 5}, False),
    ]  # fmt: skip

    @jax.jit
    def last_two(ts, x):
        def walk(sampler, ts, x):
            return samplers.run(keys_of(4), denoise, sampler, samplers.grid(ts), x, look=keep_x)[1]

        made = [
            (make, walk(make(**rule), ts, x), eulers)
            for make in (samplers.dpmpp_3m, samplers.dpm_solver_m)
            for rule, eulers in rules
        ]
        return [(seen[-1], walk(samplers.euler(), ts[-2:], seen[-2])[-1]) for _, seen, _ in made]

    for j, (found, euler) in enumerate(last_two(ts, x)):
        gap = jnp.max(jnp.abs(found - euler))
        assert gap < 1e-5 if j % 3 < 2 else gap > 1e-3, (j, gap)


def test_what_is_done_to_a_sample_survives_the_corrector():
    """On a point there is nothing to correct: with a fix after a step too, UniPC is Euler."""
    proc = process.rectified_flow()
    denoise, rows = point(jnp.array([0.7, -0.4]), proc), samplers.grid(jnp.linspace(1.0, 0.2, 5))

    def moved(now, proc, x, est):
        return x + jnp.where(now.i == 1, 1.0, 0.0)

    @jax.jit
    def walk(x):
        kinds = samplers.unipc(3, taper=0), samplers.euler()
        return [samplers.run(keys_of(4), denoise, samplers.after(moved)(s), rows, x) for s in kinds]

    found, euler = walk(vector(0, 4, 2))
    assert jnp.max(jnp.abs(found - euler)) < 1e-5


def band(ratio):
    return jnp.where((ratio > 0.1) & (ratio < 10.0), 1.2, 0.0)


STOCHASTIC = {
    "sa_solver": samplers.sa_solver(1.0),
    "sa_solver in a band": samplers.sa_solver(band),
    "dpm_solver_m": samplers.dpm_solver_m(2, 0.5),
}


@jax.jit
def deviations(x, z, denoise, ts):
    """The standard deviation at the end: every method is linear in the start and in each noise."""
    rows = samplers.grid(ts)
    walks = [samplers.run(samplers.tape(z), denoise, s, rows, x) for s in STOCHASTIC.values()]
    return jnp.stack([jnp.sqrt(jnp.sum((out[1:] - out[:1]) ** 2)) for out in walks])


@x64
@pytest.mark.slow
def test_weak_order():
    """Of N(1, 0.3^2): how fast the deviation of the samples, without drawing any, gets right."""
    proc = process.vp_linear()
    denoise = exact.denoiser(exact.gaussian(jnp.ones(1), 0.09 * jnp.eye(1)), proc)
    errors = []
    for n in (64, 256):
        ts = process.time_of(proc, jnp.linspace(-6.0, 6.0, n + 1))
        first, last = (jnp.hypot(0.3 * proc.alpha(t), proc.sigma(t)) for t in (ts[0], ts[-1]))
        x = jnp.zeros((n + 2, 1)).at[1].set(first) + proc.alpha(ts[0])
        z = jnp.concatenate([jnp.zeros((n, 2)), jnp.eye(n)], axis=1)[..., None]
        errors.append(np.abs(deviations(x, z, denoise, ts) - last))
    orders = np.log(errors[0] / errors[1]) / np.log(4)
    assert np.all(np.abs(orders - 2) < 0.25), (list(STOCHASTIC), orders)


def test_numbers_are_arguments():
    traces = []
    denoise = exact.denoiser(gaussian(2), process.edm())

    @jax.jit
    def walk(x, tau, taper):
        traces.append(1)
        ts = process.karras(process.edm(), 4)[:-1]
        kinds = samplers.sa_solver(tau), samplers.unipc(2, taper=taper)
        return [samplers.run(keys_of(2), denoise, s, samplers.grid(ts), x) for s in kinds]

    x = 80 * vector(0, 2, 2)
    one, two = walk(x, 0.5, 2.0), walk(x, 1.0, 9.0)
    assert len(traces) == 1 and jnp.any(one[0] != two[0]) and jnp.any(one[1] != two[1])


def test_a_time_for_every_sample():
    """Two samples on grids of their own are those that walk alone."""
    proc = process.vp_linear()
    denoise = exact.denoiser(gaussian(2), proc)
    grids = jnp.stack([jnp.linspace(1.0, 0.0, 6), jnp.linspace(0.8, 0.1, 6)], axis=1)
    x = vector(0, 2, 2)

    @jax.jit
    def walk(grids, x):
        rows = samplers.grid(grids)
        return samplers.run(keys_of(len(x)), denoise, samplers.unipc(2), rows, x)

    together, alone = walk(grids, x), [walk(grids[:, i], x[i : i + 1]) for i in (0, 1)]
    for i in (0, 1):
        assert jnp.max(jnp.abs(together[i] - alone[i][0])) < 1e-5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: samplers.unipc(4), "order=4"),
        (lambda: samplers.deis(0), "order=0"),
        (lambda: samplers.dpm_solver_m(5), "order=5"),
        (lambda: samplers.dpm_solver_m(2, -1.0), "eta=-1.0: .*give eta >= 0"),
        (lambda: samplers.sa_solver(-0.5), "tau=-0.5: .*give tau >= 0"),
        (lambda: samplers.sa_solver(predictor=4), "predictor=4"),
        (lambda: samplers.sa_solver(corrector=5), "corrector=5"),
    ],
)
def test_what_is_not_offered(make, says):
    with pytest.raises(ValueError, match=says):
        make()
