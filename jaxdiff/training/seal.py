"""The seal of a checkpoint: what it holds, and the SHA-256 of every file in it, the seal included.

The seal is the last file to be written, so a folder without one is an unfinished save; and it is
the first to be read, so no byte of a damaged checkpoint is used.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

NAME = "seal.json"


def write(folder: Path, contents: dict[str, Any]) -> None:
    """Seal a folder: `contents` (anything JSON can hold) and the hash of every file in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     _ = (Path(name) / "data").write_text("abc")
    ...     write(Path(name), {"step": 3})
    ...     verified(Path(name), 3)["step"]
    3
    """
    sealed = contents | {"files": {name: _hash(folder / name) for name in _files(folder)}}
    body = json.dumps(sealed, sort_keys=True)
    text = json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})
    # All or nothing: a crash leaves no half-written seal.
    draft = folder.with_name(f"{folder.name}.draft")
    with open(draft, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / NAME)


def verified(folder: Path, step: int) -> dict[str, Any]:
    """The contents of the seal, once every file has been hashed; one process does it for all.

    Args:
      folder: a sealed checkpoint.
      step: its step, for the message.

    Returns:
      what was handed to `write`, and "files".

    Raises:
      ValueError: if a file is missing, surplus or altered; the file and the step are named.
    """
    fault = ""
    if jax.process_index() == 0:
        fault = _fault(folder)
    if jax.process_count() > 1:
        bad = multihost_utils.broadcast_one_to_all(np.asarray(bool(fault)))
        fault = fault or ("a file, named by process 0," if bool(bad) else "")
    if fault:
        raise ValueError(
            f"the checkpoint of step {step} is damaged: {fault} does not have the content that was "
            f"saved. Restore an earlier step, or delete {folder}"
        )
    return json.loads(json.loads((folder / NAME).read_text())["body"])


def _fault(folder: Path) -> str:
    """The first file that is not as it was sealed, or nothing."""
    try:
        seal = json.loads((folder / NAME).read_text())
        body = seal["body"]
        if set(seal) != {"sha256", "body"}:
            return str(folder / NAME)
        if hashlib.sha256(body.encode()).hexdigest() != seal["sha256"]:
            return str(folder / NAME)
        files = json.loads(body)["files"]
    except (ValueError, KeyError, TypeError):
        return str(folder / NAME)
    for name in sorted(files.keys() | set(_files(folder))):
        if (
            name not in files
            or not (folder / name).is_file()
            or _hash(folder / name) != files[name]
        ):
            return str(folder / name)
    return ""


def _files(folder: Path) -> list[str]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != NAME)
    return sorted(p.relative_to(folder).as_posix() for p in found)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
