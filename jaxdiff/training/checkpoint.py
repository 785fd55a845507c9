"""Checkpoints: written by Orbax in the background, sealed by us, verified before they are read.

A checkpoint is one folder, `<folder>/step_<number>`, with the arrays of the state as Orbax writes
them and `seal.json` beside them. The seal comes last: the paths, shapes and types of the state,
what the caller wants to keep (position in the data, a hash of the configuration), and the SHA-256
of every file, its own included. A folder without a seal is an unfinished save; it does not count
and is cleared away. Orbax restores some flipped bits without a word, so no byte is used before it
is hashed.

A state is stored flat, path -> array, so that what differs can be named: parameters of another
architecture are refused with their paths. Arrays come back bit for bit, on the sharding of the
state they are restored into, whatever the sharding they were saved from. Typed keys are stored as
numbers.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxdiff.training import seal
from jaxdiff.trees import merge, paths
from jaxdiff.types import PyTree


class Checkpoints(NamedTuple):
    """An open folder of checkpoints, made by `open_checkpoints`; its fields are private."""

    folder: Path
    keep: int
    every: int | None
    saver: ocp.AsyncCheckpointer
    worker: ThreadPoolExecutor
    pending: list[Future]


def open_checkpoints(
    folder: str | os.PathLike[str],
    *,
    keep: int = 3,
    every: int | None = None,
    read_only: bool = False,
) -> Checkpoints:
    """Open a folder for saving and restoring; it is made if it is not there.

    Args:
      folder: where the checkpoints are, one sub-folder a step.
      keep: number of latest checkpoints that stay, >= 1.
      every: checkpoints whose step is a multiple of this stay for good; None: none do.
      read_only: the folder has to be there and is not written to.

    Returns:
      Checkpoints, for the other functions of this file.

    Raises:
      ValueError: if keep or every is below 1.
      OSError: if the folder cannot be made or written to; the message names it.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     latest(open_checkpoints(folder)) is None
    True
    """
    if keep < 1 or (every is not None and every < 1):
        raise ValueError(f"keep = {keep} and every = {every} have to be at least 1")
    path = Path(folder).absolute()
    if not read_only:
        _check_writable(path)
    elif not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder of checkpoints at {path}")
    saver = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    return Checkpoints(path, keep, every, saver, ThreadPoolExecutor(1, "checkpoint"), [])


def steps(checkpoints: Checkpoints) -> list[int]:
    """The steps of all finished checkpoints, in order."""
    found = checkpoints.folder.glob(f"step_*/{seal.NAME}")
    names = (file.parent.name for file in found if _ours(file.parent))
    return sorted(int(name.removeprefix("step_")) for name in names)


def latest(checkpoints: Checkpoints) -> int | None:
    """The step of the last finished checkpoint, or None."""
    return max(steps(checkpoints), default=None)


def save(
    checkpoints: Checkpoints,
    state: PyTree,
    extra: dict[str, Any] | None = None,
    *,
    wait: bool = False,
) -> None:
    """Save a training state; the disk is written in the background.

    The values are copied before this returns, so the state may be donated at once. A save of the
    same step replaces the old one when it is finished.

    Args:
      checkpoints: from `open_checkpoints`.
      state: a tree of arrays with a field `step`.
      extra: anything JSON can hold; `restore` gives it back.
      wait: return only when the checkpoint is finished, and raise its errors.

    Raises:
      OSError: no space left (errno ENOSPC; folder and bytes are named) or another fault of the
        disk. Faults in the background are raised by the next `save` or `finish`.
      TypeError: if extra holds what JSON does not.
    """
    finish(checkpoints)
    # Not when the folder is opened: another process may only want to read while this one saves.
    _clear_unfinished(checkpoints)
    step, arrays = int(state.step), _arrays(state)
    contents = {"step": step, "state": _describe(state), "extra": extra or {}}
    json.dumps(contents)
    needed = sum(array.nbytes for array in arrays.values())
    target = _place(checkpoints, step)
    try:
        _check_space(checkpoints.folder, needed)
        _set_aside(target)
        checkpoints.saver.save(target, args=ocp.args.StandardSave(arrays), force=True)
    except Exception as error:
        raise _explained(error, checkpoints, step, needed) from error
    checkpoints.pending.append(
        checkpoints.worker.submit(_seal, checkpoints, step, contents, needed)
    )
    if wait:
        finish(checkpoints)


def finish(checkpoints: Checkpoints) -> None:
    """Wait until the last save is on the disk and sealed; raise its error if it failed."""
    if not checkpoints.pending:
        return
    try:
        checkpoints.pending.pop().result()
    finally:
        if jax.process_count() > 1:
            # The first process seals for all; no other may look for the seal before it is there.
            multihost_utils.sync_global_devices("checkpoint")


def restore(
    checkpoints: Checkpoints, like: PyTree, *, step: int | None = None
) -> tuple[PyTree, dict[str, Any]]:
    """Read a checkpoint into the shape, the types and the sharding of `like`.

    Args:
      checkpoints: from `open_checkpoints`.
      like: a state, or a tree of `jax.ShapeDtypeStruct` with shardings; its values are not used.
      step: which checkpoint; None: the latest.

    Returns:
      (state, extra): the state bit for bit, and what was handed to `save`.

    Raises:
      FileNotFoundError: if there is no such checkpoint; the message lists those there are.
      ValueError: if the checkpoint is of another architecture (paths that are missing, surplus or
        of another shape are named), or if it is damaged (the file and the step are named).
    """
    finish(checkpoints)
    step = latest(checkpoints) if step is None else step
    if step is None or step not in steps(checkpoints):
        raise FileNotFoundError(
            f"no checkpoint of step {step} in {checkpoints.folder}: there are {steps(checkpoints)}"
        )
    folder = _place(checkpoints, step)
    contents = seal.verified(folder, step)
    _check_architecture(contents["state"], _describe(like), folder)
    targets = {path: _target(leaf) for path, leaf in paths(like) if leaf.size}
    found = checkpoints.saver.restore(folder, args=ocp.args.StandardRestore(targets))
    leaves = {
        path: _revive(found[path], leaf) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype)
        for path, leaf in paths(like)
    }
    return merge(like, leaves), contents["extra"]


def close(checkpoints: Checkpoints) -> None:
    """Finish what is being saved and free the threads."""
    try:
        finish(checkpoints)
    finally:
        checkpoints.worker.shutdown()
        checkpoints.saver.close()


# --- what is stored ------------------------------------------------------------------------------


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(state: PyTree) -> dict[str, jax.Array]:
    """Path -> array; copies, as the next step may reuse the memory of the state."""
    plain = {p: jax.random.key_data(a) if _is_key(a) else a for p, a in paths(state)}
    # Orbax refuses empty arrays; they carry nothing anyway.
    full = {path: jnp.asarray(array) for path, array in plain.items() if array.size}
    # Other devices copy to the host before `save` returns; on the CPU that copy would be a view.
    return {path: jnp.copy(a) if _on_cpu(a) else a for path, a in full.items()}


def _on_cpu(array: jax.Array) -> bool:
    return next(iter(array.devices())).platform == "cpu"


def _describe(state: PyTree) -> dict[str, list[Any]]:
    return {path: [str(leaf.dtype), list(leaf.shape)] for path, leaf in paths(state)}


def _target(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    shape = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    if sharding is None or not getattr(leaf, "committed", True):
        # As numpy, so that the result is as free to move between devices as the array it replaces.
        return np.empty(shape.shape, shape.dtype)
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _revive(array: Any, leaf: Any) -> jax.Array:
    array = jnp.asarray(array)
    if not _is_key(leaf):
        return array
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(jnp.empty((), leaf.dtype)))


def _check_architecture(saved: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    lines = [f"{p}: missing in the checkpoint" for p in wanted if p not in saved]
    lines += [f"{p}: surplus in the checkpoint" for p in saved if p not in wanted]
    for path in wanted.keys() & saved.keys():
        (a, shape_a), (b, shape_b) = saved[path], wanted[path]
        if (a, shape_a) != (b, shape_b):
            lines.append(f"{path}: {a}{shape_a} in the checkpoint, {b}{shape_b} wanted")
    if lines:
        more = f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise ValueError(
            f"the checkpoint {folder} is of another architecture or optimiser; build what it was "
            "saved from, or start in a new folder:\n  " + "\n  ".join(sorted(lines)[:20]) + more
        )


def _seal(checkpoints: Checkpoints, step: int, contents: dict[str, Any], needed: int) -> None:
    """In the background: wait for Orbax, seal what it wrote, clear what is too old."""
    try:
        checkpoints.saver.wait_until_finished()
        if jax.process_index() != 0:
            return
        target = _place(checkpoints, step)
        seal.write(target, contents)
        shutil.rmtree(_aside(target), ignore_errors=True)
        _clear_old(checkpoints)
    except Exception as error:
        raise _explained(error, checkpoints, step, needed) from error


# --- the folder ----------------------------------------------------------------------------------


def _check_space(folder: Path, needed: int) -> None:
    """Refuse before anything is written; several processes might not see the same and just try."""
    free = shutil.disk_usage(folder).free
    if free < needed and jax.process_count() == 1:
        raise OSError(errno.ENOSPC, f"{free} bytes are free")


def _place(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.folder / f"step_{step}"


def _ours(path: Path) -> bool:
    """Whether this is a checkpoint, finished or not; anything else in the folder is left alone."""
    return re.fullmatch(r"step_\d+(\.orbax-checkpoint-tmp.*)?", path.name) is not None


def _check_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"the checkpoint folder {path} cannot be written to ({error.strerror}): "
            "name another folder or change its permissions",
        ) from error


def _aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.replaced")


def _set_aside(target: Path) -> None:
    """Keep the old checkpoint of this step until the new one is sealed."""
    if jax.process_index() == 0 and target.exists():
        shutil.rmtree(_aside(target), ignore_errors=True)
        target.replace(_aside(target))


def _clear_unfinished(checkpoints: Checkpoints) -> None:
    """Remove what killed saves left; a checkpoint that was to be replaced comes back."""
    if jax.process_index() != 0:
        return
    for path in list(checkpoints.folder.glob("step_*")):
        if _ours(path) and not (path / seal.NAME).exists():
            shutil.rmtree(path, ignore_errors=True)
    for aside in checkpoints.folder.glob("step_*.replaced"):
        target = aside.with_name(aside.name.removesuffix(".replaced"))
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.replace(target)


def _clear_old(checkpoints: Checkpoints) -> None:
    for step in steps(checkpoints)[: -checkpoints.keep]:
        if checkpoints.every is None or step % checkpoints.every:
            shutil.rmtree(_place(checkpoints, step))


def _explained(error: Exception, checkpoints: Checkpoints, step: int, needed: int) -> Exception:
    """No space left, said with folder and bytes; any other error is returned as it is."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full and "No space left" not in str(error):
        return error
    _clear_unfinished(checkpoints)
    return OSError(
        errno.ENOSPC,
        f"no space left in {checkpoints.folder} for the checkpoint of step {step}: it takes about "
        f"{needed} bytes. Free some, or keep fewer; earlier checkpoints are intact",
    )
