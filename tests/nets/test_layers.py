"""Layers against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.nets.embed import Embedding, fourier, positions, times
from jaxdiff.nets.layers import GroupNorm, check_divisible, layer_norm, space_to_depth


def _normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_group_norm_normalises_each_group_of_each_sample():
    x = 5 + 3 * _normal(2, 4, 4, 16)
    norm = GroupNorm(16)
    assert norm.groups == 4
    y = np.asarray(norm(x)).reshape(2, 16, 4, 4)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 3)), 1, atol=1e-4)
    scale, shift = jnp.full((2, 16), 0.5), jnp.full((2, 16), 2.0)
    np.testing.assert_allclose(norm(x, (scale, shift)), 1.5 * norm(x) + 2, atol=1e-5)


def test_group_norm_keeps_its_digits_far_from_zero():
    x = _normal(1, 8, 8, 8)
    np.testing.assert_allclose(GroupNorm(8)(x + 1000), GroupNorm(8)(x), atol=1e-3)


@pytest.mark.parametrize(("width", "groups"), [(4, 1), (6, 1), (48, 12), (96, 24), (256, 32)])
def test_groups_divide(width, groups):
    assert GroupNorm(width).groups == groups


def test_norms_return_the_dtype_they_were_given():
    x = jnp.ones((1, 2, 2, 8), jnp.bfloat16)
    assert GroupNorm(8)(x).dtype == jnp.bfloat16
    assert layer_norm(x).dtype == jnp.bfloat16


def test_layer_norm():
    x = 7 + 2 * _normal(3, 5, 32)
    y = np.asarray(layer_norm(x))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-4)


def test_space_to_depth_orders_rows_columns_channels():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert space_to_depth(x)[0, 0, 1].tolist() == [2, 3, 6, 7]


def test_divisible():
    check_divisible((1, 8, 4, 3), 4, "three levels")
    with pytest.raises(ValueError, match="height 9 and width 8"):
        check_divisible((1, 9, 8, 3), 4, "three levels")


def test_fourier_has_unit_mean_square_and_tells_times_apart():
    time = jnp.linspace(-2.0, 2.0, 401)
    e = np.asarray(fourier(time, 64))
    np.testing.assert_allclose((e**2).mean(1), 1, rtol=1e-5)
    gram = e @ e.T / 64
    assert gram[200, 202] > 0.9  # 0.02 apart: alike
    far = np.abs(np.subtract.outer(np.arange(401), np.arange(401))) > 50
    assert gram[far].max() < 0.75  # half a unit apart: not
    with pytest.raises(ValueError, match="width is 5"):
        fourier(time, 5)


def test_positions_follow_the_published_layout():
    h, w, width = 2, 3, 8
    e = np.asarray(positions(h, w, width))
    rates = 1 / 10000 ** (np.arange(2) / 2)
    for row in range(h):
        for column in range(w):
            line = [f(p * rates) for p in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(e[row * w + column], np.concatenate(line), atol=1e-6)
    with pytest.raises(ValueError, match="width is 6"):
        positions(2, 2, 6)


def test_embedding_of_a_bad_label_is_loud_under_jit():
    embed = Embedding(8, classes=3, rngs=nnx.Rngs(0))
    vector = jax.jit(lambda label: embed(jnp.zeros(2), label))(jnp.array([3, 4]))
    assert not jnp.isnan(vector[0]).any()
    assert jnp.isnan(vector[1]).all()


def test_times():
    with pytest.raises(ValueError, match="time has shape"):
        times(jnp.zeros(3), 2)
