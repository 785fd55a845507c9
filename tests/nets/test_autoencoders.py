"""Autoencoders: the law of the code, tiles and slices, the codebook, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.autoencoders import (
    Code,
    autoencoder_kl,
    autoencoder_tiny,
    autoencoder_vq,
    draw,
    from_unit,
    kl,
    scaling,
    sliced,
    tiled,
    to_unit,
)


@functools.cache
def small_vq():
    net = autoencoder_vq(widths=(4, 4), depth=1, groups=2, latent=3, entries=7)
    return net.quantize or pytest.fail("no codebook"), net.init(jax.random.key(0))


@functools.cache
def small_tiny():
    net = autoencoder_tiny(widths=(4, 4), blocks=(1, 1), latent=2)
    return net, net.init(jax.random.key(0))


def test_draws_have_the_mean_and_the_variance_of_the_code():
    code = Code(jnp.full((4000, 1, 1, 2), 3.0), jnp.full((4000, 1, 1, 2), jnp.log(0.25)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(1), 4000), code))
    assert abs(drawn.mean() - 3.0) < 0.03
    assert abs(drawn.std() - 0.5) < 0.02


def test_a_draw_does_not_see_its_batch():
    code = Code(jnp.zeros((3, 2, 2, 1)), jnp.zeros((3, 2, 2, 1)))
    keys = jax.random.split(jax.random.key(0), 3)
    alone = draw(keys[1:2], jax.tree.map(lambda leaf: leaf[1:2], code))
    assert (draw(keys, code)[1] == alone[0]).all()


def test_kl_is_the_expectation_of_the_log_ratio():
    mean, logvar = 0.7, -0.4
    code = Code(jnp.full((1, 1, 1, 1), mean), jnp.full((1, 1, 1, 1), logvar))
    many = jax.tree.map(lambda v: jnp.broadcast_to(v, (20000, 1, 1, 1)), code)
    z = np.asarray(draw(jax.random.split(jax.random.key(0), 20000), many)).ravel()
    ratio = -0.5 * logvar - (z - mean) ** 2 / (2 * np.exp(logvar)) + z**2 / 2
    assert abs(kl(code).item() - ratio.mean()) < 0.03


def test_a_code_without_variance_is_its_mean():
    code = Code(jnp.ones((2, 1, 1, 1)))
    assert (draw(jax.random.split(jax.random.key(0), 2), code) == 1).all()
    with pytest.raises(ValueError, match="no variance"):
        kl(code)
    with pytest.raises(ValueError, match="keys holds 1 for 2"):
        draw(jax.random.split(jax.random.key(0), 1), code)


def test_scaling_is_undone_and_refuses_zero():
    to_latent, from_latent = scaling((2.0, 4.0), (1.0, -1.0))
    z = jnp.array([3.0, 5.0]).reshape(1, 1, 1, 2)
    assert (to_latent(z).ravel() == jnp.array([4.0, 24.0])).all()
    assert (from_latent(to_latent(z)) == z).all()
    with pytest.raises(ValueError, match="scale is 0"):
        scaling(0.0)


def test_tiles_of_a_local_function_join_without_a_seam():
    """A decoder that looks at single places is the same tile by tile."""
    x = jax.random.normal(jax.random.key(0), (1, 11, 14, 1))

    def larger(z):
        return {"image": jnp.repeat(jnp.repeat(z, 2, 1), 2, 2) * 3}

    made = jax.jit(lambda x: tiled(larger, x, tile=4, to=8))(x)
    assert jnp.allclose(made["image"], larger(x)["image"], atol=1e-6)


def test_a_small_image_goes_through_whole():
    x = jnp.ones((1, 8, 8, 1))
    assert tiled(lambda z: z * z.shape[1], x, tile=8, to=8)[0, 0, 0, 0] == 8


@pytest.mark.parametrize(
    ("tile", "to", "overlap", "why"),
    [(0, 8, 0.25, "tile is 0"), (8, 16, 1.0, "in \\[0, 1\\)"), (5, 40, 0.25, "another share")],
)
def test_tiles_that_do_not_correspond_are_refused(tile, to, overlap, why):
    with pytest.raises(ValueError, match=why):
        tiled(lambda z: z, jnp.ones((1, 9, 9, 1)), tile=tile, to=to, overlap=overlap)


def test_slices_are_the_batch():
    net, params = small_tiny()
    image = jax.random.uniform(jax.random.key(0), (3, 8, 8, 3), minval=-1)
    whole = net.encode(params, image).mean
    one = sliced(lambda x: net.encode(params, x), image).mean
    assert jnp.allclose(one, whole, atol=1e-6)


def test_the_codebook_takes_the_nearest_and_passes_gradients_through():
    quantize, params = small_vq()
    z = jax.random.normal(jax.random.key(1), (2, 3, 4, 3))
    found = quantize(params, z)
    rows = np.asarray(params["quantize"]["embedding"]["embedding"])
    far = np.square(np.asarray(z)[..., None, :] - rows).sum(-1)
    assert (np.asarray(found.index) == far.argmin(-1)).all()
    assert jnp.allclose(found.commit, far.min(-1).mean((1, 2)) / 3, rtol=1e-5)
    slope = jax.grad(lambda v: jnp.sum(quantize(params, v).latents * 2))(z)
    assert (slope == 2).all()
    pull = jax.grad(lambda p: jnp.sum(quantize(p, z).commit))(params)
    assert (pull["quantize"]["embedding"]["embedding"] == 0).all()
    push = jax.grad(lambda v: jnp.sum(quantize(params, v).codebook))(z)
    assert (push == 0).all()


def test_tiny_codes_are_stored_and_read():
    z = jnp.linspace(-2.9, 2.9, 8).reshape(1, 1, 1, 8)
    assert jnp.allclose(from_unit(to_unit(z)), z, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda n, p: n.encode(p, jnp.zeros((1, 9, 8, 3))), "height 9 and width 8"),
        (lambda n, p: n.encode(p, jnp.zeros((1, 8, 8, 1))), "takes \\[b, h, w, 3\\]"),
        (lambda n, p: n.decode(p, jnp.zeros((1, 8, 8, 4))), "takes \\[b, h, w, 2\\]"),
    ],
)
def test_what_does_not_fit_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call(*small_tiny())


def test_widths_that_the_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="groups is 3"):
        autoencoder_kl(widths=(8, 8), groups=3)
    with pytest.raises(ValueError, match="decoder_blocks is"):
        autoencoder_tiny(widths=(8, 8), blocks=(1, 1), decoder_blocks=(1,))


def test_half_precision_stays_near():
    full, half = (
        autoencoder_tiny(widths=(4, 4), blocks=(1, 1), dtype=dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    params = full.init(jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3), minval=-1)
    a, b = (net.encode(params, image).mean for net in (full, half))
    assert b.dtype == jnp.float32
    assert jnp.abs(a - b).max() < 0.05
