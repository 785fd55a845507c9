"""What the figures of the project are made with: pictures, distances of sets, small probes."""

from jaxdiff.metrics.distances import (
    Moments,
    frechet,
    kernel_distance,
    moments,
    sliced_wasserstein,
)
from jaxdiff.metrics.likelihood import bits_bound
from jaxdiff.metrics.pictures import psnr, residual, ssim
from jaxdiff.metrics.probe import (
    Cnn,
    Logistic,
    cnn_logits,
    features,
    logistic,
    logits,
    small_cnn,
)

__all__ = [
    "Cnn",
    "Logistic",
    "Moments",
    "bits_bound",
    "cnn_logits",
    "features",
    "frechet",
    "kernel_distance",
    "logistic",
    "logits",
    "moments",
    "psnr",
    "residual",
    "sliced_wasserstein",
    "small_cnn",
    "ssim",
]
