"""The embedded Fashion-MNIST: the very pixels, balanced, small, with its licence."""

import hashlib
import importlib.util
import pathlib

import numpy as np
import pytest

from jaxdiff.data import fashion_mnist

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DATA = _ROOT / "jaxdiff" / "data"
_FILE_SHA256 = "035350a44ec400edebf5a3be2307169b5be493c89d2467d0dde7c806310d41a1"
_PIXELS_SHA256 = "1667b8019d11d0cb9c4204146852ee1a71021de99fab212790a68f3e7aebec9c"


@pytest.fixture(scope="module")
def splits():
    return fashion_mnist("train"), fashion_mnist("test")


def test_the_file_is_the_one_that_was_made_and_small():
    packed = (_DATA / "fashion_mnist.xz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == _FILE_SHA256
    assert len(packed) < 6e6


def test_the_pixels_are_lossless(splits):
    pixels = b"".join(source.images.tobytes() for source in splits)
    assert hashlib.sha256(pixels).hexdigest() == _PIXELS_SHA256


def test_it_is_balanced_and_sorted_by_class(splits):
    for source, per_class in zip(splits, (1000, 100)):
        assert source.images.shape == (10 * per_class, 28, 28, 1)
        assert source.images.dtype == np.uint8
        assert source.labels.dtype == np.int32
        assert np.bincount(source.labels).tolist() == [per_class] * 10
        assert (np.diff(source.labels) >= 0).all()
        assert source.classes == len(source.names) == 10


def test_the_labels_belong_to_the_images(splits):
    """Nearest class mean gets 68 percent on the official sets; shifted labels would get ten."""
    train, test = (source.images.reshape(len(source.images), -1) / 255 for source in splits)
    means = train.reshape(10, 1000, -1).mean(1)
    distance = (test**2).sum(1)[:, None] - 2 * test @ means.T + (means**2).sum(1)[None]
    assert 0.62 < (distance.argmin(1) == splits[1].labels).mean() < 0.75


def test_no_image_is_in_both_splits(splits):
    train, test = ({image.tobytes() for image in source.images} for source in splits)
    assert len(train) > 9990  # the official set holds a few duplicates
    assert len(test) == 1000
    assert not train & test


def test_the_images_cannot_be_changed_by_accident(splits):
    with pytest.raises(ValueError, match="read-only"):
        splits[0].images[0] = 0


def test_the_licence_is_beside_it():
    text = (_DATA / "FASHION_MNIST_LICENSE").read_text()
    for words in ("MIT", "Zalando SE", "github.com/zalandoresearch/fashion-mnist", "Permission is"):
        assert words in text


def test_another_split_is_an_error():
    with pytest.raises(ValueError, match=r"split='valid'.*'train' and 'test'"):
        fashion_mnist("valid")


def test_the_builder_takes_the_first_of_every_class_in_order():
    path = _ROOT / "experiments" / "embed_fashion_mnist" / "run.py"
    spec = importlib.util.spec_from_file_location("embed_fashion_mnist", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    labels = np.tile(np.arange(10), 3)[::-1]
    images = np.arange(30).reshape(30, 1, 1)
    chosen = module.first(images, labels, 2).ravel()
    assert chosen.tolist() == [i for c in range(10) for i in (9 - c, 19 - c)]
