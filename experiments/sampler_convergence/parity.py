"""Every run of the peers, walked by our samplers: how far apart the ends are."""

import importlib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.sampler_convergence.peers import HERE, load, matching

MODULES = (
    "k_diffusion", "diffusers_simple", "diffusers_multistep", "diffusers_staged", "azula",
    "azula_pc",
)  # fmt: skip
TOLERANCE = 1e-9


class Found(NamedTuple):
    """A run beside its peer: the largest deviation, and the fault of the peer, if it has one."""

    name: str
    apart: float
    fault: str | None

    @property
    def equal(self) -> bool:
        return self.apart <= TOLERANCE  # False where the peer has NaN


def compared(path: pathlib.Path = HERE / "peers.npz", only: str = "*") -> Iterator[Found]:
    """All runs whose name matches, one after another."""
    cases = load(path)
    for module in MODULES:
        part = importlib.import_module(f"experiments.sampler_convergence.peers.{module}")
        faults = dict(matching(getattr(part, "FAULTS", {}), cases))
        for name, recipe in matching(part.RECIPES, [n for n in cases if _matches(n, only)]):
            apart = float(np.abs(np.asarray(recipe(cases[name])) - cases[name].out).max())
            yield Found(name, apart, faults.get(name))


def _matches(name: str, only: str) -> bool:
    return pathlib.PurePosixPath(name).match(only) if only != "*" else True


def check(path: pathlib.Path = HERE / "peers.npz", only: str = "*") -> bool:
    """Print a table by peer and sampler; True if every run is there once and holds."""
    seen: dict[str, Found] = {}
    for found in compared(path, only):
        if found.name in seen:
            raise ValueError(f"{found.name} has recipes in two modules")
        seen[found.name] = found
    missing = [n for n in load(path) if _matches(n, only) and n not in seen]
    groups: dict[str, list[Found]] = {}
    for found in seen.values():
        groups.setdefault("/".join(found.name.split("/")[:2]), []).append(found)
    print("| peer and sampler | runs | largest deviation | |\n|---|---|---|---|")
    for group, runs in sorted(groups.items()):
        worst = max(run.apart for run in runs)
        reason = next((run.fault for run in runs if not run.equal and run.fault), None)
        said = (
            f"fault of the peer: {reason}"
            if reason
            else ""
            if all(run.equal for run in runs)
            else "DIFFERS"
        )
        print(f"| {group} | {len(runs)} | {worst:.1e} | {said} |")
    equal = sum(run.equal for run in seen.values())
    faults = sum(not run.equal and run.fault is not None for run in seen.values())
    print(
        f"\n{len(seen) + len(missing)} runs: {equal} within {TOLERANCE:g}, {faults} where the peer "
        f"is at fault, {len(seen) - equal - faults} differ, {len(missing)} without a recipe"
    )
    for name in missing[:20]:
        print("  no recipe:", name)
    return not missing and equal + faults == len(seen)
