"""Autoencoders: images to codes that a diffusion model can afford, and back.

Each constructor returns an `Autoencoder` of pure functions; `tiled` and `sliced` are for large
images and many of them.
"""

from jaxdiff.nets.autoencoders.gaussian import autoencoder_kl
from jaxdiff.nets.autoencoders.record import Autoencoder, Code, Quantized, draw, kl, scaling
from jaxdiff.nets.autoencoders.tiles import sliced, tiled
from jaxdiff.nets.autoencoders.tiny import autoencoder_tiny, from_unit, to_unit
from jaxdiff.nets.autoencoders.vq import autoencoder_vq

__all__ = [
    "Autoencoder",
    "Code",
    "Quantized",
    "autoencoder_kl",
    "autoencoder_tiny",
    "autoencoder_vq",
    "draw",
    "from_unit",
    "kl",
    "scaling",
    "sliced",
    "tiled",
    "to_unit",
]
