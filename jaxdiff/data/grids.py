"""Pictures of what a model made: images side by side, points as a density."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxdiff.data.values import to_uint8


def tiled(
    images: UInt8[np.ndarray, "n h w c"], *, columns: int | None = None, gap: int = 2
) -> UInt8[np.ndarray, "height width c"]:
    """Images in rows of `columns` (about square without), `gap` white pixels between them.

    >>> tiled(np.zeros((3, 4, 4, 1), np.uint8), columns=2, gap=1).shape
    (9, 9, 1)
    """
    n, h, w, c = images.shape
    wide = min(n, columns or math.ceil(math.sqrt(n)))
    rows = -(-n // wide)
    page = np.full((rows * (h + gap) - gap, wide * (w + gap) - gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // wide) * (h + gap), (i % wide) * (w + gap)
        page[top : top + h, left : left + w] = image
    return page


def density(points: Float[np.ndarray, "n 2"], *, size: int = 256) -> UInt8[np.ndarray, "h w 1"]:
    """Points of the plane as a picture of how many fall where, x to the right and y up.

    >>> density(np.zeros((5, 2)), size=8).shape
    (8, 8, 1)
    """
    reach = max(float(np.abs(points).max(initial=0.0)) * 1.05, 1e-6)
    counts, _, _ = np.histogram2d(*points.T, bins=size, range=[[-reach, reach]] * 2)
    dark = np.sqrt(counts.T[::-1] / max(counts.max(), 1))
    return (255 - np.round(255 * dark)).astype(np.uint8)[..., None]


def write_grid(
    path: str | os.PathLike[str],
    x: Any,
    *,
    columns: int | None = None,
    zoom: int = 1,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write images as one PNG.

    Args:
      path: of the file; its folder is made.
      x: [n, h, w, c], floats in [-1, 1] or uint8; c is 1, 3 or 4.
      columns: images a row.
      zoom: every pixel becomes zoom x zoom.
      recipe: how they were made, kept in the file for `read_recipe`.

    Raises:
      OSError: if the file cannot be written; the message names it.
      ValueError: if the images hold NaN.
    """
    values = np.asarray(x)
    bytes_ = values if values.dtype == np.uint8 else np.asarray(to_uint8(values))
    page = tiled(bytes_, columns=columns)
    _write(path, page.repeat(zoom, 0).repeat(zoom, 1), recipe)


def write_picture(
    path: str | os.PathLike[str],
    x: Any,
    *,
    columns: int | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write samples as one PNG: images [n, h, w, c] as a grid, points [n, 2] as a density.

    `recipe`, how they were made, is kept in the file for `read_recipe`.
    """
    if np.ndim(x) == 4:
        zoom = max(1, 64 // np.shape(x)[1])
        write_grid(path, x, columns=columns, zoom=zoom, recipe=recipe)
    elif np.ndim(x) == 2 and np.shape(x)[1] == 2:
        _write(path, density(np.asarray(x)), recipe)
    else:
        raise ValueError(f"samples of shape {np.shape(x)} have no picture: [n, h, w, c] or [n, 2]")


def write_beside(
    path: str | os.PathLike[str], files: Sequence[str | os.PathLike[str]], *, gap: int = 12
) -> None:
    """Write grey pictures beside one another as one PNG, `gap` white pixels between them."""
    from PIL import Image

    pages = []
    for file in files:
        with Image.open(file) as image:
            pages.append(np.asarray(image.convert("L")))
    height = max(page.shape[0] for page in pages)
    padded = [
        np.pad(page, ((0, height - page.shape[0]), (0, gap)), constant_values=255) for page in pages
    ]
    _write(path, np.concatenate(padded, axis=1)[:, :-gap, None])


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How a picture of this library was made, as its file says.

    Raises:
      ValueError: if it is no picture, or does not say.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = image.info.get(_KEY)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    if text is None:
        raise ValueError(f"{path} does not say how it was made: it was written by something else")
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: what it says of how it was made is damaged") from error


_KEY = "jaxdiff"


def _write(
    path: str | os.PathLike[str], page: np.ndarray, recipe: Mapping[str, Any] | None = None
) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    file = pathlib.Path(path)
    said: dict[str, Any] = {}
    if recipe is not None and file.suffix == ".png":
        info = PngInfo()
        info.add_itxt(_KEY, json.dumps(dict(recipe), ensure_ascii=False))
        said = {"pnginfo": info}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page[..., 0] if page.shape[-1] == 1 else page).save(file, **said)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"the picture {file} cannot be written: {reason}") from error
    except ValueError as error:
        raise ValueError(
            f"the picture {file} cannot be written: {error}; end it in .png"
        ) from error
