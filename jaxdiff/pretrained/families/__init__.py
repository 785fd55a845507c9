"""Families of checkpoints, by the class name that their config gives."""

from jaxdiff.pretrained.families.family import Family

FAMILIES: dict[str, Family] = {}
