"""A folder of images as a source: class folders, a flat folder, or a captions file with the images.

    folder/cats/a.png    folder/a.png    folder/captions.txt    a.png<TAB>a grey cat
    folder/dogs/b.jpg    folder/b.jpg    folder/captions.jsonl  {"file": "a.png", "text": "a cat"}

Files are taken in sorted order, so the same folder gives the same source on every machine.
"""

import os
import pathlib
import struct
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.captions import beside, read_captions
from jaxdiff.data.picture import SUFFIXES, check_wanted, decode
from jaxdiff.data.sources import Source

_AT_ONCE = 256  # files that are decoded ahead
_SHOWN = 5  # files that an error names


@dataclass(frozen=True)
class Pictures:
    """Random access to image files, decoded at every access: `[i]` is uint8 [h, w, c]."""

    files: tuple[pathlib.Path, ...]
    size: int | None
    channels: int | None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w c"]:
        return decode(self.files[i], self.size, self.channels)


class _Listing(NamedTuple):
    """The files of a folder in order, and what is known about each."""

    files: list[pathlib.Path]
    labels: list[int] | None = None
    names: tuple[str, ...] = ()
    captions: list[str] | None = None


def folder(
    path: str | os.PathLike,
    *,
    size: int | None = None,
    channels: int | None = 3,
    captions: str | os.PathLike | None = None,
    on_error: str = "raise",
    lazy: bool = False,
) -> Source:
    """A source from the images under `path`.

    `size` s crops the middle square and resamples it to s x s with antialiasing; `channels` 1, 3
    (transparent parts on white) or 4; None keeps either, and then all must agree. `captions` is a
    captions file, else captions.txt or captions.jsonl in the folder; it names files, one a line.
    Without one every subfolder with images is a class; without those it is one set, unlabelled.
    Names that begin with a dot or two underscores are passed over. Every file is decoded once here;
    `lazy` keeps no pixels and decodes again at every access, for sets larger than memory.
    `on_error` "raise", or "skip": leave unreadable images out, with one warning that counts them.

    Errors: FileNotFoundError, NotADirectoryError; ValueError for no images, loose images beside
    class folders, an empty class, a malformed captions file, mixed sizes or channels, unreadable
    images (all counted, the first named; also those above PIL.Image.MAX_IMAGE_PIXELS).

    >>> folder("no/such/place")
    Traceback (most recent call last):
    FileNotFoundError: path='no/such/place': there is no such folder
    """
    root = pathlib.Path(path)
    _check(root, os.fspath(path), on_error)
    check_wanted(size, channels)
    listing = _listing(root, captions)
    kept, images = _read_all(listing.files, size, channels, on_error, lazy)
    labels = None if listing.labels is None else np.array(listing.labels, np.int32)[kept]
    texts = None if listing.captions is None else tuple(listing.captions[i] for i in kept)
    return Source(images, labels, len(listing.names), listing.names, texts)


def _check(root: pathlib.Path, given: str, on_error: str) -> None:
    if not root.exists():
        raise FileNotFoundError(f"path={given!r}: there is no such folder")
    if not root.is_dir():
        raise NotADirectoryError(f"path={given!r} is a file: name the folder that holds the images")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: it must be 'raise' or 'skip'")


def _listing(root: pathlib.Path, captions: str | os.PathLike | None) -> _Listing:
    """What is in the folder: by its captions, its class folders, or flat."""
    captions = beside(root) if captions is None else pathlib.Path(captions)
    if captions is not None:
        pairs = read_captions(captions)
        return _Listing([root / file for file, _ in pairs], captions=[text for _, text in pairs])
    subfolders = [entry for entry in _visible(root) if entry.is_dir()]
    if any(_images(entry) for entry in subfolders):
        return _classes(root, subfolders)
    return _Listing(_some(root, _images(root, deep=False)))


