"""Data sets of TFDS by name, read at random without TensorFlow.

TensorFlow is needed only to PREPARE most stock sets, once, on any machine: the extra `tfds`.
"""

import difflib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdiff.data.picture import fitted
from jaxdiff.data.sources import Source


@dataclass(frozen=True)
class Column:
    """One feature of a TFDS data source, with random access: `[i]` is an array."""

    rows: Any
    feature: str
    size: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        return self._array(self.rows[i])

    def __getitems__(self, wanted: list[int]) -> list[np.ndarray]:
        return [self._array(row) for row in self.rows.__getitems__(wanted)]

    def _array(self, row: dict[str, Any]) -> np.ndarray:
        value = np.asarray(row[self.feature])
        if self.size is None:
            return value
        from PIL import Image

        channels = value.shape[-1]
        image = Image.fromarray(value[..., 0] if channels == 1 else value)
        return fitted(image, self.size, channels)


def tfds(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    *,
    size: int | None = None,
    image: str = "image",
    label: str | None = "label",
) -> Source:
    """A source that reads a prepared TFDS data set in place.

    `name` as TFDS writes it ("cifar10", "my_set/config:1.0.0"); `split` with TFDS's slices
    ("train[:90%]"); `data_dir` where sets lie (TFDS's own default: ~/tensorflow_datasets); `size` s
    crops the middle square of each image and resamples it to s x s; `image` and `label` the names
    of the features, `label` None for none. Images and labels are read at access; `resident` reads
    them all.
    Errors: ValueError for an unknown name, split or feature, for images that vary in size without
    `size`, for a set in a format without random access; FileNotFoundError, with the command that
    prepares it, for a set that is not prepared.

    >>> tfds("cifar_10", "train", "no/such/place")
    Traceback (most recent call last):
    ValueError: name='cifar_10': TFDS knows no such set ...; did you mean cifar10 or ...
    """
    builder = _builder(name, data_dir)
    _check_prepared(builder, name)
    features = builder.info.features
    _check_image(features, image, size)
    images = Column(_open(builder, split), image, size)
    if label is None:
        return Source(images)
    names = _class_names(features, label)
    # Labels are read apart from the images, so their pixels stay encoded.
    undecoded = {image: _module().decode.SkipDecoding()}
    return Source(images, Column(_open(builder, split, undecoded), label), len(names), names)


def _module() -> Any:
    """TFDS, or an error that says what to install."""
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"TFDS cannot be imported, {error.name} is missing: pip install tensorflow-datasets "
            "importlib_resources"
        ) from error
    return tensorflow_datasets


def _builder(name: str, data_dir: str | os.PathLike | None) -> Any:
    module = _module()
    try:
        return module.builder(name, data_dir=data_dir)
    except ValueError as error:
        # TFDS's own message lists every set that it knows, which is pages.
        near = difflib.get_close_matches(
            name, module.list_builders(with_community_datasets=False), 3
        )
        hint = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets"
        raise ValueError(
            f"name={name!r}: TFDS knows no such set and data_dir={str(data_dir)!r} holds none; "
            f"{hint}"
        ) from error


def _check_prepared(builder: Any, name: str) -> None:
    place = builder.data_dir
    command = (
        "prepare it once, where TensorFlow is installed (pip install 'jaxdiff[tfds]'): "
        f"tensorflow_datasets.builder({name!r}, data_dir=..., file_format='array_record')"
        ".download_and_prepare()"
    )
    if not builder.is_prepared():
        raise FileNotFoundError(f"name={name!r} is not prepared under {place}: {command}")
    formats = {str(f.value) for f in builder.info.available_file_formats()}
    if not formats & {"array_record", "parquet"}:
        raise ValueError(
            f"name={name!r} is prepared under {place} as {', '.join(sorted(formats))}, which has "
            f"no random access: {command}, with another data_dir"
        )


def _check_image(features: Any, image: str, size: int | None) -> None:
    if image not in features:
        raise ValueError(f"image={image!r}: the features of this set are {', '.join(features)}")
    feature = features[image]
    if len(feature.shape) != 3 or np.dtype(feature.np_dtype) != np.uint8:
        raise ValueError(
            f"image={image!r} has shape {feature.shape} and dtype {np.dtype(feature.np_dtype)}: "
            "images are [h, w, c] uint8"
        )
    if size is None and None in feature.shape:
        raise ValueError(f"the images have shape {feature.shape}, so they vary: pass size=64 (say)")


def _class_names(features: Any, label: str) -> tuple[str, ...]:
    classes = {k: features[k].names for k in features if hasattr(features[k], "names")}
    if label not in classes:
        raise ValueError(
            f"label={label!r} is no class label of this set; it has {list(classes) or 'none'}: "
            "name one, or pass label=None"
        )
    return tuple(classes[label])


def _open(builder: Any, split: str, decoders: Any = None) -> Any:
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except ValueError as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"split={split!r}: this set has {known}, and slices of them") from error
