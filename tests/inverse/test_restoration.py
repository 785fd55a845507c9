"""DPS, DDNM and RePaint: what each of them promises; and every method on a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, inverse, process, samplers
from jaxdiff.samplers import run
from tests.inverse.problems import OPERATORS, SHAPE, example, gap, measured
from tests.problems import gaussian, keys_of, tree_denoiser, vector

FLOW = process.rectified_flow()
MATRIX = inverse.matrix(vector(20, 2, 3))
MASK = (vector(3, 4, 4, 1) > 0).astype(float)
TS = jnp.array([1.0, 0.7, 0.4, 0.1, 0.0])


def test_dps_as_a_rate_does_not_depend_on_the_number_of_steps():
    """100 and 400 steps agree as a rate; as published, four times the steps act otherwise."""
    x, y = vector(0, 4, 3), vector(1, 4, 2)
    denoise = exact.denoiser(gaussian(), FLOW)
    rated = inverse.dps(MATRIX, y, noise=0.3)(denoise)
    published = inverse.dps_published(MATRIX, y, zeta=0.05)(samplers.ddim())

    @jax.jit
    def walk(ts):
        rows = samplers.grid(ts)
        rate = run(keys_of(4), rated, samplers.heun(), rows, x)
        return rate, run(keys_of(4), denoise, published, rows, x)

    (rate, step), (finer_rate, finer_step) = (walk(jnp.linspace(1, 0, n + 1)) for n in (100, 400))
    assert jnp.max(jnp.abs(rate - finer_rate)) < 1e-2
    assert jnp.max(jnp.abs(step - finer_step)) > 0.1

    def misfit(x):
        return jnp.linalg.norm(y - x @ vector(20, 2, 3).T, axis=-1).mean()

    at_random = misfit(exact.draw(jax.random.key(0), gaussian(), 4))
    assert misfit(rate) < 0.5 * at_random and misfit(finer_step) < 0.5 * at_random


@pytest.mark.usefixtures("x64")
def test_one_published_step_is_a_finite_difference():
    x, y, zeta, h = vector(0, 2, 3), vector(1, 2, 2), 0.7, 1e-5
    denoise, rows = exact.denoiser(gaussian(), FLOW), samplers.grid(TS[1:3])
    correction = inverse.dps_published(inverse.matrix(vector(20, 2, 3)), y, zeta=zeta)

    @jax.jit
    def steps(x):
        solvers = samplers.ddpm(), correction(samplers.ddpm())
        return [run(keys_of(2), denoise, solver, rows, x) for solver in solvers]

    plain, moved = steps(x)

    @jax.jit
    def norm(x):
        return jnp.linalg.norm(y - denoise(x, TS[1]).x0 @ vector(20, 2, 3).T, axis=-1)

    slope = np.stack([(norm(x + h * e) - norm(x - h * e)) / (2 * h) for e in jnp.eye(3)[:, None]])
    assert np.allclose((plain - moved) / zeta, slope.T, atol=1e-8)


def test_dps_in_closed_form():
    """x_0 + (sigma^2/alpha) J^T A^T (y - A x_0) / var, with J of N(0, I)."""
    alpha, sigma, x, y = 0.6, 0.4, vector(0, 2, 3), vector(1, 2, 2)
    gain, a = alpha / (alpha**2 + sigma**2), vector(20, 2, 3)
    x0 = gain * x
    back = (y - x0 @ a.T) @ a
    inflated = 0.3**2 + sigma**2 / (alpha**2 + sigma**2)
    for var, value in ((None, inflated), (0.5, 0.5), (lambda at: at.sigma, sigma)):
        guided = inverse.dps(MATRIX, y, noise=0.3, var=var)(tree_denoiser(FLOW))
        expected = x0 + sigma**2 / alpha * gain * back / value
        assert jnp.allclose(guided(x, 0.4).x0, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["inpainting", "average_pool", "linear on a tree", "matrix wide"])
def test_ddnm_agrees_with_the_measurement(name):
    operator = OPERATORS[name]()
    y = jax.tree.map(lambda leaf: leaf[None], measured(operator))
    x = jax.tree.map(lambda leaf: leaf[None], example(operator, 7))
    denoise = tree_denoiser(FLOW)

    @jax.jit
    def results(x):
        exactly = inverse.ddnm(operator, y)(denoise)
        nearly = inverse.ddnm(operator, y, noise=1e-4)(denoise)
        sampled = run(keys_of(1), exactly, samplers.ddpm(), samplers.grid(TS), x)
        one = exactly(x, 0.5).x0
        # the null space is the network's: what A does not see is x_0's
        change = jax.tree.map(jnp.subtract, one, denoise(x, 0.5).x0)
        project = jax.vmap(lambda v: operator.pinv(operator.A(v)))
        changed_unseen = jax.tree.map(jnp.subtract, change, project(change))
        return one, nearly(x, 0.5).x0, sampled, changed_unseen

    one, near, sampled, changed_unseen = results(x)
    for found in (one, sampled):
        assert gap(jax.vmap(operator.A)(found), y) < 1e-5
    assert gap(one, near) < 1e-3
    assert gap(changed_unseen, jax.tree.map(jnp.zeros_like, x)) < 1e-5


@pytest.mark.usefixtures("x64")
def test_ddnm_with_noise_is_exact_for_an_isotropic_gaussian():
    """There is no Jacobian in it, but for N(m, v0 I) none is missing."""
    a, y, proc = vector(20, 2, 3), vector(1, 1, 2), process.edm()
    prior = exact.gaussian(vector(1, 3), 0.8 * jnp.eye(3))
    guided = inverse.ddnm(inverse.matrix(a), y, noise=0.3, v0=0.8)(exact.denoiser(prior, proc))
    truth = exact.denoiser(exact.condition(prior, a, y[0], 0.3), proc)
    both = jax.jit(lambda x: (guided(x, 0.7).x0, truth(x, 0.7).x0))
    found, expected = both(vector(2, 1, 3))
    assert jnp.max(jnp.abs(found - expected)) < 1e-10


def test_repaint_keeps_what_is_seen():
    y, x = vector(1, 3, *SHAPE), vector(0, 3, *SHAPE)
    keep = inverse.repaint(MASK, y, SHAPE)

    @jax.jit
    def walk(x):
        rows = samplers.travel(TS, repeat=3, jump=2)
        look = lambda now, x, est: (now.s, x)  # noqa: E731
        return run(keys_of(3), tree_denoiser(FLOW), keep(samplers.ddpm()), rows, x, look=look)

    end, (s, seen) = walk(x)
    hidden = jnp.broadcast_to(MASK[None] == 0, end.shape)
    assert (jnp.where(hidden, y, end) == y).all()
    assert jnp.isfinite(end).all() and jnp.abs(jnp.where(hidden, end - y, 0)).max() > 0.1
    # on the way, the seen pixels are y at the noise level of the step
    rest = (seen[0] - (1 - s[0]) * y) / s[0]
    values = rest[jnp.broadcast_to(MASK[None] == 1, end.shape)]
    assert jnp.abs(values.mean()) < 0.3 and jnp.abs(values.std() - 1) < 0.3


POOL = inverse.average_pool(2, SHAPE)
METHODS = {
    "pigdm": lambda y: (inverse.pigdm(POOL, y, noise=0.1), None),
    "mmps": lambda y: (inverse.mmps(POOL, y, noise=0.1, steps=3), None),
    "dps": lambda y: (inverse.dps(POOL, y, noise=0.1), None),
    "ddnm": lambda y: (inverse.ddnm(POOL, y), None),
    "ddnm with noise": lambda y: (inverse.ddnm(POOL, y, noise=0.1), None),
    "dps_published": lambda y: (None, inverse.dps_published(POOL, y, zeta=0.3)),
    "repaint": lambda y: (None, inverse.repaint(MASK, _enlarged(y), SHAPE)),
}


def _enlarged(y):
    return jax.vmap(POOL.pinv)(y)


def _coupled(proc):
    """A denoiser that is not linear, so that the size of a sample matters."""
    normal = tree_denoiser(proc)

    def fn(x, t, now):
        est = normal.fn(x, t, now)
        return est._replace(x0=jnp.tanh(est.x0), var=None)

    return type(normal)(proc, jax.tree_util.Partial(fn))


QUICK = ("mmps", "ddnm", "dps_published")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
)
def test_a_batch_is_its_samples(name):
    """y of very unlike sizes: a norm or a step size over the batch would show."""
    y = vector(1, 3, 2, 2, 2) * jnp.array([0.1, 1.0, 20.0])[:, None, None, None]
    x, keys = vector(0, 3, *SHAPE), keys_of(3)

    @jax.jit
    def walk(keys, y, x):
        guide, correction = METHODS[name](y)
        denoise, solver = _coupled(FLOW), samplers.ddpm()
        denoise = denoise if guide is None else guide(denoise)
        solver = solver if correction is None else correction(solver)
        return run(keys, denoise, solver, samplers.grid(TS), x)

    whole = walk(keys, y, x)
    assert jnp.isfinite(whole).all()
    for i in range(3):
        one = walk(keys[i : i + 1], y[i : i + 1], x[i : i + 1])
        assert jnp.max(jnp.abs(one[0] - whole[i])) < 1e-5 * jnp.max(jnp.abs(whole[i]))


def asked(guide):
    return guide(tree_denoiser(FLOW))(jnp.zeros((2, *SHAPE)), 0.5)


Y = jnp.zeros((2, 2, 2, 2))


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(inverse.pigdm, noise=0.1),
        functools.partial(inverse.mmps, noise=0.1),
        functools.partial(inverse.dps, noise=0.1),
        inverse.ddnm,
        functools.partial(inverse.ddnm, noise=0.1),
    ],
)
def test_measurements_of_the_wrong_shape(make):
    for y in (Y[:1], Y[0], jnp.zeros((2, *SHAPE)), Y[..., :1], (Y, Y)):
        with pytest.raises(ValueError, match="y has shapes"):
            asked(make(POOL, y))
    with pytest.raises(ValueError, match="one example of shape"):
        asked(make(inverse.average_pool(2, (8, 8, 2)), Y))


def test_other_errors():
    for make in (inverse.pigdm, inverse.mmps, inverse.dps, inverse.ddnm):
        for noise in (-0.1, jnp.array([0.1, -0.1]), jnp.nan):
            with pytest.raises(ValueError, match="noise="):
                make(POOL, Y, noise=noise)
    for steps in (0, -1):
        with pytest.raises(ValueError, match=f"steps={steps}"):
            inverse.mmps(POOL, Y, noise=0.1, steps=steps)
    with pytest.raises(ValueError, match="mask of shape"):
        inverse.repaint(jnp.ones((3, 3, 1)), jnp.zeros((1, *SHAPE)), SHAPE)
    with pytest.raises(ValueError, match="besides 0 and 1"):
        inverse.repaint(2 * MASK, jnp.zeros((1, *SHAPE)), SHAPE)
    fixed = inverse.repaint(MASK, jnp.zeros((1, *SHAPE)), SHAPE)(samplers.ddpm())
    with pytest.raises(ValueError, match="they must agree"):
        run(keys_of(2), tree_denoiser(FLOW), fixed, samplers.grid(TS), jnp.zeros((2, *SHAPE)))
