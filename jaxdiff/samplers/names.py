"""The names that people type: of samplers and schedules in other programs, and what they are here.

This is the one place where a string names a sampler. Everything else takes functions; `named` looks
them up. Each row holds the spellings, divided by ";", and a call that is made when asked for.

Capitals and punctuation do not count, and "DPM++" may be typed "dpmpp".
"""

import difflib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdiff import process as pr
from jaxdiff.process import Process
from jaxdiff.process.grids import Grid
from jaxdiff.types import Sampler


class Row(NamedTuple):
    """The spellings of a sampler, how this package makes it, and its schedule if none is named.

    `short`: the program that made the name known leaves out the last noise level asked at.
    """

    names: str
    make: Callable[[Any], Sampler]
    schedule: str
    short: bool = False


SAMPLERS = (
    Row("Euler; EulerDiscreteScheduler; flow Euler", lambda s: s.euler(), "normal"),
    Row("FlowMatchEulerDiscreteScheduler", lambda s: s.euler(), "normal"),
    Row("EDMEulerScheduler", lambda s: s.euler(), "karras"),
    Row(
        "Euler a; euler_ancestral; EulerAncestralDiscreteScheduler",
        lambda s: s.ddim(1.0),
        "normal",
    ),
    Row("Heun; HeunDiscreteScheduler", lambda s: s.heun(), "normal"),
    Row("flow Heun; FlowMatchHeunDiscreteScheduler", lambda s: s.heun(1.0), "normal"),
    Row("EDM stochastic; EDM churn", lambda s: s.churn()(s.heun()), "karras"),
    Row("LMS; LMSDiscreteScheduler", lambda s: s.adams(4), "normal"),
    Row("DPM2; dpm_2", lambda s: s.dpm_2(), "karras", short=True),
    Row("DPM2 a; dpm_2_ancestral", lambda s: s.dpm_2(1.0), "karras", short=True),
    Row("KDPM2DiscreteScheduler", lambda s: s.dpm_2(), "normal"),
    Row("KDPM2AncestralDiscreteScheduler", lambda s: s.dpm_2(1.0), "normal"),
    Row("DPM++ 2S", lambda s: s.dpmpp_2s(), "karras"),
    Row("DPM++ 2S a; dpmpp_2s_ancestral", lambda s: s.dpmpp_2s(1.0), "karras"),
    Row("DPM++ SDE; DPMSolverSDEScheduler", lambda s: s.dpmpp_sde(), "karras"),
    Row("DPM++ 2M", lambda s: s.dpmpp_2m(), "karras"),
    Row(
        "DPMSolverMultistepScheduler; DPM-Solver++",
        lambda s: s.dpmpp_2m(taper=15),
        "sgm_uniform",
    ),
    Row("EDMDPMSolverMultistepScheduler", lambda s: s.dpmpp_2m(taper=15), "karras"),
    Row("DPM++ 2M SDE", lambda s: s.dpmpp_2m(1.0), "exponential"),
    Row("DPM++ 2M SDE Heun", lambda s: s.dpmpp_2m(1.0, midpoint=False), "exponential"),
    Row("CosineDPMSolverMultistepScheduler", lambda s: s.dpmpp_2m(1.0), "exponential"),
    Row("DPM++ 3M", lambda s: s.dpmpp_3m(), "exponential"),
    Row("DPM++ 3M SDE", lambda s: s.dpmpp_3m(1.0, published=True), "exponential"),
    Row("DPM-Solver", lambda s: s.dpm_solver_m(), "sgm_uniform"),
    Row("UniPC; uni_pc", lambda s: s.unipc(3, bh1=True), "sgm_uniform", short=True),
    Row("uni_pc_bh2", lambda s: s.unipc(3), "sgm_uniform", short=True),
    Row("UniPCMultistepScheduler", lambda s: s.unipc(2), "sgm_uniform"),
    Row("DEIS", lambda s: s.deis(3), "sgm_uniform"),
    Row("DEISMultistepScheduler", lambda s: s.deis(2), "sgm_uniform"),
    Row("SA-Solver; SASolverScheduler", lambda s: s.sa_solver(), "sgm_uniform"),
    Row("ER-SDE", lambda s: s.er_sde(), "karras"),
    Row("DDPM; DDPMScheduler; ancestral", lambda s: s.ddpm(), "trailing"),
    Row("DDPM fixed_small", lambda s: s.ddpm(), "trailing"),
    Row("DDPM fixed_large", lambda s: s.ddpm(s.fixed_large), "trailing"),
    Row("DDPM learned_range; DDPM learned", lambda s: s.ddpm(s.learned_range), "trailing"),
    Row("DDIM; DDIMScheduler; DDIMParallelScheduler", lambda s: s.ddim(), "trailing"),
    Row("PLMS", lambda s: s.plms(), "trailing"),
    Row("PNDM; PNDMScheduler", lambda s: s.pndm(), "trailing"),
    Row("iPNDM; IPNDMScheduler", lambda s: s.ipndm(), "karras"),
    Row("LCM; LCMScheduler; FlowMatchLCMScheduler", lambda s: s.lcm(), "sgm_uniform"),
    Row("TCD; TCDScheduler", lambda s: s.tcd(), "trailing"),
)
"""Samplers, with the schedules of A1111 or diffusers, as far as they exist for every process."""


