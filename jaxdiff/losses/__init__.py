"""Losses: one kernel, and the recipes of the papers over it; score matching; variational bounds."""

from jaxdiff.losses.bounds import hybrid_loss, vlb_loss
from jaxdiff.losses.decoder import discretised_gaussian
from jaxdiff.losses.kernel import denoising_loss, dropped, exchange, mean_square
from jaxdiff.losses.matching import (
    denoising_score_loss,
    explicit_score_loss,
    implicit_score_loss,
    network_score,
)
from jaxdiff.losses.ncsn import geometric_levels, level_law, ncsn_loss
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
from jaxdiff.losses.resampling import Resampler, drawn, observed, resampler, shares
from jaxdiff.losses.sliced import (
    finite_difference_energy_loss,
    finite_difference_score_loss,
    signs,
    sliced_score_loss,
)
from jaxdiff.losses.vlb import Bound, step_variances, variational_bound

__all__ = [
    "Bound",
    "Resampler",
    "ddpm_loss",
    "denoising_loss",
    "denoising_score_loss",
    "discretised_gaussian",
    "drawn",
    "dropped",
    "edm_loss",
    "exchange",
    "explicit_score_loss",
    "finite_difference_energy_loss",
    "finite_difference_score_loss",
    "flow_matching_loss",
    "geometric_levels",
    "hybrid_loss",
    "implicit_score_loss",
    "level_law",
    "likelihood_loss",
    "mean_square",
    "min_snr_loss",
    "ncsn_loss",
    "network_score",
    "observed",
    "p2_loss",
    "resampler",
    "shares",
    "sigmoid_loss",
    "signs",
    "sliced_score_loss",
    "step_variances",
    "v_loss",
    "variational_bound",
    "vlb_loss",
    "x0_loss",
]
