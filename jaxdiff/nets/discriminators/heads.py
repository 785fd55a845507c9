"""Heads on given features: a discriminator whose trunk is someone else's, and frozen.

Each feature map (or sequence of tokens) gets a small head of its own that gives a number for every
place; a vector c (of a text, of a class) may be asked for as well, by projection:

    logit = w . h + (V c) . h / sqrt(d)

Features come from a classifier (ADD) or from the blocks of the teacher (LADD).

Reference: Sauer et al. 2023, arXiv 2311.17042, section 3.2; Sauer et al. 2024, arXiv 2403.12015,
section 3; projection: Miyato and Koyama 2018, arXiv 1802.05637, eq. 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.discriminators.patch import Discriminator
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import GroupNorm, linear
from jaxdiff.types import PyTree


def feature_heads(
    *,
    widths: Sequence[int],
    inner: int = 64,
    cond_dim: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Discriminator:
    """Heads on given features as pure functions.

    Args:
      widths: channels of each feature map.
      inner: width inside a head.
      cond_dim: width of the vector c; 0: none.
      dtype: of the arithmetic.

    Returns:
      `Discriminator`; `apply(params, maps, cond=None) -> logits [b, places of all maps]`, where
      maps are [b, h, w, c] or [b, n, c] and cond is [b, cond_dim].

    Raises:
      ValueError: later another number of maps, other widths, or a cond that does not fit.

    Reference: Sauer et al. 2023, arXiv 2311.17042.

    >>> net = feature_heads(widths=(8, 12), inner=8)
    >>> maps = (jnp.zeros((2, 4, 4, 8)), jnp.zeros((2, 5, 12)))
    >>> net.apply(net.init(jax.random.key(0)), maps).shape
    (2, 21)
    """
    init, module = bridge(lambda rngs: FeatureHeads(tuple(widths), inner, cond_dim, dtype, rngs))

    def apply(params: PyTree, maps: Sequence[Array], cond: Array | None = None) -> Array:
        found = [m.shape[-1] for m in maps]
        if found != list(widths):
            raise ValueError(f"maps have widths {found}: this network was built for {list(widths)}")
        batch = maps[0].shape[0]
        if (cond is None) != (cond_dim == 0) or (
            cond is not None and cond.shape != (batch, cond_dim)
        ):
            shape = None if cond is None else cond.shape
            needs = f"[{batch}, {cond_dim}]" if cond_dim else "None"
            raise ValueError(f"cond has shape {shape}: this network takes {needs}")
        return module(params)(maps, cond)

    return Discriminator(init, apply)


class FeatureHeads(nnx.Module):
    """One head for each map; logits of all places side by side."""

    def __init__(
        self, widths: tuple[int, ...], inner: int, cond_dim: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.heads = nnx.List([_Head(width, inner, cond_dim, dtype, rngs) for width in widths])

    def __call__(
        self, maps: Sequence[Array], cond: Float[Array, "b d"] | None
    ) -> Float[Array, "b n"]:
        return jnp.concatenate([head(m, cond) for head, m in zip(self.heads, maps)], axis=1)


class _Head(nnx.Module):
    def __init__(self, width: int, inner: int, cond_dim: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        self.entry = linear(width, inner, dtype=dtype, rngs=rngs)
        self.norm1 = GroupNorm(inner)
        self.middle = linear(inner, inner, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(inner)
        self.exit = linear(inner, 1, dtype=dtype, rngs=rngs)
        self.project = linear(cond_dim, inner, dtype=dtype, rngs=rngs) if cond_dim else None

    def __call__(self, x: Array, cond: Array | None) -> Array:
        b, c = x.shape[0], x.shape[-1]
        x = self.entry(x.reshape(b, -1, 1, c).astype(self.dtype))
        h = jax.nn.leaky_relu(self.norm1(x), 0.2)
        h = jax.nn.leaky_relu(self.norm2(x + self.middle(h)), 0.2)
        logits = self.exit(h)[:, :, 0, 0]
        if self.project is not None and cond is not None:
            wanted = self.project(cond.astype(self.dtype))
            logits = logits + jnp.einsum("bnd,bd->bn", h[:, :, 0], wanted) / h.shape[-1] ** 0.5
        return logits.astype(jnp.float32)