def _classes(root: pathlib.Path, classes: list[pathlib.Path]) -> _Listing:
    loose = _images(root, deep=False)
    if loose:
        raise ValueError(
            f"{root} holds class folders ({classes[0].name}, ...) and {len(loose)} loose images "
            f"({loose[0].name}, ...): move those into a class folder"
        )
    found = [_some(entry, _images(entry)) for entry in classes]
    labels = [label for label, files in enumerate(found) for _ in files]
    files = [file for files in found for file in files]
    return _Listing(files, labels, tuple(entry.name for entry in classes))


def _visible(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(e for e in root.iterdir() if not e.name.startswith((".", "__")))


def _images(root: pathlib.Path, deep: bool = True) -> list[pathlib.Path]:
    """The image files under a folder, in sorted order."""
    found: list[pathlib.Path] = []
    for entry in _visible(root):
        if entry.is_dir() and deep:
            found += _images(entry)
        elif entry.suffix.lower() in SUFFIXES and entry.is_file():
            found.append(entry)
    return found


def _some(root: pathlib.Path, files: list[pathlib.Path]) -> list[pathlib.Path]:
    if not files:
        raise ValueError(f"{root} holds no images: files that end in {', '.join(SUFFIXES)} count")
    return files


def _try(
    size: int | None, channels: int | None, file: pathlib.Path
) -> UInt8[np.ndarray, "h w c"] | str:
    """The pixels of a file, or what is wrong with it."""
    from PIL import Image

    broken = (OSError, SyntaxError, ValueError, EOFError, struct.error)
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        return decode(file, size, channels)
    except (*broken, *bombs) as error:
        # Pillow repeats the full name in some messages; the caller names the file itself.
        return str(error).replace(repr(str(file)), "it") or type(error).__name__


def _decoded(
    files: list[pathlib.Path], size: int | None, channels: int | None
) -> Iterator[np.ndarray | str]:
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _AT_ONCE):
            yield from pool.map(partial(_try, size, channels), files[start : start + _AT_ONCE])


def _read_all(
    files: list[pathlib.Path],
    size: int | None,
    channels: int | None,
    on_error: str,
    lazy: bool,
) -> tuple[list[int], np.ndarray | Pictures]:
    """Which files are readable, and their images: stacked, or (lazy) on access."""
    kept: list[int] = []
    images: list[np.ndarray] = []
    wrong: list[str] = []
    shape: tuple[int, ...] = ()
    for i, found in enumerate(_decoded(files, size, channels)):
        if isinstance(found, str):
            wrong.append(f"{files[i]} ({found})")
            continue
        shape = shape or found.shape
        if found.shape != shape:
            raise ValueError(_mixed(files[kept[0]], shape, files[i], found.shape))
        kept.append(i)
        images += [] if lazy else [found]
    _report(wrong, len(files), on_error)
    if lazy:
        return kept, Pictures(tuple(files[i] for i in kept), size, channels)
    return kept, np.stack(images)


def _mixed(one: pathlib.Path, shape: tuple, other: pathlib.Path, shape2: tuple) -> str:
    sizes, channels = shape[:2] != shape2[:2], shape[2] != shape2[2]
    what = " and ".join(["sizes"] * sizes + ["channels"] * channels)
    fix = " and ".join(["size=64 (say)"] * sizes + ["channels=3"] * channels)
    return f"images of mixed {what}: {one} is {shape}, {other} is {shape2}: pass {fix}"


def _report(wrong: list[str], total: int, on_error: str) -> None:
    if not wrong:
        return
    shown = "; ".join(wrong[:_SHOWN]) + ("; ..." if len(wrong) > _SHOWN else "")
    if on_error == "raise" or len(wrong) == total:
        hint = "" if len(wrong) == total else "; on_error='skip' leaves them out"
        raise ValueError(f"{len(wrong)} of {total} images are unreadable: {shown}{hint}")
    warnings.warn(f"skipped {len(wrong)} of {total} unreadable images: {shown}", stacklevel=4)
