"""Guides: Denoiser -> Denoiser. Classifier-free guidance is `cfg`, made where models are bound."""

from jaxdiff.denoise import cfg, mix
from jaxdiff.guidance.energy import clip, energy, towards
from jaxdiff.guidance.interval import interval
from jaxdiff.guidance.kernel import Guide, add, chain, edited, pulled, tweedie_gain

__all__ = [
    "Guide",
    "add",
    "cfg",
    "chain",
    "clip",
    "edited",
    "energy",
    "interval",
    "mix",
    "pulled",
    "towards",
    "tweedie_gain",
]
