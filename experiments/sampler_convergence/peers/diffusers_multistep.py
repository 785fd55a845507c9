"""diffusers' multistep schedulers: tables of betas, flows and EDM, on their own grids."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.sampler_convergence.peers import Case, ratio_vp, walk
from jaxdiff import process, samplers
from jaxdiff.types import Sampler


def _times(case: Case) -> np.ndarray:
    """The grid; a last level that is repeated (DEIS, SA-Solver) makes a step of no length."""
    sigmas = case.sigmas.copy()
    if sigmas[-1] == sigmas[-2]:
        sigmas[-1] *= 1 - 1e-12
    return sigmas


def _run(sampler: Sampler, case: Case) -> Any:
    ts = _times(case)
    proc = process.rectified_flow() if "use_flow_sigmas" in case.options else ratio_vp()
    if case.facts["scheduler"].startswith(("EDM", "Cosine")):
        proc = process.edm()
    noise = samplers.tape(jnp.asarray(case.tape[: len(ts) - 1])) if case.facts["draws"] else None
    return walk(proc, sampler, ts, case.z * case.facts["init_noise_sigma"], noise)


def unipc(case: Case) -> Any:
    options = case.options
    sampler = samplers.unipc(
        options.get("solver_order", 2),
        bh1=options.get("solver_type") == "bh1",
        by_noise=not options.get("predict_x0", True),
    )
    return _run(sampler, case)


def deis(case: Case) -> Any:
    return _run(samplers.deis(case.options.get("solver_order", 2)), case)


def sa_solver(case: Case) -> Any:
    """Its tau is 1 for 200 <= t <= 800 of the table, unless given."""
    at, alpha, sigma = case.levels.T
    noisy = (sigma / alpha)[(at >= 200) & (at <= 800)]

    def tau(ratio: Any) -> Any:
        return jnp.where((ratio >= 0.999999 * noisy[-1]) & (ratio <= 1.000001 * noisy[0]), 1.0, 0.0)

    sampler = samplers.sa_solver(
        jnp.zeros(()) if "tau_func" in case.options else tau,
        predictor=case.options.get("predictor_order", 2),
        corrector=case.options.get("corrector_order", 2),
    )
    return _run(sampler, case)


def dpmpp(case: Case) -> Any:
    """DPM-Solver++ in `dpmpp_1m`, 2m, 3m; of order 1 it is Euler's method."""
    options = case.options
    order = options.get("solver_order", 2)
    if order == 1:
        return _run(samplers.euler(), case)
    rules = _rules(case)
    if order == 3:
        return _run(samplers.dpmpp_3m(published=True, midpoint=True, **rules), case)
    eta = 1.0 if case.facts["draws"] else 0.0
    return _run(samplers.dpmpp_2m(eta, midpoint=_midpoint(case), **rules), case)


def dpm_solver(case: Case) -> Any:
    order, eta = case.options.get("solver_order", 2), 1.0 if case.facts["draws"] else 0.0
    sampler = samplers.dpm_solver_m(
        order, eta, midpoint=_midpoint(case), published=True, **_rules(case)
    )
    return _run(sampler, case)


def _midpoint(case: Case) -> bool:
    return case.options.get("solver_type", "midpoint") == "midpoint"


def _rules(case: Case) -> dict[str, Any]:
    return {
        "taper": 15 if case.options.get("lower_order_final", True) else 0,
        "euler_final": case.options.get("euler_at_final", False),
    }


RECIPES = {
    "diffusers/unipc*": unipc,
    "diffusers/flow_unipc*": unipc,
    "diffusers/deis*": deis,
    "diffusers/flow_deis*": deis,
    "diffusers/sasolver*": sa_solver,
    "diffusers/dpmpp_1m*": dpmpp,
    "diffusers/dpmpp_2m*": dpmpp,
    "diffusers/dpmpp_3m*": dpmpp,
    "diffusers/flow_dpmpp*": dpmpp,
    "diffusers/edm_*dpmpp*": dpmpp,
    "diffusers/cosine*": dpmpp,
    "diffusers/dpmsolver_*m*": dpm_solver,
    "diffusers/sde_dpmsolver_2m*": dpm_solver,
}

FAULTS = {
    "diffusers/unipc?_bh1/*": "NaN in all samples: at sigma = 0, where h is infinite, the peer's "
    "bh1 multiplies B(h) = h by 0. The recipe ends in a step of first order, as the peer's bh2 does"
}
