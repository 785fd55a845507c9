"""Families of checkpoints, by the class name that their config gives."""

from jaxdiff.pretrained.families import adm, autoencoder, features, text, unet
from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.families.transformer import TRANSFORMERS

FAMILIES: dict[str, Family] = {
    "AutoencoderKL": autoencoder.KL,
    "AutoencoderTiny": autoencoder.TINY,
    "ControlNetModel": unet.CONTROLNET,
    "DhariwalUNet": adm.DHARIWAL_UNET,
    "GuidedClassifier": adm.GUIDED_CLASSIFIER,
    "GuidedUNet": adm.GUIDED_UNET,
    "SongUNet": adm.SONG_UNET,
    "UNet2DConditionModel": unet.UNET2D_CONDITION,
    "UNet2DModel": unet.UNET2D,
    "BertModel": text.BERT,
    "CLIPTextModel": text.CLIP_TEXT,
    "CLIPTextModelWithProjection": text.CLIP_TEXT_PROJECTED,
    "CLIPVisionModel": text.CLIP_VISION,
    "CLIPVisionModelWithProjection": text.CLIP_VISION_PROJECTED,
    "InceptionV3": features.INCEPTION,
    "LPIPS": features.LPIPS,
    "ResNet50": features.RESNET50,
    "T5EncoderModel": text.T5,
    "VQModel": autoencoder.VQ,
    **TRANSFORMERS,
}
