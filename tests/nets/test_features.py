"""Feature networks and discriminators: pooling by hand, distances, gradients, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.discriminators import feature_heads, patch_gan, timed_gan
from jaxdiff.nets.discriminators.timed import halved
from jaxdiff.nets.features import Trunk, caffe_pixels, imagenet_pixels, inception, lpips, resnet
from jaxdiff.nets.features.layers import FrozenNorm, max_pool, mean_pool
from jaxdiff.nets.features.lpips import Layer

SMALL = Trunk(((Layer(0, 4),), (Layer(3, 6),)), pool=2, pooled=(1,), least=4)


@functools.cache
def small_lpips():
    net = lpips(SMALL)
    return net, net.init(jax.random.key(0))


@pytest.mark.parametrize("outside", [True, False])
def test_mean_pooling_counts_what_it_says(outside):
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 1)).astype(np.float32)
    found = np.asarray(mean_pool(jnp.asarray(x), 3, 1, 1, outside=outside))[0, :, :, 0]
    for i in range(4):
        for j in range(5):
            seen = x[0, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2, 0]
            expected = seen.sum() / 9 if outside else seen.mean()
            assert abs(found[i, j] - expected) < 1e-6


def test_max_pooling_never_takes_the_outside():
    assert max_pool(-jnp.ones((1, 3, 3, 1)), 3, 2, 1).max() == -1


def test_a_frozen_norm_standardises_what_its_statistics_say():
    from flax import nnx

    norm = FrozenNorm(2, eps=0.0)
    norm.running_mean = nnx.Param(jnp.array([1.0, -1.0]))
    norm.running_var = nnx.Param(jnp.array([4.0, 0.25]))
    found = norm(jnp.array([3.0, 0.0]).reshape(1, 1, 1, 2)).ravel()
    assert jnp.allclose(found, jnp.array([1.0, 2.0]))


def test_lpips_is_a_distance_of_what_is_seen():
    net, params = small_lpips()
    x, y = jax.random.uniform(jax.random.key(1), (2, 3, 8, 8, 3), minval=-1)
    assert (net.apply(params, x, x) == 0).all()
    assert jnp.allclose(net.apply(params, x, y), net.apply(params, y, x), atol=1e-6)
    maps = net.maps(params, x)
    lengths = jnp.linalg.norm(maps[0], axis=-1)
    assert jnp.all((jnp.abs(lengths - 1) < 1e-5) | (lengths == 0))
    by_hand = sum(
        jnp.mean(jnp.square(a - b) @ params[f"lin{i}"]["model"]["1"]["kernel"][0, 0], (1, 2, 3))
        for i, (a, b) in enumerate(zip(maps, net.maps(params, y)))
    )
    assert jnp.allclose(net.apply(params, x, y), by_hand, atol=1e-6)


@pytest.mark.slow
def test_lpips_has_a_gradient_where_all_features_are_zero():
    net, params = small_lpips()
    dead = jax.tree.map(lambda leaf: -jnp.abs(leaf) * 0 - 1.0, params["net"])
    params = params | {"net": dead}
    x = jnp.ones((1, 8, 8, 3))
    slope = jax.grad(lambda v: net.apply(params, v, 0.5 * x).sum())(x)
    assert jnp.isfinite(slope).all()


def test_pixels_have_the_range_of_their_lineage():
    white, black = jnp.ones((1, 1, 1, 3)), -jnp.ones((1, 1, 1, 3))
    assert jnp.allclose(caffe_pixels(white) - caffe_pixels(black), 255.0)
    span = imagenet_pixels(white) - imagenet_pixels(black)
    assert jnp.allclose(span * jnp.array([0.229, 0.224, 0.225]).reshape(1, 1, 1, 3), 1.0)


@pytest.mark.slow
def test_the_published_classifiers_have_their_sizes():
    """25,557,032 parameters and 2 x 26,560 statistics; Inception-v3 without its auxiliary head."""
    sizes = {
        resnet: 25_557_032 + 53_120,
        functools.partial(inception, classes=1000, fid=False): 23_834_568 + 34_432,
    }
    for make, expected in sizes.items():
        shapes = jax.eval_shape(make().init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: _apply(resnet(depths=(1,), width=4), jnp.zeros((1, 8, 8, 1))), "takes \\[b, h, w"),
        (lambda: _apply(resnet(depths=(1,), width=4), jnp.zeros((1, 2, 8, 3))), "at least 4"),
        (lambda: _lpips(jnp.zeros((1, 8, 8, 3)), jnp.zeros((2, 8, 8, 3))), "must be equal"),
        (lambda: _lpips(jnp.zeros((1, 2, 8, 3)), jnp.zeros((1, 2, 8, 3))), "at least 4"),
        (lambda: patch_gan(depth=0), "depth is 0"),
        (lambda: _apply(patch_gan(width=4, depth=1), jnp.zeros((1, 4, 4, 3))), "at least 6"),
        (lambda: _timed(jnp.zeros((3, 8, 8, 3))), "no multiple of group"),
        (lambda: _timed(jnp.zeros((2, 7, 8, 3))), "height 7"),
        (lambda: _heads((jnp.zeros((1, 3, 5)),), None), "built for \\[4\\]"),
        (lambda: _heads((jnp.zeros((1, 3, 4)),), None), "cond has shape None"),
    ],
)
def test_what_does_not_fit_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()


def test_the_discriminator_over_patches_has_the_layers_of_the_published_one():
    """Convolutions of 4 x 4 from 3 over 64, 128, 256 and 512 to 1; norms in place of biases."""
    pairs = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    expected = 16 * sum(a * b for a, b in pairs) + 64 + 1 + 2 * (128 + 256 + 512)
    shapes = jax.eval_shape(patch_gan().init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_the_discriminator_of_steps_sees_the_time_and_both_images():
    net = timed_gan(widths=(4, 8), embed_dim=8, group=1)
    params = net.init(jax.random.key(0))
    x, y = jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 3))
    base = net.apply(params, x, y, jnp.zeros(4))
    for other in (
        net.apply(params, x, y, jnp.ones(4)),
        net.apply(params, y, y, jnp.zeros(4)),
        net.apply(params, x, x, jnp.zeros(4)),
    ):
        assert jnp.abs(other - base).min() > 1e-5
    alone = net.apply(params, x[:1], y[:1], jnp.zeros(1))
    assert jnp.allclose(alone, base[:1], atol=1e-5)


def test_a_blur_keeps_what_is_even():
    """[1, 3, 3, 1] / 8 is the binomial of order 3: a constant and a slope stay, inside."""
    slope = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 2))
    found = halved(slope)[0, 1:3, 1:3, 0]
    assert jnp.allclose(found, jnp.array([[2.5, 2.5], [4.5, 4.5]]))


def test_heads_ask_for_the_condition():
    net = feature_heads(widths=(4,), inner=8, cond_dim=3)
    params = net.init(jax.random.key(0))
    maps = (jax.random.normal(jax.random.key(1), (2, 3, 3, 4)),)
    a, b = (net.apply(params, maps, jnp.full((2, 3), v)) for v in (0.0, 1.0))
    assert a.shape == (2, 9)
    assert jnp.abs(a - b).max() > 1e-3


def _apply(net, x):
    return net.apply(jax.eval_shape(net.init, jax.random.key(0)), x)


def _lpips(x, y):
    net, params = small_lpips()
    return net.apply(params, x, y)


def _timed(x):
    net = timed_gan(widths=(4, 4), embed_dim=4, group=2)
    return net.apply({}, x, x, jnp.zeros(()))


def _heads(maps, cond):
    return feature_heads(widths=(4,), cond_dim=2).apply({}, maps, cond)
