"""Inverse problems: operators, and guides and corrections that sample their posteriors."""

from jaxdiff.inverse import noises
from jaxdiff.inverse.blind import blind_dps, paired
from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.ddnm import ddnm
from jaxdiff.inverse.dds import dds
from jaxdiff.inverse.diffface import diffface
from jaxdiff.inverse.diffpir import diffpir, remix
from jaxdiff.inverse.dmps import dmps, score_ald
from jaxdiff.inverse.dps import dps, dps_poisson, dps_published
from jaxdiff.inverse.gaussian import misfit, mmps, pigdm
from jaxdiff.inverse.hard import flowdps, hard_consistency, resample
from jaxdiff.inverse.latent import latent, psld
from jaxdiff.inverse.mpgd import flowchef, mpgd
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
from jaxdiff.inverse.projection import ilvr, mcg, project
from jaxdiff.inverse.repaint import repaint
from jaxdiff.inverse.sitcom import sitcom
from jaxdiff.inverse.spectral import ddnm_plus, ddrm, ddrm_start
from jaxdiff.inverse.tmpd import tmpd

__all__ = [
    "Noise",
    "Nonlinear",
    "Operator",
    "Svd",
    "average_pool",
    "blind_dps",
    "cg",
    "ddnm",
    "ddnm_plus",
    "ddrm",
    "ddrm_start",
    "dds",
    "diffface",
    "diffpir",
    "dmps",
    "dps",
    "dps_poisson",
    "dps_published",
    "flowchef",
    "flowdps",
    "hard_consistency",
    "ilvr",
    "inpainting",
    "latent",
    "linear",
    "matrix",
    "mcg",
    "misfit",
    "mmps",
    "mpgd",
    "noises",
    "paired",
    "pigdm",
    "project",
    "psld",
    "remix",
    "repaint",
    "resample",
    "score_ald",
    "sitcom",
    "stack",
    "tmpd",
]
