"""What the published transformers share: patches, modulation, embedding and feed-forward.

The attributes carry the names of diffusers, so that the path of a parameter is its name in a
checkpoint. Parameters are float32, `dtype` is that of the arithmetic; norms, modulation and softmax
are float32.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import Given
from jaxdiff.nets.embed import TwoLayers, sinusoid
from jaxdiff.nets.layers import check_divisible, conv, layer_norm, linear
from jaxdiff.types import Control, Site

FEATURES = 256  # of a number's sinusoid, in every published transformer


def inside(place: Site, name: str, kind: str, heads: int = 0) -> Site:
    """The site `name` inside the block at `place`."""
    return replace(place, path=f"{place.path}/{name}", kind=kind, heads=heads)


def modulated(x: Float[Array, "b n d"], shift: Array, scale: Array, eps: float = 1e-6) -> Array:
    """norm(x) (1 + scale) + shift, in float32, in the dtype of x; shift and scale [b, 1, d]."""
    wide = layer_norm(x.astype(jnp.float32), eps)
    return (wide * (1 + scale) + shift).astype(x.dtype)


def check_image(x: Array, channels: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of x [b, h, w, channels].

    Raises:
      ValueError: other channels, or a side that is no multiple of the patch.

    >>> check_image(jnp.zeros((1, 4, 6, 3)), 3, 2)
    (2, 3)
    """
    if x.ndim != 4 or x.shape[3] != channels:
        raise ValueError(f"x has shape {list(x.shape)}: this network takes [b, h, w, {channels}]")
    check_divisible(x.shape, patch, f"patches of {patch}")
    return x.shape[1] // patch, x.shape[2] // patch


class Patches(nnx.Module):
    """Patches of an image as tokens: [b, h, w, c] -> [b, n, width], row by row.

    >>> Patches(3, 8, 2, rngs=nnx.Rngs(0))(jnp.ones((1, 4, 6, 3))).shape
    (1, 6, 8)
    """

    def __init__(
        self,
        channels: int,
        width: int,
        patch: int,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.proj = conv(
            channels, width, size=patch, stride=patch, padding=0, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        h = self.proj(x)
        return h.reshape(x.shape[0], -1, h.shape[-1])


class Modulation(nnx.Module):
    """`count` vectors [b, 1, d] of an embedding [b, d]: shifts, scales and gates, zero at first.

    `emb` may be a module that makes the embedding, kept here for its name.

    >>> [v.shape for v in Modulation(4, 2, rngs=nnx.Rngs(0))(jnp.ones((3, 4)))]
    [(3, 1, 4), (3, 1, 4)]
    """

    def __init__(
        self,
        width: int,
        count: int,
        *,
        emb: Callable[..., Array] | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.count, self.emb = count, emb
        self.linear = linear(width, count * width, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, embedding: Float[Array, "b d"]) -> list[Array]:
        said = self.linear(jax.nn.silu(embedding)).astype(jnp.float32)
        return jnp.split(said[:, None, :], self.count, axis=-1)


class FeedForward(nnx.Module):
    """Two linear maps with a GELU between, four times as wide inside.

    >>> FeedForward(8, rngs=nnx.Rngs(0))(jnp.ones((1, 4, 8))).shape
    (1, 4, 8)
    """

    def __init__(
        self, width: int, *, tanh: bool = True, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        self.tanh = tanh
        grow = linear(width, 4 * width, dtype=dtype, rngs=rngs)
        shrink = linear(4 * width, width, dtype=dtype, rngs=rngs)
        self.net: Any = nnx.Dict({"0": nnx.Dict({"proj": grow}), "2": shrink})

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.net["2"](jax.nn.gelu(self.net["0"]["proj"](x), approximate=self.tanh))


class TimeText(nnx.Module):
    """Time, a pooled text, and for distilled networks the scale of guidance, as one vector.

    >>> embed = TimeText(8, 6, guidance=True, rngs=nnx.Rngs(0))
    >>> embed(jnp.ones(2), jnp.ones((2, 6)), jnp.ones(2)).shape
    (2, 8)
    """

    def __init__(
        self,
        width: int,
        pooled: int,
        *,
        guidance: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.timestep_embedder = TwoLayers(FEATURES, width, dtype=dtype, rngs=rngs)
        self.text_embedder = TwoLayers(pooled, width, dtype=dtype, rngs=rngs)
        self.guidance_embedder = (
            TwoLayers(FEATURES, width, dtype=dtype, rngs=rngs) if guidance else None
        )

    def __call__(
        self,
        time: Float[Array, " b"],
        pooled: Float[Array, "b p"],
        guidance: Float[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        vector = self.timestep_embedder(sinusoid(time, FEATURES))
        if self.guidance_embedder is not None and guidance is not None:
            vector = vector + self.guidance_embedder(sinusoid(guidance, FEATURES))
        return vector + self.text_embedder(pooled)


def feed(
    layer: Callable[[Array], Array], x: Array, gate: Array, control: Control | None, place: Site
) -> Array:
    """The gated branch of a feed-forward layer, as the port resnet sees it."""
    branch = gate.astype(x.dtype) * layer(x)
    return ports.hook(control, place, "resnet", branch)


def answer(
    layer: Callable[[Array], Array],
    x: Array,
    attended: Array,
    said: list[Array],
    control: Control | None,
    place: Site,
) -> Array:
    """A stream behind its attention: x + gate_1 attended, then the gated feed-forward layer.

    `said` are gate_1, shift_2, scale_2 and gate_2.
    """
    gate1, shift, scale, gate2 = said
    x = x + gate1.astype(x.dtype) * attended
    return x + feed(layer, modulated(x, shift, scale), gate2, control, place)


def check_text(given: Given, pooled: int) -> None:
    """Raise for a mask, which joint attention does not have, and for another pooled width.

    >>> check_text(Given(pooled=jnp.zeros((2, 3))), 4)
    Traceback (most recent call last):
    ...
    ValueError: cond['pooled'] has shape [2, 3]: give [b, 4]
    """
    if given.mask is not None:
        raise ValueError(
            "cond holds a mask, but joint attention looks at all tokens, padding included: leave "
            "the mask out"
        )
    if jnp.ndim(given.pooled) != 2 or given.pooled.shape[1] != pooled:
        raise ValueError(f"cond['pooled'] has shape {list(given.pooled.shape)}: give [b, {pooled}]")
