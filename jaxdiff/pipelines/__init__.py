"""From a prompt to a picture: what people do with a pretrained model, as functions."""

from jaxdiff.pipelines.generate import guided, in_batches, walk
from jaxdiff.pipelines.image_to_image import follow, image_to_image, inpaint, upscale
from jaxdiff.pipelines.latents import decode, encode, latent_shape
from jaxdiff.pipelines.parts import Part, Pretrained, walked_by
from jaxdiff.pipelines.prompts import Fragment, fragments, plain, weigh
from jaxdiff.pipelines.schedule import Schedule
from jaxdiff.pipelines.text_to_image import class_to_image, conditions, text_to_image
from jaxdiff.pipelines.texts import condition

__all__ = [
    "Fragment",
    "Part",
    "Pretrained",
    "Schedule",
    "class_to_image",
    "condition",
    "conditions",
    "decode",
    "encode",
    "follow",
    "fragments",
    "guided",
    "image_to_image",
    "in_batches",
    "inpaint",
    "latent_shape",
    "plain",
    "text_to_image",
    "upscale",
    "walk",
    "walked_by",
    "weigh",
]
