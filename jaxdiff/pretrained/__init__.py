"""Pretrained weights: from the layouts of others into networks of `nets/`, and back.

Nothing here reads a pickle or runs code of a checkpoint.
"""

from jaxdiff.pipelines.parts import Part, Pretrained
from jaxdiff.pretrained.control import controlled
from jaxdiff.pretrained.load import load
from jaxdiff.pretrained.part import load_part, make_net, save_part
from jaxdiff.pretrained.schedulers import schedule
from jaxdiff.pretrained.single import load_single
from jaxdiff.pretrained.tokens import read_words

__all__ = [
    "Part",
    "Pretrained",
    "controlled",
    "load",
    "load_part",
    "load_single",
    "make_net",
    "read_words",
    "save_part",
    "schedule",
]
