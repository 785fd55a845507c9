"""Exact distributions against integrals on a fine grid, and against Gauss' own formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff import exact
from jaxdiff import process as pr
from tests.process.cases import PROCESSES

pytestmark = pytest.mark.usefixtures("x64")

_GRID = np.linspace(-9, 9, 40001)
_X = np.linspace(-2.5, 2.5, 7)
_NAMES = ["vp_linear", "sub_vp", "edm", "rectified_flow", "table_linear"]
_TIMES = {"table_linear": (40.0, 300.0, 900.0), "edm": (0.2, 1.0, 6.0)}


def _one_dimensional(kind):
    """A distribution on the line, and its weights on points of the line."""
    if kind == "points":
        at, weights = np.array([-1.5, -0.2, 0.9, 1.0]), np.array([0.3, 0.1, 0.4, 0.2])
        return exact.points(jnp.asarray(at)[:, None], jnp.asarray(weights)), at, weights
    weights, means, stds = {
        "gaussian": ([1.0], [0.4], [0.8]),
        "mixture": ([0.2, 0.5, 0.3], [-1.5, 0.1, 1.2], [0.3, 0.5, 0.15]),
    }[kind]
    dist = exact.mixture(
        jnp.asarray(weights), jnp.asarray(means)[:, None], jnp.asarray(stds)[:, None, None] ** 2
    )
    density = sum(w * stats.norm.pdf(_GRID, m, s) for w, m, s in zip(weights, means, stds))
    return dist, _GRID, density * (_GRID[1] - _GRID[0])


kinds = pytest.mark.parametrize("kind", ["gaussian", "mixture", "points"])


@kinds
@pytest.mark.parametrize("name", _NAMES)
def test_moments_are_the_integrals(kind, name):
    """p_t(x) = int p(x_0) N(x; alpha x_0, sigma^2), and the first two moments under it."""
    dist, at, weights = _one_dimensional(kind)
    process = PROCESSES[name]()
    denoise = exact.denoiser(dist, process)
    for t in _TIMES.get(name, (0.1, 0.4, 0.9)):
        alpha, sigma = (float(a) for a in pr.scales(process, t))
        x = jnp.asarray(alpha * _X + sigma * _X[::-1])[:, None]
        joint = weights * stats.norm.pdf(np.asarray(x), alpha * at, sigma)
        total = joint.sum(1)
        mean = (joint * at).sum(1) / total
        var = (joint * at**2).sum(1) / total - mean**2
        est: Any = denoise(x, t)
        np.testing.assert_allclose(est.x0[:, 0], mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(est.var[:, 0], var, rtol=1e-7, atol=1e-9)
        found = exact.log_density(dist, process, x, t)
        np.testing.assert_allclose(found, np.log(total), rtol=1e-9, atol=1e-9)


@kinds
def test_score_is_the_gradient_of_the_log_density(kind):
    """Tweedie: grad log p_t = (alpha E[x_0 | x] - x) / sigma^2, in the plane."""
    dist, process = _PLANE[kind], pr.vp_linear()
    x = jnp.asarray(np.random.default_rng(2).normal(size=(7, 2)))
    total = jax.jit(jax.grad(lambda x: exact.log_density(dist, process, x, 0.3).sum()))
    alpha, sigma = pr.scales(process, 0.3)
    score = (alpha * exact.denoiser(dist, process)(x, 0.3).x0 - x) / sigma**2
    np.testing.assert_allclose(total(x), score, rtol=1e-9, atol=1e-9)


_COVS = np.array([[[1.0, 0.6], [0.6, 0.5]], [[0.2, -0.1], [-0.1, 0.3]]])
_MEANS = np.array([[0.5, -1.0], [-1.0, 0.7]])


_POINTS = np.vstack([_MEANS, [[0.0, 2.0]]])


class _Plane(dict):
    """Distributions in the plane, made on first use: under the precision of the test."""

    def __missing__(self, kind):
        if kind == "points":
            return exact.points(jnp.asarray(_POINTS), jnp.array([1.0, 2.0, 1.0]))
        if kind == "gaussian":
            return exact.gaussian(jnp.asarray(_MEANS[0]), jnp.asarray(_COVS[0]))
        return exact.mixture(jnp.array([0.4, 0.6]), jnp.asarray(_MEANS), jnp.asarray(_COVS))


_PLANE = _Plane()


@pytest.mark.parametrize("name", ["vp_linear", "edm", "rectified_flow", "vp_cosine"])
def test_gaussian_in_the_plane(name):
    """E[x_0 | x_t] = m + Cov(x_0, x_t) Cov(x_t)^-1 (x_t - alpha m), with numpy's solver."""
    process, dist = PROCESSES[name](), _PLANE["gaussian"]
    mean, cov = _MEANS[0], _COVS[0]
    x = np.random.default_rng(0).normal(size=(7, 2))
    for t in (0.05, 0.7, float(process.t_max)):
        alpha, sigma = (float(a) for a in pr.scales(process, t))
        gain = alpha * cov @ np.linalg.inv(alpha**2 * cov + sigma**2 * np.eye(2))
        est: Any = exact.denoiser(dist, process)(jnp.asarray(x), t)
        np.testing.assert_allclose(est.x0, mean + (x - alpha * mean) @ gain.T, rtol=1e-10)
        left = np.diag(cov - alpha * gain @ cov)
        np.testing.assert_allclose(est.var, np.broadcast_to(left, (7, 2)), rtol=1e-9)
        marginal = stats.multivariate_normal(alpha * mean, alpha**2 * cov + sigma**2 * np.eye(2))
        found = exact.log_density(dist, process, jnp.asarray(x), t)
        np.testing.assert_allclose(found, marginal.logpdf(x), rtol=1e-10)


