"""Attention as the published transformers name it: of one stream of tokens, or of two joined.

Softmax, norms and rotations are float32.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdiff.nets.attention import attend
from jaxdiff.nets.layers import RMSNorm, linear
from jaxdiff.nets.transformers.places import rotate
from jaxdiff.types import Control, Site


def check_heads(width: int, heads: int) -> None:
    """Raise unless the heads divide the width.

    >>> check_heads(8, 3)
    Traceback (most recent call last):
    ...
    ValueError: heads is 3: it must divide the width 8
    """
    if heads < 1 or width % heads:
        raise ValueError(f"heads is {heads}: it must divide the width {width}")


class Heads(nnx.Module):
    """Attention of tokens to themselves or to `context_dim` wide ones, with optional RMS norms.

    `exit=False` leaves the output projection away (FLUX's single blocks join it with the MLP's).

    >>> layer = Heads(16, 4, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "blocks", 0, 0, "self", (2, 2), 4)
    >>> layer(jnp.ones((1, 4, 16)), place=place).shape
    (1, 4, 16)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_dim: int = 0,
        bias: bool = True,
        norm: bool = False,
        exit: bool = True,
        zero: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_heads(width, heads)
        source = context_dim or width
        self.heads = heads
        self.to_q = linear(width, width, bias=bias, dtype=dtype, rngs=rngs)
        self.to_k = linear(source, width, bias=bias, dtype=dtype, rngs=rngs)
        self.to_v = linear(source, width, bias=bias, dtype=dtype, rngs=rngs)
        self.norm_q = RMSNorm(width // heads) if norm else None
        self.norm_k = RMSNorm(width // heads) if norm else None
        out = [linear(width, width, zero=zero, dtype=dtype, rngs=rngs)] if exit else None
        self.to_out = None if out is None else nnx.List(out)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        tokens: Float[Array, "b m k"] | None = None,
        mask: Bool[Array, "b m"] | None = None,
        *,
        angle: Float[Array, "n half"] | None = None,
        control: Control | None = None,
        place: Site,
    ) -> Float[Array, "b n d"]:
        source = x if tokens is None else tokens
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        q, k, v = split(q, self.heads, self.norm_q), split(k, self.heads, self.norm_k), v
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        v = split(v, self.heads)
        mixed = attend(q, k, v, mask=mask, control=control, place=place).reshape(x.shape)
        return mixed if self.to_out is None else self.to_out[0](mixed)


class Joint(nnx.Module):
    """Attention of image and text tokens among one another, each with projections of its own.

    `last` leaves the projection of the text's answer away; `text_first` is the order of the keys.

    Reference: Esser et al. 2024, arXiv 2403.03206, figure 2b.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        norm: bool,
        text_first: bool,
        last: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_heads(width, heads)

        def projection() -> nnx.Linear:
            return linear(width, width, dtype=dtype, rngs=rngs)

        def normed() -> RMSNorm | None:
            return RMSNorm(width // heads) if norm else None

        self.heads, self.text_first = heads, text_first
        self.to_q, self.to_k, self.to_v = projection(), projection(), projection()
        self.add_q_proj, self.add_k_proj, self.add_v_proj = projection(), projection(), projection()
        self.norm_q, self.norm_k = normed(), normed()
        self.norm_added_q, self.norm_added_k = normed(), normed()
        self.to_out = nnx.List([projection()])
        self.to_add_out = None if last else projection()

    def __call__(
        self,
        x: Float[Array, "b n d"],
        text: Float[Array, "b m d"],
        *,
        angle: Float[Array, "n+m half"] | None = None,
        control: Control | None = None,
        place: Site,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"] | None]:
        pairs = (
            (split(self.to_q(x), self.heads, self.norm_q), self._text(self.add_q_proj, text, 0)),
            (split(self.to_k(x), self.heads, self.norm_k), self._text(self.add_k_proj, text, 1)),
            (split(self.to_v(x), self.heads), self._text(self.add_v_proj, text, 2)),
        )
        q, k, v = (jnp.concatenate(p[::-1] if self.text_first else p, axis=1) for p in pairs)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        mixed = attend(q, k, v, control=control, place=place)
        mixed = mixed.reshape(*mixed.shape[:2], x.shape[2])
        cut = text.shape[1] if self.text_first else x.shape[1]
        parts = mixed[:, :cut], mixed[:, cut:]
        ours, theirs = parts[::-1] if self.text_first else parts
        return self.to_out[0](ours), None if self.to_add_out is None else self.to_add_out(theirs)

    def _text(self, projection: nnx.Linear, text: Array, which: int) -> Array:
        norm = (self.norm_added_q, self.norm_added_k, None)[which]
        return split(projection(text), self.heads, norm)


def split(x: Array, heads: int, norm: Callable[[Array], Array] | None = None) -> Array:
    """[b, n, d] -> [b, n, heads, d / heads], with a norm of each head's part."""
    apart = x.reshape(*x.shape[:2], heads, -1)
    return apart if norm is None else norm(apart)
