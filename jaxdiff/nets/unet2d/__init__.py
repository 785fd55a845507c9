"""The U-Nets of published diffusion models, in the names of their checkpoints.

`unet2d` with `Level`, `Look`, `Middle`, `Clock` and `Told` is that of DDPM, Stable Diffusion and
SDXL; `controlnet` makes its `Residuals`.
"""

from jaxdiff.nets.unet2d.controlnet import controlnet, copied, scaled
from jaxdiff.nets.unet2d.embedding import Clock, Told
from jaxdiff.nets.unet2d.levels import Level, Look, Middle
from jaxdiff.nets.unet2d.net import Residuals, unet2d

__all__ = [
    "Clock",
    "Level",
    "Look",
    "Middle",
    "Residuals",
    "Told",
    "controlnet",
    "copied",
    "scaled",
    "unet2d",
]
