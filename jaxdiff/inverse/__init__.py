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
from jaxdiff.inverse.projection import ilvr, mcg, project
from jaxdiff.inverse.repaint import repaint
from jaxdiff.inverse.sitcom import sitcom
from jaxdiff.inverse.spectral import ddnm_plus, ddrm, ddrm_start
from jaxdiff.inverse.stsl import stsl
from jaxdiff.inverse.tmpd import tmpd

__all__ = [
    "LUMA",
    "Measurement",
    "Noise",
    "Nonlinear",
    "Operator",
    "Svd",
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
    "fourier",
    "gaussian_kernel",
    "gaussian_sensing",
    "hadamard",
    "hard_consistency",
    "hdr",
    "ilvr",
    "inpainting",
    "jpeg",
    "latent",
    "linear",
    "matrix",
    "mcg",
    "misfit",
    "mmps",
    "motion_kernel",
    "mpgd",
    "noises",
    "nonlinear_blur",
    "paired",
    "phase_retrieval",
    "pigdm",
    "project",
    "psld",
    "quantise",
    "radon",
    "random_mask",
    "remix",
    "repaint",
    "resample",
    "residual",
    "score_ald",
    "sitcom",
    "stack",
    "stroke_mask",
    "stsl",
    "tmpd",
    "varying_blur",
    "walsh_hadamard",
]
