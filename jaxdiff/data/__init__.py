"""Where batches come from: sources of images, toys in the plane, shuffled and resumable loading.

A source gives uint8 images and labels, `loader` (from the host) or `resident_batch` (from the
device) gives batches in [-1, 1]. Grain, TFDS and Pillow are imported when they are first needed.
"""

from jaxdiff.data import augment, toys
from jaxdiff.data.folder import folder
from jaxdiff.data.loader import Batches, loader
from jaxdiff.data.resident import Resident, resident, resident_batch
from jaxdiff.data.sources import Source, arrays, fashion_mnist
from jaxdiff.data.stock import tfds
from jaxdiff.data.values import images_to_unit, to_uint8

__all__ = [
    "Batches",
    "Resident",
    "Source",
    "arrays",
    "augment",
    "fashion_mnist",
    "folder",
    "images_to_unit",
    "loader",
    "resident",
    "resident_batch",
    "tfds",
    "to_uint8",
    "toys",
]