def test_ends_of_the_process():
    """At sigma = 0 the sample is x_0; at alpha = 0 nothing is known but the prior."""
    process, dist = pr.rectified_flow(), _PLANE["mixture"]
    denoise: Any = exact.denoiser(dist, process)
    x = jnp.array([[0.3, -0.2], [1.0, 2.0]])
    np.testing.assert_allclose(denoise(x, 0.0).x0, x, atol=1e-12)
    np.testing.assert_allclose(denoise(x, 0.0).var, np.zeros((2, 2)), atol=1e-12)
    prior = np.broadcast_to(np.asarray(exact.mean(dist)), (2, 2))
    np.testing.assert_allclose(denoise(x, 1.0).x0, prior, rtol=1e-12)
    spread = np.broadcast_to(np.diag(exact.covariance(dist)), (2, 2))
    np.testing.assert_allclose(denoise(x, 1.0).var, spread, rtol=1e-10)
    points = exact.denoiser(_PLANE["points"], process)(x, 1.0).x0
    np.testing.assert_allclose(points[0], [0.25, 0.5, 0.25] @ _POINTS)


def test_times_per_sample():
    process, dist = pr.edm(), _PLANE["mixture"]
    denoise, x = exact.denoiser(dist, process), jnp.array([[0.3, -0.2], [1.0, 2.0]])
    both: Any = denoise(x, jnp.array([0.5, 3.0]))
    for i, t in enumerate((0.5, 3.0)):
        np.testing.assert_allclose(both.x0[i], denoise(x, t).x0[i], rtol=1e-12)
        np.testing.assert_allclose(both.var[i], denoise(x, t).var[i], rtol=1e-12)


@kinds
def test_condition_on_the_line(kind):
    """Bayes on a fine grid: the posterior's moments, and the denoiser of the posterior."""
    dist, at, weights = _one_dimensional(kind)
    matrix, y, noise = jnp.array([[1.3]]), jnp.array([0.8]), 0.5
    after = weights * stats.norm.pdf(0.8, 1.3 * at, noise)
    after /= after.sum()
    posterior = exact.condition(dist, matrix, y, noise)
    mean = (after * at).sum()
    assert float(exact.mean(posterior)[0]) == pytest.approx(mean, rel=1e-9)
    var = (after * at**2).sum() - mean**2
    assert float(exact.covariance(posterior)[0, 0]) == pytest.approx(var, rel=1e-8)
    joint = after * stats.norm.pdf(0.6, 0.9 * at, 0.4)
    process = pr.from_scales(lambda t: 1 - t / 5, lambda t: 0.8 * t, 0.1, 1.0)
    found = exact.denoiser(posterior, process)(jnp.array([[0.6]]), 0.5).x0
    assert float(found[0, 0]) == pytest.approx((joint * at).sum() / joint.sum(), rel=1e-8)


def test_condition_in_the_plane():
    """The joint Gaussian of (x_0, y), solved by numpy; and a mixture's evidence."""
    matrix, y, noise = np.array([[1.0, -0.5]]), np.array([0.7]), 0.3
    posterior: Any = exact.condition(_PLANE["mixture"], jnp.asarray(matrix), jnp.asarray(y), noise)
    logits = []
    for k, (mean, cov) in enumerate(zip(_MEANS, _COVS)):
        inner = matrix @ cov @ matrix.T + noise**2 * np.eye(1)
        gain = cov @ matrix.T @ np.linalg.inv(inner)
        values, vectors = np.asarray(posterior.values[k]), np.asarray(posterior.vectors[k])
        moved = mean + gain @ (y - matrix @ mean)
        np.testing.assert_allclose(posterior.means[k], moved, rtol=1e-10)
        found = vectors @ np.diag(values) @ vectors.T
        np.testing.assert_allclose(found, cov - gain @ matrix @ cov, rtol=1e-8, atol=1e-12)
        evidence = stats.multivariate_normal(matrix @ mean, inner).pdf(y)
        logits.append(np.log([0.4, 0.6][k] * evidence))
    share = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.exp(posterior.logits), share, rtol=1e-10)


