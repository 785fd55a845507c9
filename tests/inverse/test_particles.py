"""Particles against the exact target of their chain; groups know nothing of one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, inverse, process, samplers
from jaxdiff.process import posterior, scales
from jaxdiff.samplers import run
from tests.problems import gaussian, keys_of, tree_denoiser, vector

A, Y, NOISE = vector(20, 2, 3), jnp.array([0.8, -0.9]), 0.3
OPERATOR = inverse.matrix(A)
FLOW, EDM = process.rectified_flow(), process.edm(0.02, 30.0)


MILD = 1.0  # the noise of what steers: without a gradient few particles find a sharp target


def log_likelihood(x0):
    return -0.5 * jnp.sum((Y - A @ x0) ** 2) / MILD**2


def twisted(y, particles, **more):
    return inverse.twisted(OPERATOR, y, noise=NOISE, particles=particles, v0=0.7, **more)


def mcgdiff(y, particles, noise=NOISE, **more):
    return inverse.mcgdiff(OPERATOR, y, noise=noise, particles=particles, **more)


def fps(y, particles, noise=NOISE, **more):
    return inverse.fps(OPERATOR, y, noise=noise, particles=particles, **more)


def steered(potential):
    def make(y, particles, **more):
        by = inverse.steered(log_likelihood, particles=particles, potential=potential, **more)
        return by(samplers.ddpm())

    return make


METHODS = {
    "twisted": twisted,
    "mcgdiff": mcgdiff,
    "fps": fps,
    "difference": steered(inverse.difference),
    "greatest": steered(inverse.greatest),
    "total": steered(inverse.total),
}


def chain_law(dist, proc, ts):
    """Mean and covariance of x_0 at the end of ancestral sampling: every step is affine."""
    denoise = exact.denoiser(dist, proc)
    d = dist.means.shape[1]

    def step(law, times):
        (mean, cov), (t, s) = law, times
        bridge = posterior(proc, s, t)
        shift = denoise(jnp.zeros((1, d)), t).x0[0]
        slope = denoise(jnp.eye(d), t).x0.T - shift[:, None]
        move = bridge.on_x0 * slope + bridge.on_xt * jnp.eye(d)
        law = move @ mean + bridge.on_x0 * shift, move @ cov @ move.T + bridge.var * jnp.eye(d)
        return law, None

    first = jnp.zeros(d), scales(proc, ts[0])[1] ** 2 * jnp.eye(d)
    return exact.gaussian(*jax.lax.scan(step, first, (ts[:-1], ts[1:]))[0])


def walk(make, proc, ts, groups, particles, seed=0, y=Y, **more):
    rows = groups * particles
    x = scales(proc, ts[0])[1] * vector(seed + 5, rows, 3)
    ys = jnp.broadcast_to(y, (groups, len(y)))
    denoise = exact.denoiser(gaussian(), proc)

    @jax.jit
    def go(keys, x):
        sampler = make(ys, particles, **more)
        return run(keys, denoise, sampler, samplers.grid(ts), x)

    return go(keys_of(rows, seed), x)


def assert_moments(x, law, slack):
    """Mean and covariance within `slack` standard deviations of the law."""
    width = jnp.sqrt(jnp.diagonal(exact.covariance(law)))
    assert jnp.max(jnp.abs(x.mean(0) - exact.mean(law)) / width) < slack
    scaled = (jnp.cov(x.T) - exact.covariance(law)) / (width[:, None] * width[None])
    assert jnp.max(jnp.abs(scaled)) < 1.5 * slack, scaled


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name, proc, steps",
    [
        ("twisted", FLOW, 20),
        ("greatest", FLOW, 8),
        pytest.param("twisted", EDM, 15, marks=SLOW),
        pytest.param("difference", FLOW, 8, marks=SLOW),
        pytest.param("difference", EDM, 8, marks=SLOW),
        pytest.param("greatest", EDM, 8, marks=SLOW),
        pytest.param("total", FLOW, 8, marks=SLOW),
    ],
)
def test_the_law_of_the_particles_is_the_tilted_chain(name, proc, steps):
    """Few steps, so that the chain is far from the prior, and still its tilted law is met."""
    ts = process.karras(proc, steps)
    noise = NOISE if name == "twisted" else MILD
    chain = jax.jit(lambda ts: chain_law(gaussian(), proc, ts))(ts)
    law, of_prior = (exact.condition(dist, A, Y, noise) for dist in (chain, gaussian()))
    # the law is not the prior's posterior, or the test would not tell the chain from it
    gap = jnp.abs(exact.covariance(law) - exact.covariance(of_prior))
    assert jnp.max(gap) > 0.1
    # two groups of 4000 differ from the law by 0.1 from seed to seed; sixteen by 0.03
    assert_moments(walk(METHODS[name], proc, ts, 16, 4000), law, 0.1)


@pytest.mark.parametrize("name", ["mcgdiff", pytest.param("fps", marks=SLOW)])
def test_the_law_of_the_particles_is_the_posterior(name):
    """MCGDiff with noise; FPS without much of it, where it is exact: the mean over paths of y."""
    noise = NOISE if name == "mcgdiff" else 0.02
    make = functools.partial(METHODS[name], noise=noise)
    law = exact.condition(gaussian(), A, Y, noise)
    groups, particles = (4, 2000) if name == "mcgdiff" else (60, 100)
    assert_moments(walk(make, EDM, process.karras(EDM, 200), groups, particles), law, 0.12)


@pytest.mark.parametrize(
    "name",
    [n if n in ("twisted", "fps") else pytest.param(n, marks=SLOW) for n in METHODS],
)
def test_groups_know_nothing_of_one_another(name):
    """Other measurements, other starts, and alone: the same numbers."""
    g, ts = 4, process.karras(FLOW, 5)
    y = jnp.stack([Y, -3 * Y, 0.1 * Y])
    x, keys = vector(0, 3 * g, 3), keys_of(3 * g)
    denoise = exact.denoiser(gaussian(), FLOW)
    go = jax.jit(lambda keys, y, x: run(keys, denoise, METHODS[name](y, g), samplers.grid(ts), x))
    whole = go(keys, y, x)
    assert jnp.isfinite(whole).all()
    for b in range(3):
        mine = slice(b * g, (b + 1) * g)
        alone = go(keys[mine], y[b : b + 1], x[mine])
        assert jnp.max(jnp.abs(alone - whole[mine])) < 1e-5 * jnp.max(jnp.abs(whole))


@pytest.mark.slow
def test_the_measurement_without_noise_is_met():
    for make in (fps, mcgdiff):
        x = walk(functools.partial(make, noise=0.0), FLOW, process.karras(FLOW, 12), 2, 8)
        assert jnp.max(jnp.abs(x @ A.T - Y[None])) < 1e-4


@pytest.mark.slow
def test_weights_are_seen_and_ancestors_are_counted():
    @jax.jit
    def go(keys, x):
        sampler = twisted(jnp.stack([Y, Y]), 8, threshold=0.0)
        look = lambda now, x, est: est.aux["log_weights"]  # noqa: E731
        ts = process.karras(FLOW, 6)
        denoise = exact.denoiser(gaussian(), FLOW)
        return run(keys, denoise, sampler, samplers.grid(ts), x, look=look)

    x, logw = go(keys_of(16), vector(0, 16, 3))
    assert logw.shape == (6, 16) and jnp.isfinite(logw).all()
    # only the last step resamples at threshold 0, and it does: copies
    assert len(np.unique(np.asarray(x[:8]), axis=0)) < 8
    logs = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4], [1.0, 1.0, 1.0, 1.0]]))
    u = jax.random.uniform(jax.random.key(0), (500,))
    drawn = jax.vmap(lambda u: inverse.systematic(jnp.stack([u, u]), logs))(u)
    counts = jax.vmap(lambda d: jnp.bincount(d, length=4))(drawn[:, 0])
    assert jnp.all(jnp.abs(counts.mean(0) / 4 - jnp.exp(logs[0])) < 0.02)  # unbiased
    assert jnp.all(jnp.abs(counts - 4 * jnp.exp(logs[0])[None]) < 1 + 1e-6)  # and even
    assert (drawn[:, 1] == jnp.arange(4)[None]).all()
    sizes = inverse.effective_size(jnp.log(jnp.array([[0.5, 0.5, 1e-30], [1.0, 1e-30, 1e-30]])))
    assert jnp.allclose(sizes, jnp.array([2.0, 1.0]), atol=1e-5)


def counted_calls(sampler):
    """Evaluations of the network in one step, and in how many the derivative is taken."""
    calls = []

    @jax.custom_vjp
    def net(x):
        return x / 2

    net.defvjp(lambda x: (calls.append("forward"), (x / 2, None))[1],
               lambda _, c: (calls.append("backward"), (c / 2,))[1])  # fmt: skip
    base = tree_denoiser(FLOW)

    def fn(x, t, now):
        return base.fn(net(x), t, now)

    denoise = type(base)(FLOW, jax.tree_util.Partial(fn))
    ts = process.karras(FLOW, 4)
    text = str(jax.make_jaxpr(
        lambda x: run(keys_of(4), denoise, sampler, samplers.grid(ts), x)
    )(vector(0, 4, 3)))  # fmt: skip
    return text.count("custom_vjp_call"), calls


def test_what_a_step_costs():
    y = Y[None]
    for name in ("mcgdiff", "fps", "difference"):
        calls, derivatives = counted_calls(METHODS[name](y, 4))
        assert derivatives == [] and calls == 1, name
    calls, derivatives = counted_calls(twisted(y, 4))
    # one pass back for each evaluation, and none besides (a loop is traced several times)
    assert calls == 0 and derivatives.count("backward") == derivatives.count("forward") > 0


@pytest.mark.parametrize("name", METHODS)
def test_errors(name):
    make = METHODS[name]
    for particles in (1, 0, -3):
        with pytest.raises(ValueError, match=f"particles={particles}"):
            make(Y[None], particles)
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        make(Y[None], 4, threshold=1.5)
    with pytest.raises(ValueError, match="rows do not make groups"):
        make(Y[None], 4).init(jnp.zeros((6, 3)))


def test_errors_of_single_methods():
    with pytest.raises(ValueError, match="noise=0"):
        inverse.twisted(OPERATOR, Y[None], noise=0.0, particles=2)
    with pytest.raises(ValueError, match="eta=0"):
        inverse.twisted(OPERATOR, Y[None], noise=0.1, particles=2, eta=0.0)
    for make in (inverse.mcgdiff, inverse.fps):
        with pytest.raises(ValueError, match="noise=-1"):
            make(OPERATOR, Y[None], noise=-1, particles=2)
    linear = inverse.linear(lambda x: x[:1], (3,))
    with pytest.raises(ValueError, match="has no svd"):
        inverse.mcgdiff(linear, Y[None, :1], noise=0.1, particles=2)
    with pytest.raises(ValueError, match="one measurement for each group"):
        walk(lambda y, g: twisted(y[:1], g), FLOW, process.karras(FLOW, 2), 2, 2)
    bent = inverse.Nonlinear(jax.tree_util.Partial(jnp.tanh), (3,))
    for make in (inverse.twisted, inverse.mcgdiff, inverse.fps):
        with pytest.raises(ValueError, match="needs a linear operator"):
            make(bent, vector(0, 1, 3), noise=0.1, particles=2)
    tape = samplers.tape(jnp.zeros((2, 4, 3)), guide=jnp.zeros((2, 4, 3)))
    with pytest.raises(TypeError, match="tape"):
        run(tape, exact.denoiser(gaussian(), FLOW), METHODS["difference"](Y[None], 4),
            samplers.grid(process.karras(FLOW, 2)), vector(0, 4, 3))  # fmt: skip
