"""The door between bytes and [-1, 1], and what is refused there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import Source, arrays, images_to_unit, loader, resident, to_uint8

_BYTES = np.arange(256, dtype=np.uint8)


def test_every_byte_comes_back():
    assert (to_uint8(images_to_unit(_BYTES)) == _BYTES).all()


def test_the_range_is_symmetric_and_its_ends_exact():
    unit = images_to_unit(_BYTES)
    assert (unit[0], unit[-1], unit.dtype) == (-1.0, 1.0, np.float32)
    assert (unit == -unit[::-1]).all()
    assert (np.diff(unit) > 0).all()


def test_host_and_compiled_device_agree_to_the_bit():
    on_device = jax.jit(images_to_unit)(jnp.asarray(_BYTES))
    assert (np.asarray(on_device) == images_to_unit(_BYTES)).all()
    assert (np.asarray(jax.jit(to_uint8)(on_device)) == _BYTES).all()


def test_what_overshoots_is_clipped():
    assert to_uint8(np.array([-1.5, 1.5, 0.999, np.inf], np.float32)).tolist() == [0, 255, 255, 255]


def test_nan_is_no_byte():
    with pytest.raises(ValueError, match=r"x holds 1 NaN values, the first at index \(1,\)"):
        to_uint8(jnp.array([0.0, jnp.nan]))


def test_nan_pixels_are_counted_and_the_first_is_named():
    images = np.zeros((3, 4, 4, 1), np.float32)
    images[1, 2, 3, 0] = images[2, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"2 NaN values, the first at index \(1, 2, 3, 0\)"):
        arrays(images)


def test_infinite_pixels_are_refused():
    with pytest.raises(ValueError, match="1 infinite values"):
        arrays(np.full((1, 1, 1, 1), np.inf))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((1, 2, 2, 1), 255.0), "values from 255.0 to 255.0"),
        (np.full((1, 2, 2, 1), -1.01), r"float images lie in \[-1, 1\]"),
        (np.zeros((1, 2, 2, 1), np.int64), "dtype int64.*uint8"),
        (np.zeros((1, 2, 2, 1), bool), "dtype bool"),
        (np.zeros((4, 2, 2), np.uint8), r"\(4, 2, 2\).*\[\.\.\., None\]"),
        (np.zeros((0, 2, 2, 1), np.uint8), "nothing in it"),
    ],
)
def test_other_images_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        arrays(images)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 2], r"labels has shape \(3,\): 2 images"),
        ([0.0, 1.0], "dtype float64"),
        ([0, -1], "smallest value -1"),
        ([0, 5], "labels go up to 5, but names has 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        arrays(np.zeros((2, 4, 4, 1), np.uint8), labels, names=("a", "b"))


def test_floats_in_range_pass_unscaled():
    images = np.linspace(-1, 1, 32).reshape(2, 4, 4, 1)
    source = arrays(images, [0, 3])
    assert source.classes == 4
    assert (next(loader(source, 2, seed=0, shuffle=False)).x == images.astype(np.float32)).all()


def test_floats_from_0_to_1_are_warned_of():
    with pytest.warns(UserWarning, match=r"from 0.0 to 1.0 only.*2 \* images - 1"):
        arrays(np.linspace(0, 1, 32).reshape(2, 4, 4, 1))


def test_nan_behind_random_access_is_found_when_it_is_read():
    source = Source([np.full((2, 2, 1), np.nan, np.float32)] * 4)
    with pytest.raises(ValueError, match=r"images .rows .* holds 8 NaN"):
        next(loader(source, 2, seed=0))
    with pytest.raises(ValueError, match="images holds 16 NaN"):
        resident(source)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"source.labels has 3 rows and source.images 4"):
        resident(Source(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(3, np.int32)))
    with pytest.raises(ValueError, match=r"source.images is empty"):
        resident(Source(np.zeros((0, 2, 2, 1), np.uint8)))
