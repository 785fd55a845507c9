"""The U-Nets of published diffusion models, in the names of their checkpoints.

`unet2d` with `Level`, `Look`, `Middle`, `Clock` and `Told` is that of DDPM, Stable Diffusion and
SDXL; `controlnet` makes its `Residuals`. `adm_unet` and `adm_classifier` are those of
guided-diffusion, `song_unet` and `dhariwal_unet` those of EDM.
"""

from jaxdiff.nets.unet2d.adm import adm_classifier, adm_unet
from jaxdiff.nets.unet2d.controlnet import controlnet, copied, scaled
from jaxdiff.nets.unet2d.edm import dhariwal_unet, song_unet
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
    "adm_classifier",
    "adm_unet",
    "controlnet",
    "copied",
    "dhariwal_unet",
    "scaled",
    "song_unet",
    "unet2d",
]
