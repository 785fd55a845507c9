"""Pickled weights, for those who insist: reading one runs whatever code its author put into it.

Nothing else of the library reads a pickle. `read_pickle` exists so that a checkpoint whose maker is
trusted can be turned into safetensors once, away from everything else.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def read_pickle(path: str | pathlib.Path, *, key: str = "") -> dict[str, np.ndarray]:
    """The tensors of a pickled checkpoint, by dotted names. RUNS THE CODE IN THE FILE.

    Args:
      path: a .pt, .pth, .ckpt, .bin or .pkl.
      key: the part to take, such as "state_dict" or "ema"; by default the whole.

    Raises:
      ValueError: if there is no such part, or no tensors in it.
      ModuleNotFoundError: if PyTorch is not installed.
    """
    import torch  # pyright: ignore[reportMissingImports]

    found: Any = torch.load(str(path), map_location="cpu", weights_only=False)
    for name in filter(None, key.split(".")):
        if not isinstance(found, Mapping) or name not in found:
            held = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found)
            raise ValueError(f"{path} has no part {name!r}; it holds {held}")
        found = found[name]
    tensors = {name: _array(value) for name, value in _flat(found, "")}
    if not tensors:
        raise ValueError(f"{path}{' at ' + key if key else ''} holds no tensors")
    return tensors


def _flat(found: Any, prefix: str) -> list[tuple[str, Any]]:
    if hasattr(found, "state_dict"):
        found = found.state_dict()
    if hasattr(found, "detach") or isinstance(found, np.ndarray):
        return [(prefix.removesuffix("."), found)]
    if not isinstance(found, Mapping):
        return []
    return [pair for name, value in found.items() for pair in _flat(value, f"{prefix}{name}.")]


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":
        import ml_dtypes

        return value.float().numpy().astype(ml_dtypes.bfloat16)
    return value.numpy()
