"""The verb `convert`, and the only door through which a pickle comes in."""

import json
import pickle

import numpy as np
import pytest

from jaxdiff.cli import main
from jaxdiff.pretrained.files import read_tensors, write_tensors


class _Trap:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", ["pt", "ckpt", "pkl", "bin", "safetensors"])
def test_no_code_of_a_file_is_run(tmp_path, capsys, suffix):
    mark = tmp_path / "ran"
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(_Trap(mark)))
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    assert not mark.exists()
    said = capsys.readouterr().err
    assert "--unsafe-pickle" in said or "no whole safetensors file" in said


def test_copying_adds_digests(tmp_path, capsys):
    write_tensors(tmp_path / "a.safetensors", {"x": np.arange(3.0)})
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]) == 0
    assert read_tensors(tmp_path / "b.safetensors")["x"].tolist() == [0, 1, 2]
    assert "1 tensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere.pt", "b.safetensors"], "there is no nowhere.pt"),
        (["a.safetensors", "folder"], "without --config it is a .safetensors file"),
        (["a.safetensors", "folder", "--config", "c.json"], "which jaxdiff does not have"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    write_tensors(tmp_path / "a.safetensors", {"x": np.arange(3.0)})
    (tmp_path / "c.json").write_text(json.dumps({"_class_name": "Nothing"}))
    assert main(["convert", *argv]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.torch
def test_a_trusted_pickle(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    state = {"ema": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).bfloat16()}}
    torch.save({**state, "step": 3}, tmp_path / "m.pt")
    argv = ["convert", str(tmp_path / "m.pt"), str(tmp_path / "m.safetensors"), "--unsafe-pickle"]
    assert main([*argv, "--key", "ema"]) == 0
    found = read_tensors(tmp_path / "m.safetensors")
    assert found["a.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].dtype == "bfloat16"
    assert "runs whatever code" in capsys.readouterr().err
    assert main([*argv, "--key", "nothing"]) == 2
    assert "has no part 'nothing'; it holds ema, step" in capsys.readouterr().err
