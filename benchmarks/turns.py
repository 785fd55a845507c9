"""Timing by turns: what the machine does meanwhile hits all alike."""

import statistics
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
