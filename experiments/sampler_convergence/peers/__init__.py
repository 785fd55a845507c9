"""What k-diffusion 0.1.1, diffusers 0.42.1 and azula 0.11.1 make of the same starts and noise.

`peers.npz` holds 832 runs in float64 on the exact denoiser of a mixture of five Gaussians in the
plane (16 starts each), with the initial noise, the noise of every step and the levels at which each
library asked its model. A recipe says which of our samplers on which grid is the same method:

    RECIPES = {"k-diffusion/euler/*": euler, ...}      pattern of names -> (Case -> x [16, 2])
"""

import dataclasses
import fnmatch
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import exact, process, samplers
from jaxdiff.types import Sampler

HERE = pathlib.Path(__file__).parent
Recipe = Callable[["Case"], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of a peer: what it was asked, what it drew, what came out."""

    name: str  # library/sampler/configuration/evaluations
    facts: dict[str, Any]
    z: np.ndarray  # [16, 2] initial noise
    tape: np.ndarray  # [128, 16, 2] noise of draw k
    out: np.ndarray  # [16, 2]

    @property
    def options(self) -> dict[str, Any]:
        return self.facts["kwargs"] | self.facts.get("step_kwargs", {})

    @property
    def sigmas(self) -> np.ndarray:
        """The grid, in sigma/alpha, as the peer spelled it; its end included."""
        return np.asarray(self.facts.get("grid") or self.facts.get("sigmas"))

    @property
    def levels(self) -> np.ndarray:
        """[evaluations, 3]: t, alpha and sigma of every call of the model."""
        return np.asarray(self.facts["calls_t_alpha_sigma"])


def load(path: pathlib.Path = HERE / "peers.npz") -> dict[str, Case]:
    """All runs, by name."""
    held = np.load(path)
    facts = json.loads(bytes(held["facts"]))
    return {
        name: Case(name, about, held["z"], held["tape"], out)
        for (name, about), out in zip(facts.items(), held["out"], strict=True)
    }


def mixture() -> exact.Mixture:
    """The data of all runs."""
    held = np.load(HERE / "peers.npz")
    return exact.mixture(*(jnp.asarray(held[k]) for k in ("weights", "means", "covs")))


def ratio_vp(largest: float = 1e4) -> process.Process:
    """Variance preserving, with t = sigma/alpha: a table of betas, seen from its solver."""
    return process.from_scales(_ratio_alpha, _ratio_sigma, 0.0, largest)


def _ratio_alpha(t: Any) -> Any:
    return 1 / jnp.sqrt(1 + t**2)


def _ratio_sigma(t: Any) -> Any:
    return t / jnp.sqrt(1 + t**2)


def walk(
    proc: process.Process, sampler: Sampler, ts: Any, start: Any, noise: Any = None
) -> jax.Array:
    """x at the end of the times `ts`, from `start` at ts[0]; `noise` is a tape, if any is drawn."""
    keys = jax.vmap(jax.random.key)(jnp.arange(len(start))) if noise is None else noise
    denoise = exact.denoiser(mixture(), proc)
    rows = samplers.grid(jnp.asarray(ts))
    return _walk(denoise, sampler, rows, jnp.asarray(start), keys)


def _walk(denoise: Any, sampler: Sampler, rows: Any, start: Any, keys: Any) -> jax.Array:
    go = jax.jit(lambda d, k, r, x: samplers.run(k, d, sampler, r, x))
    return go(denoise, keys, rows, start)


def matching(recipes: dict[str, Recipe], names: Any) -> Iterator[tuple[str, Recipe]]:
    """(name of a run, its recipe), for the runs that have one."""
    for name in names:
        found = [r for pattern, r in recipes.items() if fnmatch.fnmatch(name, pattern)]
        if len(found) > 1:
            raise ValueError(f"{name} has {len(found)} recipes: one pattern must match")
        if found:
            yield name, found[0]
