"""diffusers' staged schedulers on a table of betas, which its solvers see as t = sigma/alpha."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.sampler_convergence.peers import Case, Recipe, ratio_vp, walk
from jaxdiff import samplers
from jaxdiff.types import Sampler


def _in_ratio(sampler: Sampler, case: Case) -> Any:
    """Its samples are x/alpha, and every level stands twice in its list."""
    ts = np.unique(case.sigmas)[::-1]
    start = case.z * case.facts["init_noise_sigma"] / np.sqrt(1 + ts[0] ** 2)
    return walk(ratio_vp(), sampler, ts, start, _noise(case, len(ts) - 1))


def _noise(case: Case, rows: int) -> Any:
    """One draw a step, or two: for the stage, then for the step. The last step draws nothing."""
    each = 2 if "dpmpp_sde" in case.name else 1
    drawn = jnp.concatenate([case.tape[: case.facts["draws"]], jnp.zeros((each, *case.z.shape))])
    drawn = jnp.resize(drawn, (rows * each, *case.z.shape))
    return samplers.tape(drawn[each - 1 :: each], stage=drawn[::each] if each == 2 else None)


def _blocks(case: Case) -> Any:
    """DPMSolverSinglestep: the stages are points of the grid, so that `order` of its steps are one.

    Blocks are as long as the order while the grid lasts; the step to clean data is Euler's.
    """
    ts, order = case.sigmas, case.options.get("solver_order", 2)
    last = len(ts) - 2
    ends = np.array([*range(0, last, order), last, last + 1])
    lengths, depth = np.diff(ends), -np.log(ts[:-1])
    r1, r2 = (_shares(depth, ends[:-1], lengths[:-1], k) for k in (1, 2))
    sampler = samplers.singlestep(
        tuple(map(int, lengths)), r1=jnp.asarray(r1), r2=jnp.asarray(r2), halved=True
    )
    return walk(ratio_vp(), sampler, ts[ends], case.z)


def _shares(depth: Any, ends: Any, lengths: Any, k: int) -> Any:
    """Where the k-th point inside of each block lies, in log(alpha/sigma); 1/2 where none does."""
    inside = depth[np.minimum(ends[:-1] + k, len(depth) - 1)] - depth[ends[:-1]]
    return np.where(lengths > k, inside / np.diff(depth[ends]), 0.5)


def _of(sampler: Sampler) -> Recipe:
    return functools.partial(_in_ratio, sampler)


RECIPES = {
    "diffusers/dpmpp_2s_*": _blocks,
    "diffusers/dpmsolver_singlestep*": _blocks,
    "diffusers/kdpm2_[!a]*": _of(samplers.dpm_2()),
    "diffusers/kdpm2_a_*": _of(samplers.dpm_2(1.0)),
    "diffusers/heun_*": _of(samplers.heun(0.0)),
    "diffusers/dpmpp_sde_*": _of(samplers.dpmpp_sde(paired=False)),
}
