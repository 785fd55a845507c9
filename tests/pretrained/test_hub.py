"""Where checkpoints are found, and what is said when they are not."""

import hashlib

import pytest

from jaxdiff.pretrained.hub import locate, verify


def test_a_folder_is_itself(tmp_path):
    assert locate(tmp_path) == tmp_path


def test_what_is_neither_folder_nor_name(tmp_path):
    for name in (tmp_path / "nowhere", "just-a-word", "./a/b", "a/b/c"):
        with pytest.raises(ValueError, match="neither a folder here nor a name"):
            locate(name)


def test_without_network_and_without_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"not kept on this machine .* model_index\.json"):
        locate("nobody/never-fetched-this", offline=True)


def test_what_was_kept_is_found_and_compared(tmp_path, monkeypatch):
    """The layout of the hub's cache: snapshots of links to blobs named by their sha256."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    content, commit = b"weights", "c" * 40
    digest = hashlib.sha256(content).hexdigest()
    root = tmp_path / "models--owner--name"
    for part in ("blobs", f"snapshots/{commit}", "refs"):
        (root / part).mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs" / digest).write_bytes(content)
    link = root / "snapshots" / commit / "model.safetensors"
    link.symlink_to(root / "blobs" / digest)
    folder = locate("owner/name", offline=True)
    assert (folder / "model.safetensors").read_bytes() == content
    assert verify(folder) == ["model.safetensors"]
    (root / "blobs" / digest).write_bytes(b"weightz")
    with pytest.raises(ValueError, match="is damaged"):
        verify(folder)
