"""Make jaxdiff/data/fashion_mnist.xz from the four official idx files. Standard library and numpy.

    python experiments/embed_fashion_mnist/run.py FOLDER [OUTPUT]

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz of https://github.com/zalandoresearch/fashion-mnist.
"""

import gzip
import hashlib
import lzma
import pathlib
import sys

import numpy as np

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "jaxdiff" / "data" / "fashion_mnist.xz"
# A byte is predicted from the four high bits of its left neighbour (lc), not from its position
# modulo 4 (pb, lp), which means nothing in pictures.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]


def read(folder: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28] and labels [n] of one official part, 'train' or 't10k'."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8)


def first(images: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The first `count` images of every class, sorted by class, in the order of the file."""
    return np.concatenate([images[np.flatnonzero(labels == c)[:count]] for c in range(10)])


def main() -> None:
    """Read, choose, compress, write, and say what was written."""
    folder = pathlib.Path(sys.argv[1])
    output = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else OUTPUT
    chosen = [first(*read(folder, "train"), 1000), first(*read(folder, "t10k"), 100)]
    raw = np.concatenate(chosen).tobytes()
    packed = lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=FILTERS)
    assert lzma.decompress(packed) == raw
    output.write_bytes(packed)
    print(f"{output}: {len(packed)} bytes for {len(raw)}")
    print("sha256 of the file  ", hashlib.sha256(packed).hexdigest())
    print("sha256 of the pixels", hashlib.sha256(raw).hexdigest())


if __name__ == "__main__":
    main()
