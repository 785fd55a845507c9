"""CFG++: guidance that interpolates, and puts the noise of the unconditional branch back.

With x_0^l = x_0(null) + l (x_0(cond) - x_0(null)) and eps(null) the noise that goes with
x_0(null), (x_t - alpha_t x_0(null))/sigma_t, a step of DDIM becomes

    x_s = alpha_s x_0^l + c eps(null) + (noise),    c^2 = sigma_s^2 - (variance of the noise).

DDIM makes both terms of one x_0', x_s = alpha_s x_0' + c (x_t - alpha_t x_0')/sigma_t, and the two
agree if x_0' = x_0(null) + w (x_0(cond) - x_0(null)) with

    w = l / (1 - (alpha_t c) / (alpha_s sigma_t)),

so CFG++ is guidance with a scale that depends on the step: large where the step is small, l at the
last step, which puts no noise back.

Chung et al. 2024, arXiv:2406.08070, algorithm 2.
"""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Model, Number, cfg, numeric, value_at
from jaxdiff.process import Process, log_snr
from jaxdiff.types import At, PyTree, number


def _plus(process: Process, scale: Any, eta: Array, at: At) -> Array:
    # alpha_t sigma_s / (alpha_s sigma_t), and what eta leaves of sigma_s
    fall = log_snr(process, at.t) - log_snr(process, at.now.s)
    ratio = jnp.exp(fall / 2) * jnp.sqrt(jnp.maximum(1 + eta**2 * jnp.expm1(fall), 0.0))
    left = jnp.where(ratio < 1, 1 - ratio, 1.0)
    return value_at(scale, at) / left


def cfg_plus(
    model: Model, cond: PyTree, null: PyTree, scale: Number, *, eta: float | Array = 0.0
) -> Denoiser:
    """CFG++ for DDIM, in one call at 2b: `sample(key, cfg_plus(...), samplers.ddim(eta))`.

    x_s = alpha_s (x_0(null) + scale (x_0(cond) - x_0(null))) + c eps(null) + noise, exactly, where
    the sampler is `ddim(eta)`, `euler()` (eta = 0) or `ddpm()` (eta = 1). Other solvers take it
    for what it is, guidance at the scale of their step; in a stage at the end of a step (Heun) the
    scale is `scale`.

    Args:
      model: a model trained with its condition dropped at times.
      cond: the condition, a tree with leading axis b.
      null: the empty condition.
      scale: lambda, in [0, 1] in the paper: 0 is unconditional. A number, [b], or At -> scalar.
      eta: of the sampler.

    Raises:
      GridOnly: outside a loop over steps.

    Chung et al. 2024, arXiv:2406.08070, algorithm 2.
    """
    return cfg(model, cond, null, Partial(_plus, model.process, numeric(scale), number(eta)))
