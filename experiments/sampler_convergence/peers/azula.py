"""azula 0.11.1: four schedules of its own, times even in [0, 1], ending at sigma = 1e-3.

Its solvers are those of ours that work in any process; `ts` = 1 ... 0, and nothing is clean.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.sampler_convergence.peers import Case, Recipe, walk
from jaxdiff import process, samplers
from jaxdiff.types import Sampler

LEAST = 1e-3
"""alpha_min = sigma_min of every schedule; VE's sigma_max is its inverse."""


def _one(t: Any) -> Any:
    return jnp.ones_like(t)


def _ve_sigma(t: Any) -> Any:
    return LEAST ** (1 - 2 * t)


def _vp_alpha(t: Any) -> Any:
    return LEAST ** (t**2)


def _cosine_alpha(t: Any) -> Any:
    return jnp.cos(np.arccos(LEAST) * t)


def _preserving(alpha: Callable[..., Any], t: Any) -> Any:
    return jnp.sqrt(1 - alpha(t) ** 2 + LEAST**2)


def _straight_alpha(t: Any) -> Any:
    return LEAST * t + (1 - t)


def _straight_sigma(t: Any) -> Any:
    return t + LEAST * (1 - t)


SCHEDULES = {
    "ve": (_one, _ve_sigma),
    "vp": (_vp_alpha, Partial(_preserving, Partial(_vp_alpha))),
    "cosine": (_cosine_alpha, Partial(_preserving, Partial(_cosine_alpha))),
    "rectified": (_straight_alpha, _straight_sigma),
}


def _process(case: Case) -> process.Process:
    return process.from_scales(*SCHEDULES[case.name.split("/")[2]], 0.0, 1.0, -1.0)


def _times(case: Case) -> Any:
    asked = np.unique(case.levels[:, 0])
    return np.append(asked[asked > 1e-9][::-1], 0.0)


def _start(case: Case, proc: process.Process) -> Any:
    return case.z * proc.sigma(proc.t_max)


def solved(make: Callable[..., Sampler], *, stochastic: bool = False) -> Recipe:
    """A recipe of a solver, made of a case."""

    def recipe(case: Case) -> Any:
        proc, ts = _process(case), _times(case)
        noise = samplers.tape(jnp.asarray(case.tape[: len(ts) - 1])) if stochastic else None
        return walk(proc, make(case), ts, _start(case, proc), noise)

    return recipe


def order(case: Case) -> int:
    return case.options["order"]


def zeab(case: Case) -> Sampler:
    return samplers.dpm_solver_m(order(case), midpoint=False)


def xeab(case: Case) -> Sampler:
    if order(case) == 2:
        return samplers.dpmpp_2m(midpoint=False)
    return samplers.dpmpp_3m()


RECIPES = {
    "azula/ddim/*": solved(lambda case: samplers.ddim()),
    "azula/ddim_eta1/*": solved(lambda case: samplers.ddim(1.0), stochastic=True),
    "azula/ddpm/*": solved(lambda case: samplers.ddpm(), stochastic=True),
    "azula/euler/*": solved(lambda case: samplers.euler()),
    "azula/heun/*": solved(lambda case: samplers.heun(0.0)),
    "azula/ito_eta0/*": solved(lambda case: samplers.ito(0.0)),
    "azula/ito_eta1/*": solved(lambda case: samplers.ito(1.0), stochastic=True),
    "azula/vAB?/*": solved(lambda case: samplers.adams(order(case), c=1.0)),
    "azula/zAB?/*": solved(lambda case: samplers.adams(order(case), c=0.0)),
    "azula/zEAB?/*": solved(zeab),
    "azula/xEAB?/*": solved(xeab),
}
