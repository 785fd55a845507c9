"""Distances of sets against closed forms, brute force, and an independent matrix root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxdiff.metrics import Moments, frechet, kernel_distance, moments, sliced_wasserstein


def normal(seed, *shape):
    # The default precision of jax: double under x64.
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def orthogonal(seed, d):
    return jnp.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0], float)


def test_moments_are_those_of_numpy(x64):
    f = normal(0, 50, 4)
    got = moments(f)
    np.testing.assert_allclose(got.mean, np.mean(f, 0), atol=1e-12)
    np.testing.assert_allclose(got.cov, np.cov(np.asarray(f).T), atol=1e-12)


def test_frechet_of_commuting_covariances(x64):
    a, b = jnp.asarray([1.0, 4.0, 9.0]), jnp.asarray([4.0, 4.0, 0.0])
    q = orthogonal(0, 3)
    one, two = (Moments(jnp.ones(3) * m, q @ jnp.diag(v) @ q.T) for m, v in ((0, a), (2, b)))
    want = 3 * 2**2 + jnp.sum((jnp.sqrt(a) - jnp.sqrt(b)) ** 2)
    np.testing.assert_allclose(frechet(one, two), want, rtol=1e-7)
    np.testing.assert_allclose(frechet(two, one), want, rtol=1e-7)


def _pair():
    mix = normal(0, 6, 6)
    return moments(normal(1, 80, 6) @ mix), moments(1 + normal(2, 60, 6) @ mix.T)


def _by_square_root(a, b):
    root = np.real(scipy.linalg.sqrtm(np.asarray(a.cov) @ np.asarray(b.cov)))
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov - 2 * root))


def test_frechet_equals_the_matrix_square_root(x64):
    a, b = _pair()
    np.testing.assert_allclose(frechet(a, b), _by_square_root(a, b), rtol=1e-9)


def test_frechet_keeps_its_precision_in_single(x64):
    """Features like those of a ReLU: dead ones, a few large variances, a small distance."""
    scale = jnp.concatenate([jnp.zeros(8), 10.0 ** jnp.linspace(-4, 1, 24)])
    a, b = (jax.nn.relu(normal(i, 4000, 32) + 0.5) * scale[None] for i in (0, 1))
    want = frechet(moments(a), moments(b))
    single = (moments(f.astype(jnp.float32)) for f in (a, b))
    got = frechet(*single)
    assert got.dtype == jnp.float32
    assert abs(float(got - want)) < 1e-6 * float(jnp.trace(moments(a).cov))


def test_frechet_is_zero_for_one_set_and_rotation_invariant():
    a, b = _pair()
    q = orthogonal(5, 6)
    turned = (Moments(q @ m.mean, q @ m.cov @ q.T) for m in (a, b))
    np.testing.assert_allclose(frechet(a, a), 0, atol=1e-5 * float(jnp.trace(a.cov)))
    np.testing.assert_allclose(frechet(*turned), frechet(a, b), rtol=1e-4)


def test_kernel_distance_is_the_sum_over_pairs(x64):
    a, b = np.asarray(normal(0, 7, 3)), np.asarray(normal(1, 5, 3))
    k = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    within = lambda s: np.mean(  # noqa: E731
        [k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]
    )
    want = within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])
    np.testing.assert_allclose(kernel_distance(jnp.asarray(a), jnp.asarray(b)), want, rtol=1e-12)


def test_kernel_distance_is_unbiased():
    """Degree 1 without offset: the expectation is ||mu_a - mu_b||^2 / d, at any n."""

    def one(key):
        first, second = jax.random.split(key)
        a = jax.random.normal(first, (4, 3))
        return kernel_distance(a, jax.random.normal(second, (6, 3)) + 2, degree=1, offset=0.0)

    draws = jax.vmap(one)(jax.random.split(jax.random.key(0), 1000))
    assert abs(float(draws.mean()) - 4) < 4 * float(draws.std()) / np.sqrt(1000)


def test_sliced_wasserstein_of_a_shift_and_a_stretch():
    key, a = jax.random.key(3), normal(0, 200, 3)
    shift = jnp.asarray([[3.0, 0.0, 4.0]])
    got = sliced_wasserstein(key, a, a + shift, directions=4000)
    np.testing.assert_allclose(got, 5 / np.sqrt(3), rtol=0.03)
    line = normal(1, 100, 1)
    want = 2 * jnp.sqrt(jnp.mean(line**2))
    np.testing.assert_allclose(sliced_wasserstein(key, line, 3 * line), want, rtol=1e-5)


def test_sliced_wasserstein_of_sets_of_unequal_size():
    key, a, b = jax.random.key(0), normal(0, 6, 2), normal(1, 4, 2)
    # Repeating every point changes a set's size and not its distribution.
    want = sliced_wasserstein(key, jnp.repeat(a, 2, 0), jnp.repeat(b, 3, 0))
    np.testing.assert_allclose(sliced_wasserstein(key, a, b), want, rtol=1e-5)
    np.testing.assert_allclose(sliced_wasserstein(key, a, jnp.repeat(a, 3, 0)), 0, atol=1e-6)


def test_bad_input_is_named():
    one, two = jnp.zeros((1, 3)), jnp.zeros((2, 3))
    for call, name in (
        (lambda: moments(one), "features: 1 sample"),
        (lambda: kernel_distance(two, one), "b: 1 sample"),
        (lambda: frechet(moments(two), moments(two[:, :2])), "moments of 3 and 2 features"),
        (lambda: sliced_wasserstein(jax.random.key(0), two, two, directions=0), "directions: 0"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
