"""Families of checkpoints, by the class name that their config gives."""

from jaxdiff.pretrained.families import autoencoder, features, text
from jaxdiff.pretrained.families.family import Family

FAMILIES: dict[str, Family] = {
    "AutoencoderKL": autoencoder.KL,
    "AutoencoderTiny": autoencoder.TINY,
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
}
