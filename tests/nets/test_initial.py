"""The hash behind the initial parameters: flat, uncorrelated, of the promised spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.initial import lecun, spread


def test_eager_and_traced_bits_agree():
    draw = spread(1.0)
    for key in (jax.random.key(7), jax.random.PRNGKey(7)):
        eager = draw(key, (37, 5), jnp.float32)
        traced = jax.jit(lambda k: draw(k, (37, 5), jnp.float32))(key)
        np.testing.assert_array_equal(eager, traced)


def test_uniform_and_uncorrelated():
    keys = jax.random.split(jax.random.key(0), 4)
    u = np.stack([spread(1.0)(k, (2**16,), jnp.float32) for k in keys]).astype(np.float64)
    assert np.abs(u).max() <= np.sqrt(3)
    # 64 bins of 4096 expected: chi^2 has mean 63 and deviation 11.
    counts = np.histogram(u, 64, (-np.sqrt(3), np.sqrt(3)))[0]
    assert ((counts - 4096) ** 2 / 4096).sum() < 63 + 5 * 11
    assert abs(u.mean()) < 5 / 2**9
    assert abs(u.std() - 1) < 0.01
    for lag in (1, 2, 16, 256):
        assert abs((u[:, lag:] * u[:, :-lag]).mean()) < 5 / 2**9
    assert np.abs(np.corrcoef(u) - np.eye(4)).max() < 5 / 2**8


@pytest.mark.parametrize("shape", [(64, 64), (3, 3, 16, 32)])
def test_lecun_has_variance_one_over_fan_in(shape):
    w = lecun(jax.random.key(1), shape, jnp.float32)
    assert float(jnp.var(w) * np.prod(shape[:-1])) == pytest.approx(1, rel=0.05)
