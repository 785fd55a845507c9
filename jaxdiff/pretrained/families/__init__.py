"""Families of checkpoints, by the class name that their config gives."""

from jaxdiff.pretrained.families import adm, unet
from jaxdiff.pretrained.families.family import Family

FAMILIES: dict[str, Family] = {
    "ControlNetModel": unet.CONTROLNET,
    "DhariwalUNet": adm.DHARIWAL_UNET,
    "GuidedClassifier": adm.GUIDED_CLASSIFIER,
    "GuidedUNet": adm.GUIDED_UNET,
    "SongUNet": adm.SONG_UNET,
    "UNet2DConditionModel": unet.UNET2D_CONDITION,
    "UNet2DModel": unet.UNET2D,
}
