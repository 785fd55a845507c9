"""Frames and Tweedie: the exact denoiser rebased, its score, its noise, its velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import denoise as dn
from jaxdiff import exact
from jaxdiff import process as pr
from tests.fakes import plane
from tests.process.cases import PROCESSES, TEXTBOOK, wide

_FRAMES = ("vp_linear", "edm", "rectified_flow", "vp_cosine", "ve", "table_linear")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("old", _FRAMES)
def test_rebasing_the_exact_denoiser_is_exact(old):
    d = exact.denoiser(plane(), PROCESSES[old]())
    x = jax.random.normal(jax.random.key(0), (5, 2))
    for new in _FRAMES[:3]:
        process = PROCESSES[new]()
        # log-SNR that every one of these processes reaches
        t = pr.time_of(process, jnp.array([4.0, 2.0, 0.0, -2.0, -6.0]))
        found, expected = dn.rebase(d, process)(x, t), exact.denoiser(plane(), process)(x, t)
        np.testing.assert_allclose(found.x0, expected.x0, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.var, expected.var, rtol=1e-9, atol=1e-12)


def test_rebasing_beyond_the_old_range_takes_the_nearer_end():
    d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), pr.edm(0.01, 80.0))
    x = jnp.ones((1, 1))
    flow = dn.rebase(d, pr.rectified_flow())
    assert float(flow(x, 1.0).x0[0, 0]) == pytest.approx(80.0 / (1 + 80.0**2), rel=1e-2)
    assert float(flow(x, 0.0).x0[0, 0]) == pytest.approx(1.0, abs=2e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TEXTBOOK)
def test_score_noise_and_velocity(name):
    """score = grad log p_t, noise = -sigma score, velocity = f x - g^2/2 score (textbook f, g)."""
    process, dist = PROCESSES[name](), plane()
    d, t = exact.denoiser(dist, process), jnp.array([0.15, 0.5, 0.85])
    x = jax.random.normal(jax.random.key(1), (3, 2))
    slope = np.asarray(jax.grad(lambda x: exact.log_density(dist, process, x, t).sum())(x))
    sigma = np.asarray(process.sigma(t))[:, None]
    np.testing.assert_allclose(dn.score(d, x, t), slope, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(dn.noise(d, x, t), -sigma * slope, rtol=1e-8, atol=1e-9)
    f, g2 = (np.asarray(fn(wide(t)), float)[:, None] for fn in TEXTBOOK[name][2:])
    flow = f * np.asarray(x) - g2 / 2 * slope
    np.testing.assert_allclose(dn.velocity(d, x, t), flow, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(dn.velocity(d, x, 0.5)[1], flow[1], rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_velocity_carries_a_gaussian_along_its_quantiles():
    """The flow of N(m, c) keeps (x - alpha m)/std constant: its derivative along the path is 0."""
    mean, var = 0.7, 0.4
    dist = exact.gaussian(jnp.array([mean]), jnp.array([[var]]))
    for name in ("vp_linear", "rectified_flow", "edm"):
        process = PROCESSES[name]()

        def path(t, process=process):
            alpha, sigma = pr.scales(process, t)
            return (alpha * mean + 1.3 * jnp.sqrt(alpha**2 * var + sigma**2)).reshape(1, 1)

        t = jnp.asarray(0.6)
        x, slope = jax.jvp(path, (t,), (jnp.ones(()),))
        found = dn.velocity(exact.denoiser(dist, process), x, t)
        np.testing.assert_allclose(found, slope, rtol=1e-10)


def test_velocity_at_the_noise_end():
    """At alpha = 0 it is finite: sigma' eps + alpha' E[x_0]."""
    d = exact.denoiser(exact.gaussian(jnp.array([0.5]), jnp.eye(1)), pr.rectified_flow())
    np.testing.assert_allclose(dn.velocity(d, jnp.array([[2.0]]), 1.0), [[1.5]], rtol=1e-6)
