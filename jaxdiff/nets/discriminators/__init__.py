"""Discriminators: who tells true from made, for adversarial training and distillation.

Each constructor returns `Discriminator(init, apply)`; losses are elsewhere.
"""

from jaxdiff.nets.discriminators.heads import feature_heads
from jaxdiff.nets.discriminators.patch import Discriminator, patch_gan
from jaxdiff.nets.discriminators.timed import timed_gan

__all__ = ["Discriminator", "feature_heads", "patch_gan", "timed_gan"]
