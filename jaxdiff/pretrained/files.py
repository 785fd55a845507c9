"""Weights on the disk: safetensors, whole or in shards, checked before a number is believed.

A safetensors file is eight bytes of length, a JSON header with the shape, type and place of every
tensor, and the numbers. A truncated file or a header that lies is refused here. Flipped bits among
the numbers leave no trace in the format itself; files written by `write_tensors` carry the sha256
of every tensor in their header, which is compared on reading, and for other files `sha256` may be
given.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

_KIND = "jaxdiff.sha256"
_TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def read_tensors(path: str | pathlib.Path, *, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read a safetensors file: name -> numpy array on the mapped file, bfloat16 included.

    Args:
      path: the file.
      sha256: of the whole file, in hex; compared if given.

    Raises:
      ValueError: if the file is a pickle, is truncated, has a header that does not describe it, or
        does not have the sha256 that is expected.
    """
    path = pathlib.Path(path)
    _refuse_pickle(path)
    if sha256 is not None and (found := sha256_of(path)) != sha256.lower():
        raise ValueError(
            f"{path} has the sha256 {found}, not {sha256}: it is damaged or another file; fetch it "
            "again"
        )
    header, start = _header(path)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        shape, dtype = tuple(entry["shape"]), np.dtype(_TYPES[entry["dtype"]])
        # A map of an empty tensor is refused by the system.
        tensors[name] = (
            np.memmap(path, dtype, "r", start + first, shape)
            if last > first
            else np.zeros(shape, dtype)
        )
    _compare(path, tensors)
    return tensors


def sha256_of(path: str | pathlib.Path) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_folder(
    folder: str | pathlib.Path, *, variant: str | None = None, stem: str | None = None
) -> dict[str, np.ndarray]:
    """Read the weights in a folder: one file, or the shards that its index names.

    Args:
      folder: with `diffusion_pytorch_model.safetensors`, `model.safetensors`, either with a
        variant before the suffix (`model.fp16.safetensors`), or `....safetensors.index.json`.
      variant: "fp16" or "bf16" to prefer that; None takes the plain one, or the only one.
      stem: of the file's name, if it is another.

    Raises:
      ValueError: no weights, only pickled ones, several variants to choose from, or shards that do
        not hold what the index says.
    """
    folder = pathlib.Path(folder)
    found = _choose(folder, variant, stem)
    if found.suffix != ".json":
        return read_tensors(found)
    places: Mapping[str, str] = json.loads(found.read_text())["weight_map"]
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(places.values())):
        if pathlib.PurePath(shard).name != shard or not (folder / shard).is_file():
            raise ValueError(f"{found} names the shard {shard!r}, which is not in {folder}")
        tensors |= read_tensors(folder / shard)
    lost = [name for name in places if name not in tensors]
    if lost:
        raise ValueError(f"{found} names {lost[0]!r}, which its shard {places[lost[0]]} lacks")
    return tensors


def write_tensors(path: str | pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file with the sha256 of every tensor in its header.

    Other readers of the format see nothing unusual.
    """
    digests = {name: _digest(value) for name, value in sorted(tensors.items())}
    metadata = {"format": "pt", _KIND: json.dumps(digests)}
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(dict(tensors), str(path), metadata=metadata)


def _choose(folder: pathlib.Path, variant: str | None, stem: str | None) -> pathlib.Path:
    stems = [stem] if stem else ["diffusion_pytorch_model", "model"]
    variants: Sequence[str | None] = [variant] if variant else [None, "fp16", "bf16"]
    for kind in variants:
        for name in stems:
            for file in _spellings(name, kind):
                if (folder / file).is_file():
                    return folder / file
    _complain(folder, variant, stems)
    raise AssertionError


def _spellings(stem: str, variant: str | None) -> list[str]:
    middle = f".{variant}" if variant else ""
    return [
        f"{stem}{middle}.safetensors",
        f"{stem}.safetensors.index{middle}.json",
        f"{stem}{middle}.safetensors.index.json",
    ]


def _complain(folder: pathlib.Path, variant: str | None, stems: Sequence[str]) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one that holds config.json and weights")
    names = sorted(p.name for p in folder.iterdir())
    for path in folder.iterdir():
        _refuse_pickle(path)
    wanted = f"{stems[0]}{'.' + variant if variant else ''}.safetensors"
    raise ValueError(
        f"{folder} holds no weights that jaxdiff reads ({wanted} or its shards); it holds "
        f"{', '.join(names[:8]) or 'nothing'}"
    )


def _refuse_pickle(path: pathlib.Path) -> None:
    if path.suffix in _PICKLES:
        raise ValueError(
            f"{path} is a pickle: reading it runs whatever code it holds, so jaxdiff does not. If "
            f"you trust who made it: jaxdiff convert --unsafe-pickle {path} {path.stem}.safetensors"
        )


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Name -> shape, type and place, as the library has checked them; where the numbers begin."""
    try:
        with safetensors.safe_open(str(path), "np"), open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            for entry in header.values():
                _ = _TYPES[entry["dtype"]]
            return header, 8 + size
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): it is truncated, damaged or of "
            "another kind; fetch it again"
        ) from error


def _compare(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    with safetensors.safe_open(str(path), "np") as file:
        metadata = file.metadata() or {}
    for name, digest in _digests(path, metadata).items():
        if name not in tensors or _digest(tensors[name]) != digest:
            raise ValueError(
                f"{path}: the tensor {name!r} does not have the sha256 that it was written with; "
                "the file is damaged: fetch or write it again"
            )


def _digests(path: pathlib.Path, metadata: Mapping[str, str]) -> Mapping[str, str]:
    try:
        found = json.loads(metadata.get(_KIND, "{}"))
        return dict(found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: the header's {_KIND} is damaged: fetch it again") from error


def _digest(value: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
