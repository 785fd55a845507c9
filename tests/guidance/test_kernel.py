"""Guides against exact conditional denoisers, and how they combine."""

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from jaxdiff import exact, process
from jaxdiff.guidance import add, chain, clip, edited, energy, pulled, towards, tweedie_gain
from jaxdiff.samplers import sample
from jaxdiff.types import At
from tests.problems import PROCESSES, gaussian, mixture, tree_denoiser, vector

MATRIX = jnp.array([[1.0, 0.5]])
Y = jnp.array([0.6])
NOISE = 0.3


def inside(proc):
    """Three times well inside the interval."""
    return [float(process.time_of(proc, lam)) for lam in (4.0, 0.0, -4.0)]


def log_likelihood(x, alpha, sigma):
    """log p(y | x_t) of the mixture: the joint law of (x_t, y) is a mixture of Gaussians."""
    dist = mixture()
    eye, zero = jnp.eye(2), jnp.zeros((1, 2))
    to_x = jnp.concatenate([alpha * eye, zero])
    joint = to_x + jnp.concatenate([jnp.zeros((2, 2)), MATRIX])
    noise = jnp.diag(jnp.array([sigma, sigma, NOISE]) ** 2)

    def log_density(rows, point, cov):
        parts = [
            logit
            + jax.scipy.stats.multivariate_normal.logpdf(point, rows @ m, rows @ c @ rows.T + cov)
            for logit, m, c in zip(dist.logits, dist.means, _covs(dist), strict=True)
        ]
        return jax.scipy.special.logsumexp(jnp.stack(parts))

    together = log_density(joint, jnp.concatenate([x, Y]), noise)
    return together - log_density(alpha * eye, x, sigma**2 * eye)


def _covs(dist):
    return jnp.einsum("kij,kj,klj->kil", dist.vectors, dist.values, dist.vectors)


def exact_pull(est, at: At):
    """The cotangent c with J^T c = grad_x log p(y | x_t), one example: J is symmetric."""
    slope = jax.grad(log_likelihood)(at.x[0], at.alpha, at.sigma)
    rows = [at.vjp(row[None])[0] for row in jnp.eye(2)]
    return jnp.linalg.solve(jnp.stack(rows).T, slope)[None]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", ["flow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("edm", "vp_linear"))]
)
def test_the_exact_gradient_gives_the_exact_conditional_denoiser(name):
    proc = PROCESSES[name]()
    denoise = exact.denoiser(mixture(), proc)
    truth = exact.denoiser(exact.condition(mixture(), MATRIX, Y, NOISE), proc)

    @jax.jit
    def both(x, t):
        return pulled(exact_pull)(denoise)(x, t).x0, truth(x, t).x0

    for t in inside(proc):
        alpha, sigma = process.scales(proc, t)
        x = alpha * jnp.array([[0.5, 0.2]]) + sigma * vector(3, 1, 2)
        got, expected = both(x, t)
        assert jnp.max(jnp.abs(got - expected)) < 1e-8


def one(est, at):
    return jnp.ones_like(est.x0)


def by_time(est, at):
    return at.sigma * est.x0**2


def test_add_is_the_sum():
    denoise, x = exact.denoiser(gaussian(), process.edm()), vector(0, 2, 3)
    plain = denoise(x, 0.7).x0
    first, second, both = (
        pulled(p)(denoise)(x, 0.7).x0 - plain for p in (one, by_time, add(one, by_time))
    )
    assert jnp.max(jnp.abs(both - first - second)) < 1e-6
    with pytest.raises(ValueError, match="at least one"):
        add()


def test_chain_applies_in_order():
    denoise, x = exact.denoiser(gaussian(), process.edm()), vector(0, 2, 3)
    double, raise_ = edited(lambda e, at: 2 * e.x0), edited(lambda e, at: e.x0 + 1)
    base = denoise(x, 0.7).x0
    assert jnp.allclose(chain(double, raise_)(denoise)(x, 0.7).x0, 2 * base + 1, atol=1e-6)
    assert jnp.allclose(chain(raise_, double)(denoise)(x, 0.7).x0, 2 * base + 2, atol=1e-6)
    assert (chain()(denoise)(x, 0.7).x0 == base).all()


