"""The two probes, at toy size, on real images of the package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import fashion_mnist
from jaxdiff.metrics import (
    cnn_logits,
    features,
    frechet,
    logistic,
    logits,
    moments,
    small_cnn,
)


def picked(split, n):
    """n images of a split, spread over its length (and so over the classes)."""
    source = fashion_mnist(split)
    index = np.linspace(0, len(source.labels) - 1, n).astype(int)
    return np.asarray(source.images)[index], np.asarray(source.labels)[index]


def accuracy(scores, labels):
    return float((np.argmax(scores, 1) == labels).mean())


@pytest.mark.slow
def test_logistic_finds_the_minimum(x64):
    """The gradient of the penalised likelihood, by autodiff of the formula, vanishes at the fit."""
    images = jax.random.uniform(jax.random.key(0), (60, 5), minval=-1.0)
    labels = jax.random.randint(jax.random.key(1), (60,), 0, 3)

    def objective(fit):
        p = jax.nn.log_softmax((images + 1) / 2 @ fit.weight + fit.bias[None])
        square = jnp.sum(fit.weight**2) + jnp.sum(fit.bias**2)
        return -jnp.mean(p[jnp.arange(60), labels]) + 0.01 / 2 * square

    fit = logistic(images, labels, classes=3, decay=0.01, steps=200)
    slope = jax.grad(objective)(fit)
    assert max(float(jnp.abs(g).max()) for g in slope) < 1e-6


def test_logistic_classifies_real_images():
    images, labels = picked("train", 800)
    fit = logistic(images, labels, classes=10, decay=1e-2, steps=20)
    held_out, truth = picked("test", 300)
    assert accuracy(logits(fit, held_out), truth) > 0.7
    as_floats = jnp.asarray(held_out, jnp.float32) / 127.5 - 1
    np.testing.assert_allclose(logits(fit, as_floats), logits(fit, held_out), atol=1e-4)


@pytest.fixture(scope="module")
def fitted():
    images, labels = picked("train", 1000)
    return small_cnn(jax.random.key(0), images, labels, classes=10, steps=60, batch=64)


def test_cnn_classifies_real_images(fitted):
    held_out, truth = picked("test", 300)
    as_floats = jnp.asarray(held_out, jnp.float32) / 127.5 - 1
    scores = cnn_logits(fitted, held_out)
    np.testing.assert_allclose(cnn_logits(fitted, as_floats), scores, atol=1e-3)
    assert accuracy(scores, truth) > 0.6


def test_features_put_real_images_nearer_than_noisy_ones(fitted):
    real, _ = picked("train", 1000)
    held_out, _ = picked("test", 300)
    values = jnp.asarray(held_out, jnp.float32) / 127.5 - 1
    eps = jax.random.normal(jax.random.key(0), values.shape)
    f = features(fitted, values)
    assert f.shape == (300, 64) and f.min() == 0
    truth = moments(features(fitted, real))
    distance = jax.jit(lambda truth, x: frechet(truth, moments(features(fitted, x))))
    near, far, lost = (float(distance(truth, x)) for x in (values, values + 0.5 * eps, eps))
    assert near < far / 3 and far < lost


def test_bad_input_is_named():
    images, labels = jnp.zeros((3, 8, 8, 1)), jnp.asarray([0, 1, 2])
    for call, name in (
        (lambda: logistic(images, labels[:2], classes=3), "labels: 2 for 3 images"),
        (lambda: logistic(images, labels, classes=2), r"labels: from 0 to 2; .* \[0, 2\)"),
        (lambda: small_cnn(jax.random.key(0), images[..., 0], labels, classes=3), "images: shape"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
