"""Measurements of one example: what they share in `kernel` and `solve`, then one file a kind."""

from jaxdiff.inverse.operators.blur import blur, varying_blur
from jaxdiff.inverse.operators.blur_kernels import (
    anisotropic_kernel,
    gaussian_kernel,
    motion_kernel,
)
from jaxdiff.inverse.operators.colour import LUMA, colourisation
from jaxdiff.inverse.operators.combine import compose, stack
from jaxdiff.inverse.operators.fourier import coils, fourier
from jaxdiff.inverse.operators.jpeg import jpeg
from jaxdiff.inverse.operators.kernel import (
    Measurement,
    Nonlinear,
    Operator,
    Svd,
    check_example,
    check_measurement,
    struct,
)
from jaxdiff.inverse.operators.linear import linear, matrix
from jaxdiff.inverse.operators.masks import (
    box_mask,
    check_mask,
    column_mask,
    inpainting,
    random_mask,
    stroke_mask,
)
from jaxdiff.inverse.operators.nonlinear import (
    blind_blur,
    hdr,
    nonlinear_blur,
    phase_retrieval,
    quantise,
)
from jaxdiff.inverse.operators.radon import radon
from jaxdiff.inverse.operators.resize import average_pool, bicubic
from jaxdiff.inverse.operators.sensing import gaussian_sensing, hadamard, walsh_hadamard
from jaxdiff.inverse.operators.solve import check_solve, residual

__all__ = [
    "LUMA",
    "Measurement",
    "Nonlinear",
    "Operator",
    "Svd",
    "anisotropic_kernel",
    "average_pool",
    "bicubic",
    "blind_blur",
    "blur",
    "box_mask",
    "check_example",
    "check_mask",
    "check_measurement",
    "check_solve",
    "coils",
    "colourisation",
    "column_mask",
    "compose",
    "fourier",
    "gaussian_kernel",
    "gaussian_sensing",
    "hadamard",
    "hdr",
    "inpainting",
    "jpeg",
    "linear",
    "matrix",
    "motion_kernel",
    "nonlinear_blur",
    "phase_retrieval",
    "quantise",
    "radon",
    "random_mask",
    "residual",
    "stack",
    "stroke_mask",
    "struct",
    "varying_blur",
    "walsh_hadamard",
]
