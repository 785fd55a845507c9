"""Augmentations: pure in the key, only ever pixels of the image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import augment

_IMAGE = jnp.arange(25.0).reshape(5, 5, 1)
_KEYS = jax.random.split(jax.random.key(0), 400)


def test_half_of_the_images_are_mirrored():
    out = jax.jit(jax.vmap(augment.flip, (0, None)))(_KEYS, _IMAGE)
    mirrored = (out == _IMAGE[None, :, ::-1]).all((1, 2, 3))
    kept = (out == _IMAGE[None]).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 160 < int(mirrored.sum()) < 240


def test_crops_are_all_the_windows_of_the_reflected_image():
    out = np.asarray(jax.jit(jax.vmap(augment.pad_crop(2), (0, None)))(_KEYS, _IMAGE))
    wide = np.pad(np.asarray(_IMAGE), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {wide[i : i + 5, j : j + 5].tobytes() for i in range(5) for j in range(5)}
    assert {image.tobytes() for image in out} == windows


def test_no_padding_no_change():
    assert (augment.crop(jax.random.key(0), _IMAGE, 0) == _IMAGE).all()


@pytest.mark.parametrize("pad", [-1, 5])
def test_a_padding_that_cannot_be_reflected_is_refused(pad):
    with pytest.raises(ValueError, match=f"pad={pad}: .*< 5"):
        augment.crop(jax.random.key(0), _IMAGE, pad)


def test_composed_ones_run_in_order_with_keys_of_their_own():
    seen = []

    def note(key, image):
        seen.append(jax.random.key_data(key).tolist())
        return image + 1

    out = augment.compose(note, augment.flip, note)(jax.random.key(0), _IMAGE)
    assert float(out.min()) == 2
    assert seen[0] != seen[1]


def test_an_image_does_not_depend_on_the_batch_around_it():
    batch = jnp.broadcast_to(_IMAGE, (8, 5, 5, 1))
    rows = np.arange(8)
    crops = jax.jit(functools.partial(augment.augmented, augment.pad_crop(2), jax.random.key(3)))
    whole, part = crops(rows, batch), crops(rows[5:], batch[5:])
    assert (np.asarray(whole)[5:] == np.asarray(part)).all()
