"""azula 0.11.1: four schedules of its own, times even in [0, 1], ending at sigma = 1e-3.

Its solvers are those of ours that work in any process; `ts` = 1 ... 0, and nothing is clean.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.sampler_convergence.peers import Case, Recipe, mixture, walk
from jaxdiff import exact, process, samplers
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


def solved(make: Callable[..., Sampler], *, draws: str = "") -> Recipe:
    """A recipe of a solver, made of a case; `draws` is who draws from the tape, if anyone."""

    def recipe(case: Case) -> Any:
        proc, ts = _process(case), _times(case)
        drawn = jnp.asarray(case.tape[: len(ts) - 1])
        noise = samplers.tape(**{draws: drawn}) if draws else None
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


def reab(case: Case) -> Sampler:
    """DPM-Solver-v3 with the statistics of standard normal data: lin = sigma^2/(alpha^2 + sigma^2).

    There f = -sqrt(lin) times what the peer continues, so that slope = d log sqrt(lin)/dl.
    """
    level = jnp.linspace(-7.0, 7.0, 40001)
    lin = 1 / (1 + jnp.exp(2 * level))
    table = samplers.Statistics(level, lin, lin - 1, jnp.zeros_like(lin))
    return samplers.dpm_solver_v3(table, order(case), correct=False)


RECIPES = {
    "azula/ddim/*": solved(lambda case: samplers.ddim()),
    "azula/ddim_eta1/*": solved(lambda case: samplers.ddim(1.0), draws="solver"),
    "azula/ddpm/*": solved(lambda case: samplers.ddpm(), draws="solver"),
    "azula/euler/*": solved(lambda case: samplers.euler()),
    "azula/heun/*": solved(lambda case: samplers.heun(0.0)),
    "azula/ito_eta0/*": solved(lambda case: samplers.ito(0.0)),
    "azula/ito_eta1/*": solved(lambda case: samplers.ito(1.0), draws="solver"),
    "azula/REAB?/*": solved(reab),
    "azula/vAB?/*": solved(lambda case: samplers.adams(order(case), c=1.0)),
    "azula/zAB?/*": solved(lambda case: samplers.adams(order(case), c=0.0)),
    "azula/zEAB?/*": solved(zeab),
    "azula/xEAB?/*": solved(xeab),
}


# REAB, as it is and as its own documentation has it


def _reab(case: Case, *, as_documented: bool) -> Any:
    """The Rosenbrock step in y = x/sqrt(alpha^2 + sigma^2): int e^u/(1 + e^2u) f du, u = log(r).

    The factor in front of the integral is sqrt(alpha_s^2 + sigma_s^2); the code has sigma_t.
    """
    proc, ts = _process(case), _times(case)
    x, known, denoise = _start(case, proc), [], exact.denoiser(mixture(), proc)
    alphas, sigmas = (np.asarray(a) for a in process.scales(proc, ts))
    u = np.log(sigmas / alphas)
    for i, t in enumerate(ts[:-1]):
        (a, a_s), (v, v_s) = alphas[i : i + 2], sigmas[i : i + 2]
        size = np.sqrt(a**2 + v**2)
        known = [*known, (i, size / v * (a / size**2 * x - denoise(x, t).x0))][-order(case) :]
        weights = _trapezoids(u[i], u[i + 1], u[[j for j, _ in known]])
        ahead = np.sqrt(a_s**2 + (v_s if as_documented else v) ** 2)
        total = sum(w * f for w, (_, f) in zip(weights, known))
        x = np.sqrt(a_s**2 + v_s**2) / size * x + ahead * total
    return x


def _trapezoids(start: float, end: float, nodes: np.ndarray) -> np.ndarray:
    """Integrals of e^u/(1 + e^2u) times the nodes' Lagrange polynomials, by 256 trapezoids."""
    u = np.linspace(start, end, 257)
    powers = np.arange(len(nodes))[:, None]
    moments = np.trapezoid(np.exp(u) / (1 + np.exp(2 * u)) * u**powers, u)
    return np.linalg.solve(nodes**powers, moments)


AS_THEY_ARE = {"azula/REAB?/*": functools.partial(_reab, as_documented=False)}
"""The runs of `FAULTS`, as the peer makes them: equal to its numbers."""

FAULTS = {
    "azula/REAB?/*": "the code has sqrt(alpha_s^2 + sigma_t^2) in front of the integral, where its "
    "documentation and the algebra have sigma_s: off by 0.01 to 2.2. With sigma_s it gives "
    "the recipe's value to 3e-5, the error of its 256 trapezoids",
}
"""Runs that the recipes do not repeat: they give the correct value."""
