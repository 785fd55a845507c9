"""Inverse problems: operators, and guides and corrections that sample their posteriors."""

from jaxdiff.inverse import noises
from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.ddnm import ddnm
from jaxdiff.inverse.dps import dps, dps_published
from jaxdiff.inverse.gaussian import misfit, mmps, pigdm
from jaxdiff.inverse.noises import Noise
from jaxdiff.inverse.operators import (
    Nonlinear,
    Operator,
    Svd,
    average_pool,
    inpainting,
    linear,
    matrix,
    stack,
)
from jaxdiff.inverse.repaint import repaint

__all__ = [
    "Noise",
    "Nonlinear",
    "Operator",
    "Svd",
    "average_pool",
    "cg",
    "ddnm",
    "dps",
    "dps_published",
    "inpainting",
    "linear",
    "matrix",
    "misfit",
    "mmps",
    "noises",
    "pigdm",
    "repaint",
    "stack",
]
