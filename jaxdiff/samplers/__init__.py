"""How to walk: the one loop, its solvers and corrections; Diffrax loads on first use."""

from typing import TYPE_CHECKING, Any

from jaxdiff.samplers.adams import adams
from jaxdiff.samplers.churn import churn
from jaxdiff.samplers.consistency import lcm, tcd
from jaxdiff.samplers.corrections import after, through
from jaxdiff.samplers.ddim import ddim, ddpm, euler
from jaxdiff.samplers.dpmpp import dpm_solver_m, dpmpp_2m, dpmpp_3m
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.ito import ito
from jaxdiff.samplers.loop import grid, renoise, run, travel
from jaxdiff.samplers.moulton import adams_moulton
from jaxdiff.samplers.pndm import ipndm, plms, pndm
from jaxdiff.samplers.singlestep import dpm_2, dpmpp_2s
from jaxdiff.samplers.start import sample
from jaxdiff.samplers.unipc import deis, sa_solver, unipc
from jaxdiff.samplers.variances import fixed_large, fixed_small, learned_range
from jaxdiff.trees import tape

if TYPE_CHECKING:
    from jaxdiff.samplers.continuous import integrate


def __getattr__(name: str) -> Any:
    if name == "integrate":
        from jaxdiff.samplers.continuous import integrate

        return integrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "adams",
    "adams_moulton",
    "after",
    "churn",
    "ddim",
    "ddpm",
    "deis",
    "dpm_2",
    "dpm_solver_m",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "euler",
    "fixed_large",
    "fixed_small",
    "grid",
    "heun",
    "integrate",
    "ipndm",
    "ito",
    "lcm",
    "learned_range",
    "plms",
    "pndm",
    "renoise",
    "run",
    "sa_solver",
    "sample",
    "tape",
    "tcd",
    "through",
    "travel",
    "unipc",
]
