"""Families of checkpoints, by the class name that their config gives."""

from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.families.transformer import TRANSFORMERS

FAMILIES: dict[str, Family] = {
    **TRANSFORMERS,
}
