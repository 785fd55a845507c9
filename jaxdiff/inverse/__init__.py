"""Inverse problems: operators, and guides and corrections that sample their posteriors."""

from jaxdiff.inverse import noises
from jaxdiff.inverse.adir import adir, nearest
from jaxdiff.inverse.alternating import gibbs_ddrm, ladibi
from jaxdiff.inverse.blind import blind_dps, paired
from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.daps import daps
from jaxdiff.inverse.ddnm import ddnm
from jaxdiff.inverse.dds import dds
from jaxdiff.inverse.diffface import diffface
from jaxdiff.inverse.diffpir import diffpir, remix
from jaxdiff.inverse.dmps import dmps, score_ald
from jaxdiff.inverse.dps import dps, dps_poisson, dps_published
from jaxdiff.inverse.fps import fps
from jaxdiff.inverse.gaussian import misfit, mmps, pigdm
from jaxdiff.inverse.hard import flowdps, hard_consistency, resample
from jaxdiff.inverse.latent import latent, psld
from jaxdiff.inverse.mcgdiff import mcgdiff
from jaxdiff.inverse.moves import conjugate, hmc, langevin, log_likelihood, metropolis
from jaxdiff.inverse.mpgd import flowchef, mpgd
from jaxdiff.inverse.noises import Noise
from jaxdiff.inverse.operators import (
    LUMA,
    Measurement,
    Nonlinear,
    Operator,
    Svd,
    anisotropic_kernel,
    average_pool,
    bicubic,
    blind_blur,
    blur,
    box_mask,
    check_solve,
    coils,
    colourisation,
    column_mask,
    compose,
    fourier,
    gaussian_kernel,
    gaussian_sensing,
    hadamard,
    hdr,
    inpainting,
    jpeg,
    linear,
    matrix,
    motion_kernel,
    nonlinear_blur,
    phase_retrieval,
    quantise,
    radon,
    random_mask,
    residual,
    stack,
    stroke_mask,
    varying_blur,
    walsh_hadamard,
)
from jaxdiff.inverse.particles import effective_size, systematic
from jaxdiff.inverse.pnp_dm import pnp_dm
from jaxdiff.inverse.projection import ilvr, mcg, project
from jaxdiff.inverse.red_diff import red_diff
from jaxdiff.inverse.repaint import repaint
from jaxdiff.inverse.sitcom import sitcom
from jaxdiff.inverse.spectral import ddnm_plus, ddrm, ddrm_start
from jaxdiff.inverse.steered import difference, greatest, steered, total
from jaxdiff.inverse.stsl import stsl
from jaxdiff.inverse.tmpd import tmpd
from jaxdiff.inverse.twisted import twisted

__all__ = [
    "LUMA",
    "Measurement",
    "Noise",
    "Nonlinear",
    "Operator",
    "Svd",
    "adir",
    "anisotropic_kernel",
    "average_pool",
    "bicubic",
    "blind_blur",
    "blind_dps",
    "blur",
    "box_mask",
    "cg",
    "check_solve",
    "coils",
    "colourisation",
    "column_mask",
    "compose",
    "conjugate",
    "daps",
    "ddnm",
    "ddnm_plus",
    "ddrm",
    "ddrm_start",
    "dds",
    "difference",
    "diffface",
    "diffpir",
    "dmps",
    "dps",
    "dps_poisson",
    "dps_published",
    "effective_size",
    "flowchef",
    "flowdps",
    "fourier",
    "fps",
    "gaussian_kernel",
    "gaussian_sensing",
    "gibbs_ddrm",
    "greatest",
    "hadamard",
    "hard_consistency",
    "hdr",
    "hmc",
    "ilvr",
    "inpainting",
    "jpeg",
    "ladibi",
    "langevin",
    "latent",
    "linear",
    "log_likelihood",
    "matrix",
    "mcg",
    "mcgdiff",
    "metropolis",
    "misfit",
    "mmps",
    "motion_kernel",
    "mpgd",
    "nearest",
    "noises",
    "nonlinear_blur",
    "paired",
    "phase_retrieval",
    "pigdm",
    "pnp_dm",
    "project",
    "psld",
    "quantise",
    "radon",
    "random_mask",
    "red_diff",
    "remix",
    "repaint",
    "resample",
    "residual",
    "score_ald",
    "sitcom",
    "stack",
    "steered",
    "stroke_mask",
    "stsl",
    "systematic",
    "tmpd",
    "total",
    "twisted",
    "varying_blur",
    "walsh_hadamard",
]