def _on_tables(whole: Grid, process: Process, n: int) -> Any:
    return (whole if pr.is_table(process) else pr.uniform)(process, n)


def _aligned(model: str) -> Grid:
    return lambda process, n: pr.align_your_steps(process, n, pr.AYS[model])


SCHEDULES: dict[str, Grid] = {
    "Karras": pr.karras,
    "Exponential; Lu; uniform lambda; logSNR": pr.uniform_lambda,
    "Polyexponential": pr.polyexponential,
    "Beta": pr.beta,
    "KL optimal": pr.kl_optimal,
    "Normal; Uniform; linspace": pr.linspace,
    "SGM uniform": pr.discard_penultimate(pr.linspace),
    "Trailing": lambda process, n: _on_tables(pr.trailing, process, n),
    "Simple": lambda process, n: _on_tables(pr.simple, process, n),
    "Leading": pr.leading,
    "DDIM uniform; DDIM": lambda process, n: pr.leading(process, n, 1),
    "Quadratic": pr.quadratic,
    "LCM times": pr.lcm_times,
    "Align Your Steps; AYS; Align Your Steps SD": _aligned("stable_diffusion"),
    "Align Your Steps SDXL; AYS SDXL; Align Your Steps XL": _aligned("stable_diffusion_xl"),
    "Align Your Steps SVD; AYS SVD": _aligned("stable_video"),
}

INSTEAD = {
    "GITS": "it is made for one denoiser: ts = samplers.gits(denoise, x, fine, n), then times=ts",
    "Restart": "it is a way to walk: rows=partial(samplers.restart, ...) with any sampler",
    "DPM fast": (
        "it spends a budget: samplers.dpm_fast(evaluations), with "
        "steps=samplers.fast_steps(evaluations) + 1 and times=process.uniform_lambda"
    ),
    "DPM adaptive": "it takes no grid: samplers.dpm_adaptive(denoise, x)",
}
"""What is neither a sampler nor a schedule here, and what to call."""


def named(name: str, schedule: str | None = None) -> tuple[Sampler, Grid]:
    """The sampler and the grid that A1111, ComfyUI, k-diffusion or diffusers call so.

    The schedule is a second word of the name or the second argument; without one, it is that which
    goes with the sampler there, or "trailing" in the place of "leading".

    Args:
      name: "DPM++ 2M Karras", "dpmpp_2m_sde", "sample_euler_ancestral", "UniPCMultistepScheduler".
      schedule: "karras", "sgm_uniform", "Align Your Steps"; None where the name says it, or not.

    Returns:
      (sampler, grid function), for `sample(key, denoise, sampler, times=grid)`.

    Raises:
      ValueError: if nothing is called so, with the nearest names; or if it is no sampler on a grid
        here, with what to call.

    >>> from jaxdiff.process import edm
    >>> sampler, times = named("DPM++ 2M Karras")
    >>> [round(t, 3) for t in times(edm(), 3).tolist()]
    [80.0, 2.515, 0.002, 0.0]
    """
    from jaxdiff import samplers

    spelled, key = f"{name} {schedule or ''}".strip(), _key(name) + _key(schedule or "")
    _check_instead(spelled, key)
    found = [
        (row, rest)
        for alias, row in _rows().items()
        if key.startswith(alias) and (rest := key[len(alias) :]) in {"", *_grids()}
    ]
    if not found:
        raise ValueError(f"{spelled!r} names no sampler; near it: {', '.join(_nearest(key))}")
    row, rest = min(found, key=lambda one: len(one[1]))
    times = _grids()[rest or _key(row.schedule)]
    return row.make(samplers), pr.discard_penultimate(times) if row.short else times


def _key(name: str) -> str:
    """Letters and digits alone, without what programs put before and after a name."""
    plain = re.sub(r"^(k|sample)_|_gpu\b", "", name.strip().lower().replace("++", "pp"))
    return re.sub(r"(?<=.)scheduler$", "", re.sub(r"[^a-z0-9]", "", plain))


def _spellings(names: str) -> list[str]:
    return [name.strip() for name in names.split(";")]


def _rows() -> dict[str, Row]:
    return {_key(name): row for row in SAMPLERS for name in _spellings(row.names)}


def _grids() -> dict[str, Grid]:
    return {_key(name): grid for names, grid in SCHEDULES.items() for name in _spellings(names)}


def _check_instead(spelled: str, key: str) -> None:
    for name, what in INSTEAD.items():
        own = _key(name)
        as_sampler = {own + grid for grid in ("", *_grids())}
        as_schedule = {row + own for row in _rows()}
        if key in as_sampler | as_schedule:
            raise ValueError(f"{spelled!r} is not given by name: {what}")


def _nearest(key: str) -> list[str]:
    samplers = [name for row in SAMPLERS for name in _spellings(row.names)]
    schedules = [_spellings(names)[0] for names in SCHEDULES]
    known = {_key(name): name for name in samplers}
    known |= {_key(a) + _key(b): f"{a} {b}" for a in samplers for b in schedules}
    return [repr(known[near]) for near in difflib.get_close_matches(key, known, 4, 0.3)]
