"""One image file to bytes [h, w, c], the same on every machine."""

import os
from typing import Any

import numpy as np
from jaxtyping import UInt8

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The file names that count as images, in lower case."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def check_wanted(size: int | None, channels: int | None) -> None:
    """Raise ValueError unless `size` and `channels` are ones that `decode` can make."""
    if size is not None and size < 1:
        raise ValueError(f"size={size}: it must be at least 1 pixel, or None to keep sizes")
    if channels is not None and channels not in _MODES:
        raise ValueError(f"channels={channels}: it must be 1, 3, 4, or None to keep them")


def decode(
    path: str | os.PathLike, size: int | None, channels: int | None
) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of a file: turned as its EXIF data says, brought to `channels` and `size`.

    `size` s: the largest square in the middle, resampled to [s, s] with antialiasing (Lanczos);
    `channels` 1, 3 (transparent parts on white) or 4; None keeps either. 16-bit grey is divided by
    257. Of an animation the first frame is taken.
    Errors: OSError, SyntaxError, ValueError or DecompressionBombError, by what is wrong.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        _check_bomb(opened.size, Image.MAX_IMAGE_PIXELS)
        return fitted(ImageOps.exif_transpose(opened), size, channels)


def fitted(image: Any, size: int | None, channels: int | None) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of an open PIL image in the wanted channels and size; see `decode`."""
    from PIL import Image

    image = _in_mode(image, channels)
    if size is not None:
        # Cropped first: a resize of the region alone would let what lies outside bleed in.
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _in_mode(image: Any, channels: int | None) -> Any:
    """The image as L, RGB or RGBA, without the clipping that `convert` does to deep grey."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has 32 bits a pixel: convert it to 8 bits first")
    if channels is None:
        channels = _own_channels(image)
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(_MODES[channels])


def _own_channels(image: Any) -> int:
    if image.has_transparency_data:
        return 4
    return 1 if image.mode in ("1", "L") else 3


def _check_bomb(size: tuple[int, int], limit: int | None) -> None:
    # Pillow itself only warns between the limit and twice the limit.
    if limit is not None and size[0] * size[1] > limit:
        raise ValueError(
            f"{size[0]} x {size[1]} pixels exceed PIL.Image.MAX_IMAGE_PIXELS = {limit}"
        )
