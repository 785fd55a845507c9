"""Guides: Denoiser -> Denoiser. Classifier-free guidance is `cfg`, made where models are bound."""

from jaxdiff.denoise import cfg, mix
from jaxdiff.guidance.apg import apg
from jaxdiff.guidance.attention import identity_attention, middle, pag
from jaxdiff.guidance.by_step import by_step, falling, rising
from jaxdiff.guidance.cfgpp import cfg_plus
from jaxdiff.guidance.classifier import ancestral_classifier, classifier, noisy
from jaxdiff.guidance.compose import autoguided, compose
from jaxdiff.guidance.energy import clip, energy, towards
from jaxdiff.guidance.interval import interval
from jaxdiff.guidance.kernel import Guide, add, chain, edited, pulled, tweedie_gain
from jaxdiff.guidance.rescale import dynamic_threshold, rescaled_cfg
from jaxdiff.guidance.sag import sag
from jaxdiff.guidance.sketch import latent_edges, sketch
from jaxdiff.guidance.smoothed import smoothed, unit_spread
from jaxdiff.guidance.taps import controlled, stacked_taps, tapped
from jaxdiff.guidance.targets import (
    colour,
    gram,
    noisy_similarity,
    palette,
    segmentation,
    similarity,
    style,
)
from jaxdiff.guidance.tfg import tfg, tfg_dps, tfg_freedom, tfg_lgd, tfg_mpgd, tfg_ugd

__all__ = [
    "Guide",
    "add",
    "ancestral_classifier",
    "apg",
    "autoguided",
    "by_step",
    "cfg",
    "cfg_plus",
    "chain",
    "classifier",
    "clip",
    "colour",
    "compose",
    "controlled",
    "dynamic_threshold",
    "edited",
    "energy",
    "falling",
    "gram",
    "identity_attention",
    "interval",
    "latent_edges",
    "middle",
    "mix",
    "noisy",
    "noisy_similarity",
    "pag",
    "palette",
    "pulled",
    "rescaled_cfg",
    "rising",
    "sag",
    "segmentation",
    "similarity",
    "sketch",
    "smoothed",
    "stacked_taps",
    "style",
    "tapped",
    "tfg",
    "tfg_dps",
    "tfg_freedom",
    "tfg_lgd",
    "tfg_mpgd",
    "tfg_ugd",
    "towards",
    "tweedie_gain",
    "unit_spread",
]
