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

import numpy as np

_KIND = "jaxdiff.sha256"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def read_tensors(path: str | pathlib.Path, *, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read a safetensors file: name -> numpy array, bfloat16 included.

    Args:
      path: the file.
      sha256: of the whole file, in hex; compared if given.

    Raises:
      ValueError: if the file is a pickle, is truncated, has a header that does not describe it, or
        does not have the sha256 that is expected.
    """
    path = pathlib.Path(path)
    _refuse_pickle(path)
    blob = path.read_bytes()
    if sha256 is not None and hashlib.sha256(blob).hexdigest() != sha256.lower():
        raise ValueError(
            f"{path} has the sha256 {hashlib.sha256(blob).hexdigest()}, not {sha256}: it is "
            "damaged or another file; fetch it again"
        )
    import safetensors
    import safetensors.numpy

    try:
        tensors = safetensors.numpy.load(blob)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): it is truncated, damaged or of "
            "another kind; fetch it again"
        ) from error
    _compare(path, tensors, _metadata(blob))
    return tensors


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

    Equal tensors give equal bytes. Other readers of the format see nothing unusual.
    """
    import safetensors.numpy

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


def _metadata(blob: bytes) -> Mapping[str, str]:
    size = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + size]).get("__metadata__", {})


def _compare(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    for name, digest in json.loads(metadata.get(_KIND, "{}")).items():
        if name not in tensors or _digest(tensors[name]) != digest:
            raise ValueError(
                f"{path}: the tensor {name!r} does not have the sha256 that it was written with; "
                "the file is damaged: fetch or write it again"
            )


def _digest(value: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
