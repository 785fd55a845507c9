"""Noises: their laws are scipy's, their draws have the law's moments, their slopes are finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiff.inverse import noises
from tests.problems import vector

CLEAN = np.array([0.3, 1.0, 2.5])


@pytest.mark.usefixtures("x64")
def test_the_laws_are_those_of_scipy():
    y, counts = CLEAN + 0.3, np.array([0.0, 3.0, 30.0])
    below = -1 + counts / 12.0
    clean, photons = jnp.asarray(CLEAN), 12 * CLEAN + 12
    sd = np.sqrt((CLEAN + 1) / 12.0 + 0.04)
    cases = [
        (noises.gaussian(0.2), y, scipy.stats.norm.logpdf(y, CLEAN, 0.2)),
        (noises.poisson(12.0, low=-1.0), below, scipy.stats.poisson.logpmf(counts, photons)),
        (noises.poisson_gaussian(12.0, 0.2, low=-1.0), y, scipy.stats.norm.logpdf(y, CLEAN, sd)),
        (noises.speckle(0.2), y, scipy.stats.norm.logpdf(y, CLEAN, 0.2 * CLEAN)),
    ]
    found = jax.jit(lambda cases: [n.log_prob(y, clean) for n, y in cases])(
        [(noise, jnp.asarray(y)) for noise, y, _ in cases]
    )
    for value, (_, _, expected) in zip(found, cases, strict=True):
        assert np.isclose(value, expected.sum(), rtol=1e-12)


def test_draws_have_the_moments_of_the_law():
    clean, n = jnp.asarray(CLEAN, jnp.float32), 20000
    cases = {
        "gaussian": (noises.gaussian(0.2), 0.04 + 0 * CLEAN),
        "poisson": (noises.poisson(4.0, low=-1.0), (CLEAN + 1) / 4),
        "poisson_gaussian": (noises.poisson_gaussian(4.0, 0.5), CLEAN / 4 + 0.25),
        "speckle": (noises.speckle(0.2), 0.04 * CLEAN**2),
    }
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(jax.vmap(lambda noises, k: [n.draw(k, clean) for n in noises], (None, 0)))
    drawn = draw([noise for noise, _ in cases.values()], keys)
    for (name, (_, var)), y in zip(cases.items(), drawn, strict=True):
        mean_error = np.abs(np.mean(y, 0) - CLEAN) / np.sqrt(var / n)
        assert np.all(mean_error < 4.5), name
        assert np.allclose(np.var(y, 0) / var, 1, atol=4.5 * np.sqrt(3 / n)), name
    whole = np.asarray(drawn[1] + 1) * 4
    assert np.allclose(whole, np.round(whole), atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_poisson_with_many_counts_is_nearly_gaussian():
    """The approximation against the exact sum over counts, which it misses by 1/sqrt(counts)."""
    rate, s, clean, y = 400.0, 0.02, 1.0, 1.03
    k = np.arange(2000)
    exact = scipy.stats.poisson.pmf(k, rate * clean) * scipy.stats.norm.pdf(y, k / rate, s)
    found = noises.poisson_gaussian(rate, s).log_prob(jnp.array([y]), jnp.array([clean]))
    assert abs(float(found) - np.log(exact.sum())) < 0.05


def test_slopes_are_finite_in_the_dark():
    clean = jnp.array([-0.5, 0.0, 1e-9, 1.0])
    laws = [
        noises.gaussian(0.1), noises.poisson(50.0), noises.poisson_gaussian(50.0, 0.1),
        noises.speckle(0.1),
    ]  # fmt: skip
    slope = jax.jit(lambda laws, y: [jax.grad(n.log_prob, argnums=1)(y, clean) for n in laws])
    for y in (jnp.zeros(4), 0.2 * jnp.ones(4)):
        found = slope(laws, y)
        assert all(bool(jnp.isfinite(g).all()) for g in found)
        # K log m - m of 50 y counts, with d log m = d m / DIM
        assert found[1][0] == pytest.approx(50 * float(y[0]) * 50 / noises.DIM - 50)


def test_a_stack_has_a_level_for_each_measurement():
    clean = (vector(0, 3), {"b": vector(1, 2, 2)})
    y = (vector(2, 3), {"b": vector(3, 2, 2)})
    whole = noises.gaussian((0.5, {"b": 2.0})).log_prob(y, clean)
    parts = (
        noises.gaussian(0.5).log_prob(y[0], clean[0]),
        noises.gaussian(2.0).log_prob(y[1], clean[1]),
    )
    assert jnp.allclose(whole, sum(parts), rtol=1e-6)
    drawn = noises.gaussian((0.5, {"b": 2.0})).draw(jax.random.key(0), clean)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, clean)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: noises.gaussian(0.0), "s=0.0"),
        (lambda: noises.gaussian(-1.0), "s=-1.0"),
        (lambda: noises.gaussian((0.1, -0.2)), "s=-0.2"),
        (lambda: noises.poisson(0.0), "rate=0.0"),
        (lambda: noises.poisson_gaussian(1.0, 0.0), "s=0.0"),
        (lambda: noises.speckle(0.0), "s=0.0"),
        (lambda: noises.speckle(0.1, floor=0.0), "floor=0.0"),
        (lambda: noises.gaussian(1.0).log_prob(jnp.ones(3), jnp.ones((2, 3))), "y of shape"),
    ],
)
def test_what_noises_refuse(make, words):
    with pytest.raises(ValueError, match=words):
        make()
