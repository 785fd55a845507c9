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
from jaxdiff.samplers.churn import churn
from jaxdiff.samplers.corrections import after, through
from jaxdiff.samplers.ddim import ddim, ddpm, euler
from jaxdiff.samplers.dpmpp import dpmpp_2m, dpmpp_3m
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.inversion import invert
from jaxdiff.samplers.langevin import annealed, langevin, ncsn_size, renewal, stay
from jaxdiff.samplers.loop import grid, renoise, run, travel
from jaxdiff.samplers.predictor_corrector import corrected, reverse_diffusion
from jaxdiff.samplers.singlestep import dpm_2, dpmpp_2s
from jaxdiff.samplers.start import sample
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
    "adjusted",
    "after",
    "analytic",
    "analytic_variance",
    "annealed",
    "churn",
    "corrected",
    "ddim",
    "ddpm",
    "dpm_2",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "euler",
    "fibonacci_left",
    "grid",
    "heun",
    "integrate",
    "invert",
    "langevin",
    "linear_left",
    "ncsn_size",
    "noise_power",
    "npr_variance",
    "renewal",
    "renoise",
    "reverse_diffusion",
    "run",
    "sample",
    "sn_variance",
    "stay",
    "tape",
    "through",
    "travel",
]
