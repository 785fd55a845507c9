"""Encoders of text (and CLIP's of images): tokens to states and to one vector.

Each constructor returns a `TextEncoder` of pure functions; `apply(params, ids, mask)` gives
`Encoded(last, hidden, pooled)`.
"""

from jaxdiff.nets.text.bert import bert
from jaxdiff.nets.text.clip import clip_text, gelu, quick_gelu
from jaxdiff.nets.text.record import Encoded, TextEncoder, sentence
from jaxdiff.nets.text.t5 import t5_encoder
from jaxdiff.nets.text.vision import ImageEncoder, clip_pixels, clip_vision

__all__ = [
    "Encoded",
    "ImageEncoder",
    "TextEncoder",
    "bert",
    "clip_pixels",
    "clip_text",
    "clip_vision",
    "gelu",
    "quick_gelu",
    "sentence",
    "t5_encoder",
]
