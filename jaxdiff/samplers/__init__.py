"""How to walk: the one loop, its solvers and corrections; Diffrax loads on first use."""

from typing import TYPE_CHECKING, Any

from jaxdiff.samplers.adams import adams
from jaxdiff.samplers.bits import bits_per_dim, dequantise
from jaxdiff.samplers.churn import churn
from jaxdiff.samplers.corrections import after, through
from jaxdiff.samplers.ddim import ddim, ddpm, euler
from jaxdiff.samplers.dpmpp import dpmpp_2m, dpmpp_3m
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.loop import grid, renoise, run, travel
from jaxdiff.samplers.singlestep import dpm_2, dpmpp_2s
from jaxdiff.samplers.start import sample
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
    "adams",
    "after",
    "bits_per_dim",
    "churn",
    "ddib",
    "ddim",
    "ddpm",
    "dequantise",
    "dpm_2",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "encode",
    "euler",
    "grid",
    "heun",
    "integrate",
    "log_likelihood",
    "renoise",
    "run",
    "sample",
    "tape",
    "through",
    "travel",
]
