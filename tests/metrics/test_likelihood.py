"""The bound on bits against sets of bytes whose entropy is known."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import exact, process
from jaxdiff.data import images_to_unit
from jaxdiff.metrics.likelihood import bits_bound


def _bytes(low, high, step):
    return jnp.arange(low, high, step, dtype=jnp.uint8)[:, None]


def _mean_bits(values, noise, *, draws=32, repeat=8):
    denoise = exact.denoiser(exact.points(jnp.asarray(images_to_unit(values))), noise)
    images = jnp.tile(values, (repeat, 1))
    each = jax.jit(lambda key, x: bits_bound(key, denoise, x, draws=draws))
    found = each(jax.random.key(0), images)
    return float(found.mean()), float(found.std() / len(found) ** 0.5)


_WIDE = process.edm(1e-3, 1000.0)


@pytest.mark.parametrize(
    ("noise", "step", "entropy"),
    [
        (_WIDE, 1, 8.0),
        (_WIDE, 4, 6.0),
        (_WIDE, 64, 2.0),
        (process.rectified_flow(), 4, 6.0),
        (process.vp_cosine(t_min=1e-4), 4, 6.0),
        # Its cleanest level is wider than a byte: the read-off is exact for all bytes alike only.
        (process.from_betas(process.zero_snr(process.linear_betas())), 1, 8.0),
    ],
)
def test_the_exact_denoiser_spends_the_entropy(noise, step, entropy):
    """Uniform on 256/step levels."""
    bits, error = _mean_bits(_bytes(0, 256, step), noise)
    assert error < 0.3
    assert entropy - 4 * error < bits < entropy + 0.05 + 4 * error


def test_the_wrong_denoiser_spends_more():
    """Data on one byte, a model of all of them: the bound pays for what the model believes."""
    every = jnp.asarray(images_to_unit(_bytes(0, 256, 1)))
    denoise = exact.denoiser(exact.points(every), _WIDE)
    images = jnp.full((512, 1), 128, jnp.uint8)
    bits = jax.jit(lambda x: bits_bound(jax.random.key(0), denoise, x, draws=32))(images)
    assert abs(float(bits.mean()) - 8.0) < 4 * float(bits.std() / 512**0.5) + 0.05


def test_an_image_does_not_see_its_batch():
    values = _bytes(0, 256, 16)
    denoise = exact.denoiser(exact.points(jnp.asarray(images_to_unit(values))), process.edm())
    bound = jax.jit(lambda x, ids: bits_bound(jax.random.key(0), denoise, x, draws=4, ids=ids))
    whole, part = bound(values, jnp.arange(16)), bound(values[4:6], jnp.arange(4, 6))
    assert jnp.abs(whole[4:6] - part).max() < 1e-4 * jnp.abs(whole).max()


def test_no_draw_is_refused():
    denoise = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    with pytest.raises(ValueError, match="draws=0"):
        bits_bound(jax.random.key(0), denoise, jnp.zeros((1, 1), jnp.uint8), draws=0)