def test_conditioning_twice_is_conditioning_on_both():
    dist = _PLANE["mixture"]
    rows, y = jnp.array([[1.0, 0.2], [0.3, -1.0]]), jnp.array([0.4, -0.6])
    together = exact.condition(dist, rows, y, 0.4)
    apart = exact.condition(exact.condition(dist, rows[:1], y[:1], 0.4), rows[1:], y[1:], 0.4)
    np.testing.assert_allclose(exact.mean(apart), exact.mean(together), rtol=1e-9)
    np.testing.assert_allclose(exact.covariance(apart), exact.covariance(together), rtol=1e-8)


@kinds
def test_draws_have_the_moments(kind):
    dist, n = _PLANE[kind], 40000
    x = np.asarray(exact.draw(jax.random.key(0), dist, n))
    mean, cov = np.asarray(exact.mean(dist)), np.asarray(exact.covariance(dist))
    assert x.shape == (n, 2)
    assert np.all(np.abs(x.mean(0) - mean) < 4 * np.sqrt(np.diag(cov) / n))
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.03)
    if kind == "points":
        assert len(np.unique(x, axis=0)) == 3


@kinds
def test_mean_and_covariance_by_hand(kind):
    if kind == "gaussian":
        mean, cov = _MEANS[0], _COVS[0]
    elif kind == "mixture":
        mean = 0.4 * _MEANS[0] + 0.6 * _MEANS[1]
        gap = _MEANS[0] - _MEANS[1]
        cov = 0.4 * _COVS[0] + 0.6 * _COVS[1] + 0.24 * np.outer(gap, gap)
    else:
        at = _POINTS
        mean = at.T @ [0.25, 0.5, 0.25]
        cov = np.cov(at.T, aweights=[0.25, 0.5, 0.25], bias=True)
    np.testing.assert_allclose(exact.mean(_PLANE[kind]), mean, rtol=1e-12)
    np.testing.assert_allclose(exact.covariance(_PLANE[kind]), cov, rtol=1e-10)


def test_single_precision_agrees():
    process = pr.vp_linear()
    x = np.random.default_rng(1).normal(size=(7, 2))
    denoise = exact.denoiser(_PLANE["mixture"], process)
    truth: Any = [denoise(jnp.asarray(x), t) for t in (1e-3, 0.3, 1.0)]
    with jax.enable_x64(False):
        process, dist = pr.vp_linear(), _PLANE["mixture"]
        denoise = exact.denoiser(dist, process)
        single: Any = [denoise(jnp.asarray(x, jnp.float32), t) for t in (1e-3, 0.3, 1.0)]
    for mine, true in zip(single, truth):
        assert mine.x0.dtype == jnp.float32
        np.testing.assert_allclose(mine.x0, true.x0, atol=2e-5)
        np.testing.assert_allclose(mine.var, true.var, atol=2e-5)


def test_distributions_are_arguments_under_jit():
    traces = []

    @jax.jit
    def ask(denoise, x):
        traces.append(1)
        return denoise(x, 0.5).x0

    for shift in (0.0, 1.0):
        dist = exact.gaussian(jnp.full(2, shift), jnp.eye(2))
        ask(exact.denoiser(dist, pr.vp_linear()), jnp.zeros((3, 2)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("weights", "means", "covs"),
    [((3,), (2, 1), (2, 1, 1)), ((2,), (2,), (2, 1, 1)), ((2,), (2, 1), (2, 1))],
)
def test_shapes_of_mixtures_are_checked(weights, means, covs):
    with pytest.raises(ValueError, match=r"\[k\], \[k, d\], \[k, d, d\]"):
        exact.mixture(jnp.ones(weights), jnp.ones(means), jnp.ones(covs))


def test_shapes_of_points_are_checked():
    with pytest.raises(ValueError, match="flatten them"):
        exact.points(jnp.ones(3))
    with pytest.raises(ValueError, match="one weight a point"):
        exact.points(jnp.ones((3, 2)), jnp.ones(2))
    with pytest.raises(ValueError, match=r"over vectors \[b, d\]"):
        exact.denoiser(exact.points(jnp.ones((3, 2))), pr.edm())(jnp.ones(2), 1.0)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_points_need_noise_in_y(noise):
    dist = exact.points(jnp.eye(2))
    with pytest.raises(ValueError, match="give noise > 0"):
        exact.condition(dist, jnp.eye(2), jnp.zeros(2), noise)


def test_a_gaussian_measured_without_noise_is_what_was_measured():
    dist = exact.gaussian(jnp.zeros(2), jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    found = exact.condition(dist, jnp.array([[1.0, 0.0]]), jnp.array([1.5]), 0.0)
    assert np.allclose(exact.mean(found), [1.5, 0.75], atol=1e-6)
    assert np.allclose(exact.covariance(found), [[0, 0], [0, 1.5]], atol=1e-6)