def test_a_pull_sees_the_denoiser_before_it():
    """chain(edit, pull): the Jacobian is that of the edited denoiser."""
    denoise, x = exact.denoiser(gaussian(), process.edm()), vector(0, 2, 3)
    guided = chain(edited(lambda e, at: 3 * e.x0), pulled(one))(denoise)
    slope = jax.grad(lambda x: 3 * denoise(x, 0.7).x0.sum())(x)
    expected = 3 * denoise(x, 0.7).x0 + 0.7**2 * slope
    assert jnp.allclose(guided(x, 0.7).x0, expected, atol=1e-5)


def test_the_gain_ends_at_alpha_zero():
    proc = process.rectified_flow()
    denoise, x = exact.denoiser(gaussian(), proc), vector(0, 2, 3)
    assert jnp.isfinite(pulled(one)(denoise)(x, 1.0).x0).all()
    at = At(x, 1.0, *process.scales(proc, jnp.array([1.0, 0.5])), lambda c: c, None)
    assert tweedie_gain(at).tolist() == [0.0, 0.5]


def test_times_of_every_sample_and_trees():
    denoise = tree_denoiser(process.edm())
    x = {"a": vector(0, 2, 3), "b": vector(1, 2, 2, 2)}
    times = jnp.array([0.5, 2.0])
    guided = pulled(lambda e, at: jax.tree.map(jnp.ones_like, e.x0))(denoise)
    both = guided(x, times).x0
    for i in range(2):
        alone = guided(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], x), times[i]).x0
        mine = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], both)
        same = jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-6), mine, alone)
        assert jax.tree.all(same)


def test_what_is_kept_and_what_is_not():
    denoise = exact.denoiser(gaussian(), process.edm())
    for guide in (pulled(one), edited(lambda e, at: e.x0)):
        guided = guide(denoise)
        est = guided(vector(0, 2, 3), 1.0)
        assert est.var is None and est.aux == {}
        assert guided.process is denoise.process and guided.span is denoise.span
    with pytest.raises(TypeError, match="pulled"):
        edited(lambda e, at: at.vjp(e.x0))(denoise)(vector(0, 2, 3), 1.0)


def squared(x0):
    return jnp.sum((x0 - 1.0) ** 2) / 2


def test_an_energy_in_closed_form():
    """For N(0, 1) under edm J = 1/(1 + sigma^2) = x_0/x."""
    denoise, x, t = (
        exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm()),
        2.0,
        0.5,
    )
    x0, jacobian = x / (1 + t**2), 1 / (1 + t**2)
    for scale, value in ((3.0, 3.0), (Partial(_sigma), t), (jnp.array([3.0]), 3.0)):
        got = towards(squared, scale)(denoise)(jnp.full((1, 1), x), t).x0[0, 0]
        assert jnp.allclose(got, x0 - value * t**2 * jacobian * (x0 - 1), atol=1e-6)
    same = pulled(energy(squared, 3.0))(denoise)(jnp.full((1, 1), x), t).x0
    assert jnp.allclose(same, towards(squared, 3.0)(denoise)(jnp.full((1, 1), x), t).x0)


def _sigma(at):
    return at.sigma


def test_an_energy_moves_samples_towards_its_minimum():
    denoise = exact.denoiser(gaussian(), process.rectified_flow())
    key = jax.random.key(0)

    @jax.jit
    def mean_cost(scale):
        x = sample(key, towards(squared, scale)(denoise), shape=(64, 3), steps=10)
        return jnp.mean(jax.vmap(squared)(x))

    costs = [float(mean_cost(jnp.float32(s))) for s in (0.0, 0.3, 1.0)]
    assert costs[0] > costs[1] > costs[2] > 0


def test_clip_keeps_the_range():
    denoise = exact.denoiser(gaussian(), process.rectified_flow())
    draw = jax.jit(lambda d: sample(jax.random.key(0), d, shape=(8, 3), steps=3))
    x = draw(clip(-0.2, 0.1)(denoise))
    assert x.min() == pytest.approx(-0.2) and x.max() == pytest.approx(0.1)
