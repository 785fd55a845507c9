"""What the verbs read and write, and the small bar they show."""

import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from jaxdiff.data.folder import folder
from jaxdiff.data.picture import decode
from jaxdiff.data.sources import take
from jaxdiff.data.values import images_to_unit

_ARRAYS = (".npy", ".npz")


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a .npy file, or the only one of a .npz.

    Raises:
      ValueError: if it cannot be read, or there are several.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read as an array: {error}") from error
    if isinstance(found, np.ndarray):
        return found
    if len(found.files) != 1:
        raise ValueError(f"{path} holds {len(found.files)} arrays ({found.files}): one is needed")
    return found[found.files[0]]


def read_images(path: str, size: int, channels: int) -> Float[np.ndarray, "b h w c"]:
    """A picture (cropped, resized and converted), or an array as it is, with values in [-1, 1]."""
    file = pathlib.Path(path)
    if file.suffix in _ARRAYS:
        found = read_array(file)
        found = found[None] if found.ndim == 3 else found
        if found.shape[1:] != (size, size, channels):
            raise ValueError(
                f"{file} has shape {found.shape}: images [n, {size}, {size}, {channels}] are needed"
            )
        return _unit(found)
    return _unit(picture(file, size, channels)[None])


def _unit(images: np.ndarray) -> np.ndarray:
    """Bytes scaled to [-1, 1]; floats as they are, to be judged by whoever takes them."""
    return np.asarray(images_to_unit(images) if images.dtype == np.uint8 else images, np.float32)


def picture(file: pathlib.Path, size: int | None, channels: int) -> np.ndarray:
    """The pixels of a picture; what is wrong with it is said by name."""
    try:
        return decode(file, size, channels)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no picture {file}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error


def read_set(place: str) -> Float[np.ndarray, "n h w c"]:
    """All images of a folder (in the order of their names), or of an array, in [-1, 1]."""
    if pathlib.Path(place).suffix in _ARRAYS:
        found = read_array(place)
        if found.ndim != 4:
            raise ValueError(f"{place} has shape {found.shape}: images are [n, h, w, c]")
    else:
        images = folder(place, channels=None).images
        found = take(images, np.arange(len(images)))
    return _unit(found)


def chunks(n: int, size: int, what: str) -> Iterator[int]:
    """0, size, 2 size ... below n, with a bar on a terminal."""
    for start in range(0, n, size):
        yield start
        if sys.stderr.isatty():
            print(f"\r{what} {min(start + size, n)}/{n}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
