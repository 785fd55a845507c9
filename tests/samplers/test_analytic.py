"""The optimal variance: exact marginals on any grid, and where the variance comes from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import exact, process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.types import Estimate, Now, State, number
from tests.problems import PROCESSES, ends, keep_x, keys_of, passes, point, vector
from tests.samplers.moments import at, moments

x64 = pytest.mark.usefixtures("x64")
MEAN, VAR = 0.7, 0.3


def line():
    return exact.gaussian(jnp.array([MEAN]), jnp.array([[VAR]]))


@x64
@pytest.mark.parametrize("name", ["edm", "flow", pytest.param("vp_linear", marks=pytest.mark.slow)])
def test_marginals_are_exact_on_a_coarse_grid(name):
    """Mean and variance after one step, after two, and at the end; DDIM has the variance wrong."""
    proc, dist = PROCESSES[name](), line()
    denoise = exact.denoiser(dist, proc)
    ts = jnp.array([1.0, 0.6, 0.2, 0.0]) * min(5.0, float(proc.t_max))
    start = at(proc, dist, ts[0])

    @jax.jit
    def walk(eta):
        kinds = {True: samplers.analytic(eta, last=True), False: samplers.analytic(eta)}
        return [
            moments(denoise, kinds[last], samplers.grid(ts[:many]), *start)
            for many, last in ((2, False), (3, False), (4, True), (4, False))
        ]

    for eta in (0.0, 0.5, 1.0):
        one, two, drawn, mean = walk(eta)
        np.testing.assert_allclose(one, at(proc, dist, ts[1]), rtol=1e-9)
        np.testing.assert_allclose(two, at(proc, dist, ts[2]), rtol=1e-9)
        np.testing.assert_allclose(drawn, (MEAN, VAR), rtol=1e-9)
        left = denoise(jnp.zeros((1, 1)), ts[2]).var[0, 0]
        np.testing.assert_allclose(mean, (MEAN, VAR - left), rtol=1e-9)
    plain = jax.jit(lambda: moments(denoise, samplers.ddim(1.0), samplers.grid(ts[:3]), *start))()
    assert abs(plain[1] - at(proc, dist, ts[2])[1]) > 1e-2


@x64
def test_one_number_a_time_does_for_equal_variances():
    """Gamma of N(m, c I) is sigma^2/(alpha^2 c + sigma^2), and gives the exact variance."""
    proc, d, t = process.vp_linear(), 4, jnp.array([0.7, 0.3])
    dist = exact.gaussian(vector(0, d), VAR * jnp.eye(d))
    denoise, x0 = exact.denoiser(dist, proc), exact.draw(jax.random.key(0), dist, 4000)
    known = proc.sigma(t) ** 2 / (proc.alpha(t) ** 2 * VAR + proc.sigma(t) ** 2)
    found = jax.jit(samplers.noise_power)(keys_of(4000), denoise, x0, t)
    np.testing.assert_allclose(found, known, rtol=4 * (2 / 16000) ** 0.5)

    @jax.jit
    def both(x, time):
        varied = samplers.analytic_variance(t, known)(Denoiser(proc, denoise.fn))
        return varied(x, time), denoise(x, time)

    for time in t:
        a, b = both(x0[:3], time)
        np.testing.assert_allclose(a.var, b.var, rtol=1e-9)
        np.testing.assert_allclose(a.x0, b.x0, rtol=1e-12)


PAIR = ((1.0, 0.2), (-0.6, 0.9))


def noises(proc, x, t):
    """eps for each of the points that x may have come from, [k, b, d], and their odds [k, b, 1]."""
    alpha, sigma = process.scales(proc, t)
    eps = (x[None] - alpha * jnp.array(PAIR)[:, None]) / sigma
    return eps, jax.nn.softmax(-0.5 * jnp.sum(eps**2, axis=-1, keepdims=True), axis=0)


def squared(proc, x, t):
    eps, odds = noises(proc, x, t)
    return jnp.sum(odds * eps**2, axis=0)


def wrong(proc, off, x, t, now):
    return Estimate(exact.denoiser(exact.points(jnp.array(PAIR)), proc)(x, t).x0 + off)


def missed(proc, denoise, x, t):
    eps, odds = noises(proc, x, t)
    hat = noise_of(denoise, x, t, denoise(x, t).x0)
    return jnp.sum(odds * (eps - hat[None]) ** 2, axis=0)


@x64
def test_heads_give_the_variance():
    """Two points: E[eps^2 | x] by summing over them; a mean that is off by 0.1 adds its square."""
    proc, x, t = process.vp_linear(), vector(0, 5, 2), 0.3
    true = exact.denoiser(exact.points(jnp.array(PAIR)), proc)
    plain, off = (Denoiser(proc, Partial(wrong, proc, a)) for a in (0.0, 0.1))
    sn = samplers.sn_variance(Partial(squared, proc))(plain)
    npr = samplers.npr_variance(Partial(missed, proc, off))(off)
    known, one, two = jax.jit(lambda x: [d(x, t).var for d in (true, sn, npr)])(x)
    np.testing.assert_allclose(one, known, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(two, known + 0.01, rtol=1e-9)


def ones(x, t):
    return jnp.ones_like(x)


def test_variances_are_bounded():
    """By the span of the data; where alpha = 0 by it alone; never below 0."""
    for span, t, most in (((-1.0, 3.0), 0.9, 4.0), ((-1.0, 3.0), 1.0, 4.0), (None, 1.0, 0.0)):
        proc = process.rectified_flow()
        held = None if span is None else (number(span[0]), number(span[1]))
        denoise = Denoiser(proc, point(jnp.zeros(2), proc).fn, None, held)
        assert jnp.all(samplers.npr_variance(ones)(denoise)(jnp.ones((1, 2)), t).var == most)
        low = samplers.analytic_variance(jnp.array([1.0]), jnp.array([1.5]))(denoise)
        assert t == 1.0 or jnp.all(low(jnp.ones((1, 2)), t).var == 0.0)


def test_a_calm_end():
    """E|noise| of the step before the last, and of no other."""
    proc = process.edm()
    denoise = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), proc)
    x = jnp.zeros((4000, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def noise(calm, i):
        now = Now(jnp.array(3.0), jnp.array(1.0), i, 4, keys_of(4000), {})
        return samplers.analytic(calm=calm).step(now, denoise, State(x))[0].x

    for i, calm in ((2, True), (1, False)):
        found = float(jnp.mean(jnp.abs(noise(0.1, i))))
        assert (abs(found - 0.1) < 0.005) if calm else found > 0.5
    np.testing.assert_allclose(noise(100.0, 2), noise(None, 2))


@pytest.mark.parametrize("name", [pytest.param("table", marks=pytest.mark.slow), "zero_table"])
def test_no_noise_is_left(name):
    proc, target = PROCESSES[name](), jnp.array([0.7, -0.4])
    denoise = exact.denoiser(exact.points(target[None]), proc)

    @jax.jit
    def last_points(x):
        grids = [process.uniform(proc, n) for n in range(1, 21)]
        rows, done = passes(grids, grids[0][0]), ends(grids)
        kinds = [samplers.analytic(eta, last=last) for eta, last in ((1.0, True), (0.0, False))]
        return [samplers.run(keys_of(2), denoise, s, rows, x, look=keep_x)[1][done] for s in kinds]

    for found in last_points(vector(0, 2, 2)):
        assert jnp.max(jnp.abs(found - target[None, None])) < 1e-4


def test_bad_input():
    with pytest.raises(ValueError, match=r"give eta in \[0, 1\]"):
        samplers.analytic(1.5)
    proc = process.edm()
    now = Now(jnp.array(3.0), jnp.array(1.0), 0, 1, keys_of(2), {})
    with pytest.raises(ValueError, match="gives no Var"):
        samplers.analytic().step(now, point(jnp.zeros(2), proc), State(jnp.ones((2, 2))))


@pytest.mark.slow
def test_numbers_are_arguments():
    traces = []
    proc = process.edm()
    plain, x = Denoiser(proc, exact.denoiser(line(), proc).fn), 80 * vector(0, 2, 1)
    rows = samplers.grid(process.karras(proc, 3))

    @jax.jit
    def walk(denoise, eta, calm):
        traces.append(1)
        return samplers.run(keys_of(2), denoise, samplers.analytic(eta, calm=calm), rows, x)

    found = [
        walk(samplers.analytic_variance(jnp.array([1.0]), jnp.array([g]))(plain), eta, 0.1)
        for g, eta in ((0.5, 1.0), (0.9, 0.5))
    ]
    assert len(traces) == 1 and jnp.any(found[0] != found[1])
