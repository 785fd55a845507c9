"""PSNR, SSIM and the residual against hand values and an independent implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxdiff.metrics import psnr, residual, ssim


def images(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0)


def test_psnr_of_a_known_error_is_per_sample():
    x = images(0, 3, 5, 4, 2)
    offset = jnp.asarray([2.0, 0.2, 0.02])[:, None, None, None]
    np.testing.assert_allclose(psnr(x + offset, x), [0.0, 20.0, 40.0], atol=1e-3)
    np.testing.assert_allclose(psnr(x + offset, x, peak=255.0)[0], 42.11, atol=1e-2)
    assert jnp.isposinf(psnr(x, x)).all()


def by_scipy(x, y, peak):
    """The recipe of Wang et al. as image libraries write it: filter, crop the border, average."""
    blur = lambda z: gaussian_filter(z, 1.5, truncate=3.5, axes=(0, 1))[5:-5, 5:-5]  # noqa: E731
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    ux, uy = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - ux * ux, blur(y * y) - uy * uy, blur(x * y) - ux * uy
    top, bottom = (2 * ux * uy + c1) * (2 * vxy + c2), (ux**2 + uy**2 + c1) * (vx + vy + c2)
    return (top / bottom).mean()


@pytest.mark.parametrize("peak", [2.0, 255.0])
def test_ssim_equals_an_independent_implementation(x64, peak):
    x = np.asarray(images(0, 3, 19, 16, 2)) * peak / 2
    y = x + 0.1 * peak * np.asarray(images(1, 3, 19, 16, 2))
    want = [by_scipy(a, b, peak) for a, b in zip(x, y)]
    got = ssim(jnp.asarray(x), jnp.asarray(y), peak=peak)
    np.testing.assert_allclose(got, want, atol=1e-10)
    assert (got > 0).all() and (got < 1).all()


def test_ssim_of_constant_and_of_opposite_images():
    a, b = 0.5, -0.25
    flat = jnp.ones((1, 12, 12, 1))
    c1 = (0.01 * 2) ** 2
    want = (2 * a * b + c1) / (a**2 + b**2 + c1)
    np.testing.assert_allclose(ssim(a * flat, b * flat), [want], atol=1e-4)
    # A checkerboard has nearly zero mean under the window: its negative scores nearly -1.
    board = jnp.asarray((np.indices((16, 16)).sum(0) % 2 * 2.0 - 1)[None, :, :, None], jnp.float32)
    assert float(ssim(board, -board)[0]) < -0.99
    np.testing.assert_allclose(ssim(board, board), [1.0], atol=1e-6)


def test_ssim_is_unharmed_by_jit_and_grad():
    x, y = images(0, 2, 12, 12, 1), images(1, 2, 12, 12, 1)
    value, slope = jax.jit(jax.value_and_grad(lambda x: ssim(x, y).sum()))(x)
    np.testing.assert_allclose(value, ssim(x, y).sum(), atol=1e-6)
    assert jnp.isfinite(slope).all()


def test_residual_is_one_for_noise_of_the_stated_level():
    y = 0.05 * jax.random.normal(jax.random.key(0), (4, 64, 64, 1))
    got = residual(y, jnp.zeros_like(y), noise=0.05)
    np.testing.assert_allclose(got, jnp.ones(4), atol=0.03)


@pytest.mark.parametrize("whole", [False, True])
def test_residual_counts_what_was_observed_only(whole):
    y = jnp.arange(12.0).reshape(2, 6)
    seen = jnp.asarray([1, 1, 0, 0, 0, 0], bool)
    observed = jnp.stack([seen, seen]) if whole else seen
    got = residual(y, jnp.zeros_like(y), noise=jnp.asarray(1.0), observed=observed)
    np.testing.assert_allclose(got, np.sqrt([1 / 2, (36 + 49) / 2]), rtol=1e-6)


def test_bad_input_is_named():
    x, small = jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 8, 16, 1))
    for call, name in (
        (lambda: psnr(x, small), "one shape"),
        (lambda: psnr(x, x, peak=0.0), "peak: 0.0"),
        (lambda: ssim(small, small), "size: the window is 11 wide and the images are 8x16"),
        (lambda: residual(x, x, noise=-1.0), "noise: -1.0"),
        (lambda: residual(x, x, noise=1.0, observed=jnp.ones((4, 4))), "observed: shape"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
