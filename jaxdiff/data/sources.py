"""Sources: images with labels, on the host, as they are stored.

A source is a NamedTuple of columns of equal length. A column is an array or anything with `len`
and `[i]`, so a set may be larger than memory. Nothing is scaled or shuffled here.
"""

import lzma
import warnings
from importlib import resources
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.data.values import check_images

FASHION_MNIST_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""What the labels 0 ... 9 of Fashion-MNIST mean."""

_PER_CLASS = {"train": 1000, "test": 100}  # the file holds train, then test, each sorted by class


class Source(NamedTuple):
    """Images and what is known about them, row by row.

    `images` uint8 [n, h, w, c], or random access to n images (`len`, `[i]`, and where it pays
    `__getitems__(list)`); float data [n, ...] passes unscaled. `labels` int32 [n] (or any [n, ...]
    that should become the condition, or random access, or None); `classes` how many, 0 if none;
    `names` of the classes; `captions` n strings, or None.
    """

    images: Any
    labels: Any = None
    classes: int = 0
    names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None


def arrays(images: Any, labels: Any = None, *, names: tuple[str, ...] = ()) -> Source:
    """A source from arrays in memory.

    `images` [n, h, w, c], uint8 in 0 ... 255 or float in [-1, 1]; `labels` [n] whole numbers from 0
    up, or None; `names` one per class (without: as many classes as the largest label asks for).
    Errors: ValueError for another shape, type or range, NaN (with count and first index), labels
    that do not fit. A warning for floats that all lie in [0, 1]: half of the range of a model.

    >>> arrays(np.zeros((4, 8, 8, 1), np.uint8), [0, 1, 2, 1]).classes
    3
    """
    images = np.asarray(images)
    check_images(images)
    if images.dtype != np.uint8:
        _warn_of_half_range(images)
        images = images.astype(np.float32)
    if labels is None:
        return Source(images)
    labels = _check_labels(np.asarray(labels), len(images))
    classes = len(names) or int(labels.max()) + 1
    if labels.max() >= classes:
        raise ValueError(f"labels go up to {labels.max()}, but names has {classes} entries")
    return Source(images, labels, classes, tuple(names))


def fashion_mnist(split: str) -> Source:
    """The part of Fashion-MNIST in the package: grey, 28 x 28, balanced, sorted by class.

    `split` "train" (10,000 images: the first 1,000 of each class of the official training set) or
    "test" (1,000: the first 100 of each class of the official test set). MIT licence, Zalando SE,
    in FASHION_MNIST_LICENSE beside the data. Errors: ValueError for another split.

    Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747.

    >>> source = fashion_mnist("test")
    >>> source.images.shape, source.names[int(source.labels[-1])]
    ((1000, 28, 28, 1), 'Ankle boot')
    """
    if split not in _PER_CLASS:
        raise ValueError(f"split={split!r}: Fashion-MNIST has the splits 'train' and 'test'")
    packed = resources.files("jaxdiff.data").joinpath("fashion_mnist.xz").read_bytes()
    images = np.frombuffer(lzma.decompress(packed), np.uint8).reshape(-1, 28, 28, 1)
    classes = len(FASHION_MNIST_NAMES)
    border = classes * _PER_CLASS["train"]
    part = images[:border] if split == "train" else images[border:]
    labels = np.repeat(np.arange(classes, dtype=np.int32), _PER_CLASS[split])
    return Source(part, labels, classes, FASHION_MNIST_NAMES)


def take(column: Any, index: np.ndarray) -> np.ndarray:
    """The rows `index` of a column: by indexing an array, else one by one and stacked."""
    if isinstance(column, np.ndarray | jax.Array):
        return np.asarray(column)[index]
    wanted = [int(i) for i in index]
    if hasattr(column, "__getitems__"):
        return np.stack(column.__getitems__(wanted))
    return np.stack([column[i] for i in wanted])


def check_source(source: Source) -> int:
    """The number of rows. Errors: ValueError if there are none or the columns differ in length."""
    n = len(source.images)
    if n == 0:
        raise ValueError("source.images is empty: a source needs at least one row")
    for name in ("labels", "captions"):
        column = getattr(source, name)
        if column is not None and len(column) != n:
            raise ValueError(f"source.{name} has {len(column)} rows and source.images {n}")
    return n


def _warn_of_half_range(images: np.ndarray) -> None:
    low, high = float(images.min()), float(images.max())
    if 0 <= low < high:
        warnings.warn(
            f"images has values from {low} to {high} only: models work in [-1, 1]; if these are in "
            "[0, 1], pass 2 * images - 1",
            stacklevel=3,
        )


def _check_labels(labels: np.ndarray, n: int) -> np.ndarray:
    if labels.shape != (n,):
        raise ValueError(f"labels has shape {labels.shape}: {n} images need labels of shape ({n},)")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            f"labels has dtype {labels.dtype} and smallest value {labels.min()}: labels are whole "
            "numbers from 0 up"
        )
    return labels.astype(np.int32)
