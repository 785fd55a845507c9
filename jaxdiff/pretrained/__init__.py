"""Pretrained weights: from the layouts of others into networks of `nets/`, and back.

Nothing here reads a pickle or runs code of a checkpoint.
"""

from jaxdiff.pretrained.part import Part, load_part, make_net, save_part

__all__ = ["Part", "load_part", "make_net", "save_part"]
