"""Where the numbers of training go: a writer is three functions.

`write(step, values)` takes the means over the steps since the last call; `rewind(step)` forgets
what was written after a step, when a run goes on from an older checkpoint; `close()` ends it. The
JSON-lines file holds nothing but steps and values, no clock: a run that was cut and resumed writes
the same file, byte for byte, as one that was not.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Values = dict[str, float]


class Writer(NamedTuple):
    """`write(step, values)`, `rewind(step)`, `close()`."""

    write: Callable[[int, Values], None]
    rewind: Callable[[int], None]
    close: Callable[[], None]


def jsonl(path: str | os.PathLike[str]) -> Writer:
    """A file of JSON objects, one a line: {"step": 50, "loss": 0.31, ...}; appended and flushed.

    Values that are not finite are written as null, which every reader of JSON understands.

    Args:
      path: the file; its folder is made if it is not there.

    Raises:
      OSError: if the file cannot be written; the message names it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = jsonl(Path(folder) / "metrics.jsonl")
    ...     writer.write(10, {"loss": 0.5})
    ...     (Path(folder) / "metrics.jsonl").read_text()
    '{"step": 10, "loss": 0.5}\\n'
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a"):
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"metrics cannot be written to {file} ({error.strerror}): name another file",
        ) from error

    def write(step: int, values: Values) -> None:
        clean = {name: v if math.isfinite(v) else None for name, v in sorted(values.items())}
        # Opened anew for each line: nothing to lose in a crash, and a moved file is no surprise.
        with open(file, "a") as out:
            out.write(json.dumps({"step": step} | clean) + "\n")

    def rewind(step: int) -> None:
        kept = [line for line in file.read_text().splitlines() if _step(line) <= step]
        draft = file.with_name(file.name + ".draft")
        draft.write_text("".join(line + "\n" for line in kept))
        draft.replace(file)

    return Writer(write, rewind, lambda: None)


def _step(line: str) -> float:
    """The step of a line; infinite if the line was cut off by a crash."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def tensorboard(folder: str | os.PathLike[str]) -> Writer:
    """Scalars for TensorBoard.

    Args:
      folder: the log directory of this run.

    Raises:
      ModuleNotFoundError: if tensorboardX is not installed; the message says how to install it.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "writing for TensorBoard needs tensorboardX: pip install tensorboardX, "
            "or leave this writer out"
        ) from error
    open_writers: list[SummaryWriter] = []

    def writer(purge: int | None = None) -> SummaryWriter:
        if not open_writers:
            open_writers.append(SummaryWriter(str(folder), purge_step=purge))
        return open_writers[0]

    def write(step: int, values: Values) -> None:
        for name, value in values.items():
            writer().add_scalar(name, value, step)
        writer().flush()

    def close() -> None:
        while open_writers:
            open_writers.pop().close()

    def rewind(step: int) -> None:
        close()
        # TensorBoard itself then hides the events from this step on.
        writer(purge=step + 1)

    return Writer(write, rewind, close)
