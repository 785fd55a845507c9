"""The published transformers: DiT and SiT, PixArt, Stable Diffusion 3, FLUX, U-ViT.

Their parameters carry the names of the public checkpoints.
"""

from jaxdiff.nets.transformers.flux import flux
from jaxdiff.nets.transformers.labelled import labelled_dit
from jaxdiff.nets.transformers.pixart import pixart
from jaxdiff.nets.transformers.places import stretched
from jaxdiff.nets.transformers.sd3 import sd3
from jaxdiff.nets.transformers.uvit import uvit

__all__ = ["flux", "labelled_dit", "pixart", "sd3", "stretched", "uvit"]
