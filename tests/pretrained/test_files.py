"""Weights on the disk: whole, sharded, in variants; and every way in which they can be wrong."""

import json
import pathlib
import pickle

import ml_dtypes
import numpy as np
import pytest

from jaxdiff.pretrained.files import read_folder, read_tensors, write_tensors

TENSORS = {"a.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}


def _written(folder: pathlib.Path, name: str = "model.safetensors") -> pathlib.Path:
    write_tensors(folder / name, TENSORS)
    return folder / name


def _same(found: dict[str, np.ndarray]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        found[k].dtype == v.dtype and np.array_equal(found[k], v) for k, v in TENSORS.items()
    )


def test_round_trip_is_bit_equal(tmp_path):
    assert _same(read_tensors(_written(tmp_path)))


def test_bfloat16(tmp_path):
    value = np.array([1.0, -2.5], ml_dtypes.bfloat16)
    write_tensors(tmp_path / "x.safetensors", {"v": value})
    found = read_tensors(tmp_path / "x.safetensors")["v"]
    assert found.dtype == ml_dtypes.bfloat16
    assert np.array_equal(found, value)


@pytest.mark.parametrize("name", ["model", "diffusion_pytorch_model"])
@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
def test_a_folder_with_one_file(tmp_path, name, variant):
    _written(tmp_path, f"{name}.{variant}.safetensors" if variant else f"{name}.safetensors")
    assert _same(read_folder(tmp_path, variant=variant))
    assert _same(read_folder(tmp_path))  # the only one there is


def test_the_variant_that_was_asked_for(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"v": np.zeros(1)})
    write_tensors(tmp_path / "model.fp16.safetensors", {"v": np.ones(1)})
    assert read_folder(tmp_path)["v"] == 0
    assert read_folder(tmp_path, variant="fp16")["v"] == 1
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bf16\.safetensors"):
        read_folder(tmp_path, variant="bf16")


def _shards(folder: pathlib.Path, index: str = "model.safetensors.index.json") -> None:
    places = {}
    for i, (name, value) in enumerate(TENSORS.items()):
        write_tensors(folder / f"model-{i}.safetensors", {name: value})
        places[name] = f"model-{i}.safetensors"
    (folder / index).write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    ("index", "variant"),
    [
        ("model.safetensors.index.json", None),
        ("model.safetensors.index.fp16.json", "fp16"),
        ("model.fp16.safetensors.index.json", "fp16"),
    ],
)
def test_shards(tmp_path, index, variant):
    _shards(tmp_path, index)
    assert _same(read_folder(tmp_path, variant=variant))


def test_a_shard_that_is_not_there(tmp_path):
    _shards(tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names the shard 'model-1\.safetensors'"):
        read_folder(tmp_path)


def test_a_shard_outside_the_folder(tmp_path):
    _shards(tmp_path)
    places = {"a.weight": "../model-0.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match="names the shard"):
        read_folder(tmp_path)


def test_a_shard_without_its_tensor(tmp_path):
    _shards(tmp_path)
    write_tensors(tmp_path / "model-1.safetensors", {"c": np.ones(1)})
    with pytest.raises(ValueError, match="names 'b', which its shard"):
        read_folder(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 20, 100, -1])
def test_truncated(tmp_path, keep):
    path = _written(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        read_tensors(path)


def test_every_flipped_bit_is_found(tmp_path):
    """In the header or in the numbers: an error, or (a blank, say) the same tensors."""
    blob = _written(tmp_path).read_bytes()
    path, found = tmp_path / "flipped.safetensors", 0
    for place in range(0, len(blob), 3):
        path.write_bytes(
            blob[:place] + bytes([blob[place] ^ (1 << (place % 8))]) + blob[place + 1 :]
        )
        try:
            assert _same(read_tensors(path)), place
        except ValueError:
            found += 1
    assert found > 0.8 * len(blob) / 3


def _header(header: object, numbers: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


@pytest.mark.parametrize(
    "blob",
    [
        (2**60).to_bytes(8, "little") + b"{}",
        _header({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, b"0000"),
        _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"0000"),
        _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"0000"),
        _header({"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
        _header([1, 2]),
        b"\x80\x04\x95" + bytes(60),
    ],
    ids=["length", "shape", "outside", "negative", "type", "list", "pickle"],
)
def test_a_lying_header(tmp_path, blob):
    path = tmp_path / "x.safetensors"
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        read_tensors(path)


def test_the_sha256_that_was_expected(tmp_path):
    with pytest.raises(ValueError, match="has the sha256"):
        read_tensors(_written(tmp_path), sha256="0" * 64)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl"])
def test_pickles_are_refused_with_the_command(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="jaxdiff convert --unsafe-pickle"):
        read_tensors(path)
    with pytest.raises(ValueError, match="jaxdiff convert --unsafe-pickle"):
        read_folder(tmp_path)


def test_no_weights(tmp_path):
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(ValueError, match=r"holds no weights .* it holds readme\.md"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        read_folder(tmp_path / "nowhere")
