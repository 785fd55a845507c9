"""Inverse problems: operators, and guides and corrections that sample their posteriors."""

from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.ddnm import ddnm
from jaxdiff.inverse.dps import dps, dps_published
from jaxdiff.inverse.fps import fps
from jaxdiff.inverse.gaussian import misfit, mmps, pigdm
from jaxdiff.inverse.mcgdiff import mcgdiff
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
from jaxdiff.inverse.particles import effective_size, systematic
from jaxdiff.inverse.repaint import repaint
from jaxdiff.inverse.steered import difference, greatest, steered, total
from jaxdiff.inverse.twisted import twisted

__all__ = [
    "Nonlinear",
    "Operator",
    "Svd",
    "average_pool",
    "cg",
    "ddnm",
    "difference",
    "dps",
    "dps_published",
    "effective_size",
    "fps",
    "greatest",
    "inpainting",
    "linear",
    "matrix",
    "mcgdiff",
    "misfit",
    "mmps",
    "pigdm",
    "repaint",
    "stack",
    "steered",
    "systematic",
    "total",
    "twisted",
]
