"""Attention, once, for pixels that look at one another and for pixels that look at tokens.

    out = softmax(q k^T / sqrt(d) + log mask) v

The fused kernel runs wherever no control asks for logits or probabilities; only where one asks are
they written out. The softmax is in float32 either way.

Reference: Vaswani et al. 2017, arXiv 1706.03762, eq. 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.kernels import fused
from jaxdiff.nets.layers import linear
from jaxdiff.types import Control, Site


def attend(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    *,
    mask: Bool[Array, "b m"] | None = None,
    control: Control | None = None,
    place: Site,
) -> Float[Array, "b n heads d"]:
    """Attention of n queries over m keys: softmax(q k^T / sqrt(d)) v.

    Args:
      q: queries [b, n, heads, d].
      k: keys [b, m, heads, d].
      v: values [b, m, heads, d].
      mask: [b, m], True where a key counts. A sample whose mask is all False gets 0.
      control: asked at the ports qkv, logits, probs and out of `place`.
      place: the site, whose port is filled in here.

    Returns:
      [b, n, heads, d] in the dtype of q.

    >>> place = Site("", "", "middle", 0, 0, "self", (2, 2), 1)
    >>> x = jnp.ones((1, 4, 1, 8))
    >>> attend(x, x, 3 * x, place=place)[0, 0, 0, :2]
    Array([3., 3.], dtype=float32)
    """
    q, k, v = ports.hook(control, place, "qkv", (q, k, v))
    on_logits = ports.ask(control, place, "logits")
    on_probs = ports.ask(control, place, "probs")
    if on_logits is None and on_probs is None:
        out = fused(q, k, v, mask)
    else:
        wide = None if mask is None else mask[:, None, None, :]
        out = _written_out(q, k, v, wide, on_logits or _same, on_probs or _same)
    if mask is not None:
        # Without any token a softmax would be uniform over the masked ones.
        out = jnp.where(jnp.any(mask, axis=1)[:, None, None, None], out, 0)
    return ports.hook(control, place, "out", out)


def _written_out(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    on_logits: Callable[[Array], Any],
    on_probs: Callable[[Array], Any],
) -> Array:
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
    logits = on_logits(logits / jnp.sqrt(q.shape[-1]).astype(jnp.float32))
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    probs = on_probs(jax.nn.softmax(logits, axis=-1))
    return jnp.einsum("bhnm,bmhd->bnhd", probs.astype(v.dtype), v)


def _same(value: Array) -> Array:
    return value


class Attention(nnx.Module):
    """Multi-head attention with its projections: to itself, or to tokens of width `context_dim`.

    `zero` starts the output projection at zero, so that a residual block starts as the identity.

    >>> layer = Attention(16, 4, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "middle", 0, 0, "self", (2, 2), 4)
    >>> layer(jnp.ones((1, 4, 16)), place=place).shape
    (1, 4, 16)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_dim: int = 0,
        zero: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}: it must divide the width {width}")
        source = context_dim or width
        self.heads = heads
        self.query = linear(width, width, dtype=dtype, rngs=rngs)
        # A bias of the keys adds the same number to all logits of a query: softmax forgets it.
        self.key = linear(source, width, bias=False, dtype=dtype, rngs=rngs)
        self.value = linear(source, width, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, zero=zero, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        tokens: Float[Array, "b m k"] | None = None,
        mask: Bool[Array, "b m"] | None = None,
        *,
        control: Control | None = None,
        place: Site,
    ) -> Float[Array, "b n d"]:
        source = x if tokens is None else tokens
        q, k, v = (
            self._heads(layer(given))
            for layer, given in ((self.query, x), (self.key, source), (self.value, source))
        )
        mixed = attend(q, k, v, mask=mask, control=control, place=place)
        return self.out(mixed.reshape(x.shape))

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)
