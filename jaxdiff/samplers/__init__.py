"""How to walk: the one loop, its solvers and corrections; Diffrax loads on first use."""

from typing import TYPE_CHECKING, Any

from jaxdiff.samplers.adams import adams
from jaxdiff.samplers.adjusting import adjusted, fibonacci_left, linear_left
from jaxdiff.samplers.analytic import (
    analytic,
    analytic_variance,
    noise_power,
    npr_variance,
    sn_variance,
)
from jaxdiff.samplers.bits import bits_per_dim, dequantise
from jaxdiff.samplers.checked import checked
from jaxdiff.samplers.churn import churn
from jaxdiff.samplers.consistency import lcm, tcd
from jaxdiff.samplers.corrections import after, through
from jaxdiff.samplers.ddim import ddim, ddpm, euler
from jaxdiff.samplers.dpm_adaptive import dpm_adaptive
from jaxdiff.samplers.dpm_fast import dpm_fast, fast_steps
from jaxdiff.samplers.dpm_v3 import dpm_solver_v3
from jaxdiff.samplers.dpmpp import dpm_solver_m, dpmpp_2m, dpmpp_3m
from jaxdiff.samplers.dpmpp_sde import dpmpp_sde
from jaxdiff.samplers.er_sde import er_sde
from jaxdiff.samplers.gits import gits
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.inversion import invert
from jaxdiff.samplers.ito import ito
from jaxdiff.samplers.langevin import annealed, langevin, ncsn_size, renewal, stay
from jaxdiff.samplers.loop import grid, renoise, run, travel
from jaxdiff.samplers.moulton import adams_moulton
from jaxdiff.samplers.names import named
from jaxdiff.samplers.pndm import ipndm, plms, pndm
from jaxdiff.samplers.predictor_corrector import corrected, reverse_diffusion
from jaxdiff.samplers.restart import restart
from jaxdiff.samplers.singlestep import dpm_2, dpm_3, dpmpp_2s, dpmpp_3s, singlestep
from jaxdiff.samplers.start import sample
from jaxdiff.samplers.statistics import Statistics, model_statistics
from jaxdiff.samplers.unipc import deis, sa_solver, unipc
from jaxdiff.samplers.variances import fixed_large, fixed_small, learned_range
from jaxdiff.trees import tape

if TYPE_CHECKING:
    from jaxdiff.samplers.continuous import ddib, encode, integrate, log_likelihood

_CONTINUOUS = ("ddib", "encode", "integrate", "log_likelihood")


def __getattr__(name: str) -> Any:
    if name in _CONTINUOUS:
        from jaxdiff.samplers import continuous

        return getattr(continuous, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Statistics",
    "adams",
    "adams_moulton",
    "adjusted",
    "after",
    "analytic",
    "analytic_variance",
    "annealed",
    "bits_per_dim",
    "checked",
    "churn",
    "corrected",
    "ddib",
    "ddim",
    "ddpm",
    "deis",
    "dequantise",
    "dpm_2",
    "dpm_3",
    "dpm_adaptive",
    "dpm_fast",
    "dpm_solver_m",
    "dpm_solver_v3",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_3s",
    "dpmpp_sde",
    "encode",
    "er_sde",
    "euler",
    "fast_steps",
    "fibonacci_left",
    "fixed_large",
    "fixed_small",
    "gits",
    "grid",
    "heun",
    "integrate",
    "invert",
    "ipndm",
    "ito",
    "langevin",
    "lcm",
    "learned_range",
    "linear_left",
    "log_likelihood",
    "model_statistics",
    "named",
    "ncsn_size",
    "noise_power",
    "npr_variance",
    "plms",
    "pndm",
    "renewal",
    "renoise",
    "restart",
    "reverse_diffusion",
    "run",
    "sa_solver",
    "sample",
    "singlestep",
    "sn_variance",
    "stay",
    "tape",
    "tcd",
    "through",
    "travel",
    "unipc",
]
