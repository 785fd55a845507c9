"""k-diffusion: variance exploding, t = sigma."""

import functools
from typing import Any

import jax.numpy as jnp

from experiments.sampler_convergence.peers import Case, Recipe, walk
from jaxdiff import process, samplers
from jaxdiff.types import Sampler


def _on_grid(sampler: Sampler, case: Case, **roles: Any) -> Any:
    rows = len(case.sigmas) - 1
    noise = {who: _padded(case.tape[draws], rows) for who, draws in roles.items()}
    start = case.z * case.sigmas[0]
    return walk(process.edm(), sampler, case.sigmas, start, samplers.tape(**noise))


def _padded(drawn: Any, rows: int) -> Any:
    """Noise for every row; what a last step to clean data would draw counts for nothing."""
    missing = jnp.zeros((max(rows - len(drawn), 0), *drawn.shape[1:]))
    return jnp.concatenate([jnp.asarray(drawn)[:rows], missing])


ALL = slice(None)


def _of(sampler: Sampler, **roles: Any) -> Recipe:
    return functools.partial(_on_grid, sampler, **roles or {"solver": ALL})


def _churned(inner: Sampler, case: Case) -> Any:
    amount, low, high, noise = (case.options[f"s_{k}"] for k in ("churn", "tmin", "tmax", "noise"))
    wrapped = samplers.churn(amount, low=low, high=high, noise=noise)(inner)
    return _on_grid(wrapped, case, churn=ALL)


def _fast(eta: float, case: Case) -> Any:
    """It takes its grid itself, even in log sigma, and ends at sigma_min."""
    count, first, last = case.facts["nfe"], case.facts["call_sigmas"][0], case.facts["sigma_end"]
    sigmas = jnp.exp(jnp.linspace(jnp.log(first), jnp.log(last), samplers.fast_steps(count) + 1))
    sampler = samplers.dpm_fast(count, eta, floor=last)
    noise = samplers.tape(_padded(case.tape, len(sigmas) - 1))
    return walk(process.edm(), sampler, sigmas, case.z * first, noise)


_DPM_2M, _DPM_2M_HEUN = samplers.dpmpp_2m, functools.partial(samplers.dpmpp_2m, midpoint=False)
_DPM_3M = functools.partial(samplers.dpmpp_3m, published=True)

_SDE = functools.partial(samplers.dpmpp_sde, paired=False)
_TWO = {"stage": slice(0, None, 2), "solver": slice(1, None, 2)}

RECIPES = {
    "k-diffusion/euler/*": _of(samplers.euler()),
    "k-diffusion/euler_churn/*": functools.partial(_churned, samplers.euler()),
    "k-diffusion/euler_ancestral/*": _of(samplers.ddim(1.0)),
    "k-diffusion/heun/*": _of(samplers.heun(0.0)),
    "k-diffusion/heun_churn/*": functools.partial(_churned, samplers.heun(0.0)),
    "k-diffusion/dpm_2/*": _of(samplers.dpm_2()),
    "k-diffusion/dpm_2_ancestral/*": _of(samplers.dpm_2(1.0)),
    "k-diffusion/lms2/*": _of(samplers.adams(2, c=0.0)),
    "k-diffusion/lms3/*": _of(samplers.adams(3, c=0.0)),
    "k-diffusion/lms4/*": _of(samplers.adams(4, c=0.0)),
    "k-diffusion/dpmpp_2s/*": _of(samplers.dpmpp_2s()),
    "k-diffusion/dpmpp_2s_ancestral/*": _of(samplers.dpmpp_2s(1.0)),
    "k-diffusion/dpmpp_2m/*": _of(_DPM_2M()),
    "k-diffusion/dpmpp_2m_sde_midpoint/*": _of(_DPM_2M(1.0)),
    "k-diffusion/dpmpp_2m_sde_midpoint_eta0/*": _of(_DPM_2M()),
    "k-diffusion/dpmpp_2m_sde_eta0.5/*": _of(_DPM_2M(0.5)),
    "k-diffusion/dpmpp_2m_sde_heun/*": _of(_DPM_2M_HEUN(1.0)),
    "k-diffusion/dpmpp_2m_sde_heun_eta0/*": _of(_DPM_2M_HEUN()),
    "k-diffusion/dpmpp_3m_sde/*": _of(_DPM_3M(1.0)),
    "k-diffusion/dpmpp_3m_sde_eta0/*": _of(_DPM_3M()),
    "k-diffusion/dpmpp_sde/*": _of(_SDE(1.0), **_TWO),
    "k-diffusion/dpmpp_sde_eta0/*": _of(_SDE(0.0), **_TWO),
    "k-diffusion/dpm_fast/*": functools.partial(_fast, 0.0),
    "k-diffusion/dpm_fast_eta1/*": functools.partial(_fast, 1.0),
}
