"""Does it fit? What a compiled step will hold in memory, asked before it runs.

XLA fixes every buffer when it compiles, so the question has an answer in bytes:

    needed = arguments + outputs + temporary - aliased

per device; `aliased` are outputs that take the place of donated arguments. Temporaries are mostly
activations: they shrink with the batch, or with the number of microbatches at the same batch.
"""

import os
from typing import Any, NamedTuple

import jax

from jaxdiff.training.state import parameter_count
from jaxdiff.types import PyTree


class Preflight(NamedTuple):
    """Bytes per device, and the number of parameters (0 if they were not given).

    `arguments`, `outputs`, `temporary`, `aliased` as XLA counts them; `needed` their sum without
    what is counted twice; `available` the memory of the device, or None where nobody knows.
    """

    arguments: int
    outputs: int
    temporary: int
    aliased: int
    needed: int
    available: int | None
    parameters: int


def preflight(
    compiled: Any,
    *,
    params: PyTree = None,
    batch: int | None = None,
    accumulate: int = 1,
    available: int | None = None,
) -> Preflight:
    """Read the memory a compiled step needs, and refuse one that does not fit.

    Args:
      compiled: `compile_step(...).lower(state, batch).compile()`, or the lowered step.
      params: parameters or their shapes, for the count.
      batch: size of the global batch, for the advice in the error.
      accumulate: number of microbatches it was compiled with, for the same.
      available: bytes per device; None asks the device, or the machine if the device is the CPU.

    Returns:
      Preflight. On a backend that does not count, all bytes are 0.

    Raises:
      ValueError: if it does not fit; bytes needed, bytes available and what to change are named.

    >>> report = preflight(jax.jit(lambda x: x + 1).lower(1.0), available=10**9)
    >>> report.arguments
    4
    """
    compiled = compiled.compile() if hasattr(compiled, "compile") else compiled
    memory = compiled.memory_analysis()
    arguments = int(getattr(memory, "argument_size_in_bytes", 0))
    outputs = int(getattr(memory, "output_size_in_bytes", 0))
    temporary = int(getattr(memory, "temp_size_in_bytes", 0))
    aliased = int(getattr(memory, "alias_size_in_bytes", 0))
    needed = arguments + outputs + temporary - aliased
    available = _available() if available is None else available
    count = 0 if params is None else parameter_count(params)
    report = Preflight(arguments, outputs, temporary, aliased, needed, available, count)
    if available is not None and needed > available:
        raise ValueError(_advice(report, batch, accumulate))
    return report


def describe(report: Preflight) -> str:
    """The report in one line.

    >>> describe(Preflight(4 * 2**20, 4 * 2**20, 2**30, 4 * 2**20, 2**30 + 4 * 2**20, None, 10**6))
    '1,000,000 parameters; 1.00 GiB per device (state and batch 4.0 MiB, temporary 1.00 GiB)'
    """
    limit = "" if report.available is None else f" of {_spell(report.available)}"
    count = f"{report.parameters:,} parameters; " if report.parameters else ""
    return (
        f"{count}{_spell(report.needed)}{limit} per device "
        f"(state and batch {_spell(report.arguments)}, temporary {_spell(report.temporary)})"
    )


def _advice(report: Preflight, batch: int | None, accumulate: int) -> str:
    need, have = report.needed, report.available or 0
    text = (
        f"this step needs {need} bytes ({_spell(need)}) per device and {have} ({_spell(have)}) "
        "are available: "
    )
    room = have - (need - report.temporary)
    if room <= 0:
        return text + "state and batch alone do not fit; split the parameters with a larger fsdp"
    # Temporaries grow with the microbatch: the next power of two that brings them under the room.
    parts = 2
    while report.temporary > parts * room:
        parts *= 2
    smaller = f"a batch of {max(batch // parts, 1)}" if batch else f"a batch {parts} times smaller"
    return text + f"use {smaller}, or accumulate = {accumulate * parts}"


def _available() -> int | None:
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform != "cpu":
        return None
    free = _free_memory()
    return None if free is None else free // jax.local_device_count()


def _free_memory() -> int | None:
    """Bytes of memory that the machine could still give, where the system says so."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _spell(count: int) -> str:
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB"
