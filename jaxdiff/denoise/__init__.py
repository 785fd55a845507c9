"""The joint of the library: networks become models here, models become denoisers, and only here.

A MODEL answers E[x_0 | x_t, cond] for any condition. A DENOISER has its condition bound: it answers
E[x_0 | x_t], and carries its process, so that no guide and no sampler takes one. What is linear in
the prediction (score, noise, velocity) is read off the posterior mean by Tweedie's formula,

    E[eps | x_t] = (x_t - alpha E[x_0 | x_t]) / sigma,   score = -E[eps | x_t] / sigma.

Efron 2011, doi:10.1198/jasa.2011.tm11181.
"""

from jaxdiff.denoise.branches import Rule, combined, joined, parted
from jaxdiff.denoise.door import Denoiser, Model, bind, check_range, model, predict
from jaxdiff.denoise.frames import noise, rebase, score, velocity
from jaxdiff.denoise.learned import halves, learned_variance
from jaxdiff.denoise.mixing import all_memories, blend, cfg, mix
from jaxdiff.denoise.weights import Number, numeric, value_at

__all__ = [
    "Denoiser",
    "Model",
    "Number",
    "Rule",
    "all_memories",
    "bind",
    "blend",
    "cfg",
    "check_range",
    "combined",
    "halves",
    "joined",
    "learned_variance",
    "mix",
    "model",
    "noise",
    "numeric",
    "parted",
    "predict",
    "rebase",
    "score",
    "value_at",
    "velocity",
]
