"""Inverse problems: operators, and guides and corrections that sample their posteriors."""

from jaxdiff.inverse.adir import adir, nearest
from jaxdiff.inverse.alternating import gibbs_ddrm, ladibi
from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.daps import daps
from jaxdiff.inverse.ddnm import ddnm
from jaxdiff.inverse.dps import dps, dps_published
from jaxdiff.inverse.fps import fps
from jaxdiff.inverse.gaussian import misfit, mmps, pigdm
from jaxdiff.inverse.mcgdiff import mcgdiff
from jaxdiff.inverse.moves import conjugate, hmc, langevin, log_likelihood, metropolis
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
from jaxdiff.inverse.pnp_dm import pnp_dm
from jaxdiff.inverse.red_diff import red_diff
from jaxdiff.inverse.repaint import repaint
from jaxdiff.inverse.steered import difference, greatest, steered, total
from jaxdiff.inverse.twisted import twisted

__all__ = [
    "Nonlinear",
    "Operator",
    "Svd",
    "adir",
    "average_pool",
    "cg",
    "conjugate",
    "daps",
    "ddnm",
    "difference",
    "dps",
    "dps_published",
    "effective_size",
    "fps",
    "gibbs_ddrm",
    "greatest",
    "hmc",
    "inpainting",
    "ladibi",
    "langevin",
    "linear",
    "log_likelihood",
    "matrix",
    "mcgdiff",
    "metropolis",
    "misfit",
    "mmps",
    "nearest",
    "pigdm",
    "pnp_dm",
    "red_diff",
    "repaint",
    "stack",
    "steered",
    "systematic",
    "total",
    "twisted",
]
