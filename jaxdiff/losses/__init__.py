"""Losses: one kernel, and the recipes of the papers over it."""

from jaxdiff.losses.kernel import denoising_loss, dropped, exchange, mean_square
from jaxdiff.losses.recipes import (
    ddpm_loss,
    edm_loss,
    flow_matching_loss,
    likelihood_loss,
    min_snr_loss,
    p2_loss,
    sigmoid_loss,
    v_loss,
    x0_loss,
)

__all__ = [
    "ddpm_loss",
    "denoising_loss",
    "dropped",
    "edm_loss",
    "exchange",
    "flow_matching_loss",
    "likelihood_loss",
    "mean_square",
    "min_snr_loss",
    "p2_loss",
    "sigmoid_loss",
    "v_loss",
    "x0_loss",
]
