"""PAG: guidance away from a network that cannot look around.

At chosen self-attentions the map softmax(q k^T) becomes the identity, so that every pixel sees
itself alone, and with that branch in the same call

    x_0' = x_0 + s (x_0 - x_0(disturbed)).

It needs neither a condition nor training. Ahn et al. 2024, arXiv:2403.17377.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Model, Number, mix, numeric, value_at
from jaxdiff.guidance.taps import controlled
from jaxdiff.types import At, PyTree, Site

Sites = Callable[[Site], bool]


def middle(site: Site) -> bool:
    """The sites in the middle of a U-Net.

    >>> middle(Site("middle/0/own", "probs", "middle", 2, 0, "self", (8, 8), 4))
    True
    """
    return site.stage == "middle"


class SelfProbs:
    """A control at the self-attention maps of chosen sites; equal by what it was made of."""

    def __init__(self, sites: Sites, act: Callable[[Site], Callable[[Array], Any]]) -> None:
        self.parts = sites, act

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SelfProbs) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash((SelfProbs, self.parts))

    def __call__(self, site: Site) -> Callable[[Array], Any] | None:
        sites, act = self.parts
        chosen = site.port == "probs" and site.kind == "self" and sites(site)
        return act(site) if chosen else None


def _identity(probs: Array) -> Array:
    if probs.shape[-1] != probs.shape[-2]:
        raise ValueError(
            f"an attention map of {probs.shape[-2]} queries over {probs.shape[-1]} keys has no "
            "identity: choose sites of plain self-attention"
        )
    eye = jnp.eye(probs.shape[-1], dtype=probs.dtype)
    return jnp.broadcast_to(eye[None, None], probs.shape)


def _look_nowhere(site: Site) -> Callable[[Array], Array]:
    return _identity


def identity_attention(sites: Sites = middle) -> Partial:
    """A control: at the chosen self-attentions every pixel looks at itself alone.

    Args:
      sites: Site -> bool, of the self-attentions; static.

    With classifier-free guidance as well, in one call at 3b:
    mix(model, (null, cond, controlled(cond, identity_attention())), (1 - w, w + s, -s)), where the
    other two conditions are dicts too.

    Ahn et al. 2024, arXiv:2403.17377.
    """
    return Partial(SelfProbs(sites, _look_nowhere))


def _one_plus(scale: Any, at: At) -> Array:
    return 1 + value_at(scale, at)


def _minus(scale: Any, at: At) -> Array:
    return -value_at(scale, at)


def pag(model: Model, cond: PyTree, scale: Number, *, sites: Sites = middle) -> Denoiser:
    """Perturbed-attention guidance: x_0' = x_0 + scale (x_0 - x_0(disturbed)), in one call at 2b.

    Args:
      model: a model whose network asks a control at its attention maps.
      cond: None, labels, a dict, or a function of `now` to one of them.
      scale: s; 0 is the plain model. A number, [b], or At -> scalar.
      sites: Site -> bool, which self-attentions to disturb; static.

    Raises:
      ValueError: when called, if no self-attention is chosen.

    Ahn et al. 2024, arXiv:2403.17377.
    """
    conds = controlled(cond, None), controlled(cond, identity_attention(sites))
    scale = numeric(scale)
    return mix(model, conds, (Partial(_one_plus, scale), Partial(_minus, scale)))
