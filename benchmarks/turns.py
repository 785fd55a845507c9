"""Timing by turns: what the machine does meanwhile hits all alike."""

import statistics
import subprocess
import sys
import time


def turns(runners, repeats):
    """Seconds of each, taking turns; the first turn, which compiles, does not count."""
    spent = {name: [] for name in runners}
    for turn in range(repeats + 1):
        for name, go in runners.items():
            start = time.perf_counter()
            go()
            if turn:
                spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in spent.items()}


def apart(sides, rounds, argv=None):
    """side -> name -> rate: each side in processes of its own, which take turns.

    Threads of one library that wait for work slow the other down where both share a process. A side
    is this script with `--side NAME`, which prints lines `RATE name<TAB>number`.
    """
    found = {side: {} for side in sides}
    for _ in range(rounds):
        for side in sides:
            command = [sys.executable, *(sys.argv if argv is None else argv), "--side", side]
            said = subprocess.run(command, capture_output=True, text=True)
            if said.returncode:
                raise RuntimeError(said.stderr[-2000:])
            for line in said.stdout.splitlines():
                if line.startswith("RATE "):
                    name, rate = line.removeprefix("RATE ").split("\t")
                    found[side].setdefault(name, []).append(float(rate))
    return {s: {n: statistics.median(r) for n, r in each.items()} for s, each in found.items()}


def median_seconds(go, repeats):
    """Median time of a call; the first, which compiles, does not count."""
    return turns({"": go}, repeats)[""]
