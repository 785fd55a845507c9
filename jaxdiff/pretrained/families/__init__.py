"""Families of checkpoints, by the class name that their config gives."""

from jaxdiff.pretrained.families import autoencoder, unet
from jaxdiff.pretrained.families.family import Family

FAMILIES: dict[str, Family] = {
    "AutoencoderKL": autoencoder.KL,
    "AutoencoderTiny": autoencoder.TINY,
    "ControlNetModel": unet.CONTROLNET,
    "UNet2DConditionModel": unet.UNET2D_CONDITION,
    "UNet2DModel": unet.UNET2D,
    "VQModel": autoencoder.VQ,
}
