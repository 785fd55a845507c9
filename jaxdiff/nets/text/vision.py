"""CLIP's image encoder: a transformer over patches and one extra token.

Reference: Radford et al. 2021, arXiv 2103.00020, section 2.4; Dosovitskiy et al. 2020, arXiv
2010.11929.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.functional import bridge
from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import LayerNorm, Table, conv, linear
from jaxdiff.nets.text.clip import Tower, quick_gelu
from jaxdiff.nets.text.record import Encoded, check_heads
from jaxdiff.types import PyTree

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(NamedTuple):
    """`init(key) -> params`; `apply(params, image [b, side, side, 3]) -> Encoded`."""

    init: Callable[[Any], PyTree]
    apply: Callable[[PyTree, Array], Encoded]
    width: int
    side: int


def clip_vision(
    *,
    channels: int = 3,
    side: int = 224,
    patch: int = 32,
    width: int = 768,
    inner: int | None = None,
    layers: int = 12,
    heads: int = 12,
    project: int = 0,
    act: Callable[[Array], Array] = quick_gelu,
    eps: float = 1e-5,
    dtype: DTypeLike = jnp.float32,
) -> ImageEncoder:
    """CLIP's image encoder as pure functions.

    Args:
      channels: of the image.
      side: of the image, in pixels; a multiple of `patch` is usual.
      patch: side of a patch.
      width: as in `clip_text`, and so are inner, layers, heads, project, act, eps and dtype.
      inner: width inside the mlp.
      layers: number of layers.
      heads: of the attention.
      project: width of the shared space; 0: none.
      act: inside the mlp.
      eps: of the norms.
      dtype: of the arithmetic.

    Returns:
      `ImageEncoder`; images are those of `clip_pixels`. `last` is before the final norm, which acts
      on the extra token alone, as in the published network.

    Raises:
      ValueError: heads that do not divide; later an image of another size.

    >>> import jax
    >>> net = clip_vision(side=8, patch=4, width=8, layers=1, heads=2)
    >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((1, 8, 8, 3))).last.shape
    (1, 5, 8)
    """
    check_heads(width, heads)

    def make(rngs: nnx.Rngs) -> _Vision:
        tower = _VisionTower(
            channels, side, patch, width, inner or 4 * width, layers, heads, act, eps, dtype, rngs
        )
        return _Vision(tower, width, project, dtype, rngs)

    init, module = bridge(make)

    def apply(params: PyTree, image: Array) -> Encoded:
        if image.ndim != 4 or image.shape[1:] != (side, side, channels):
            raise ValueError(
                f"image has shape {image.shape}: this encoder takes [b, {side}, {side}, {channels}]"
            )
        return module(params)(image)

    return ImageEncoder(init, apply, width, side)


def clip_pixels(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in [-1, 1] with the mean and the deviation that CLIP was trained with.

    >>> [round(v, 3) for v in clip_pixels(jnp.zeros((1, 1, 1, 3))).ravel().tolist()]
    [0.069, 0.161, 0.333]
    """
    mean, deviation = (jnp.array(v).reshape(1, 1, 1, 3) for v in (MEAN, DEVIATION))
    return ((image + 1) / 2 - mean) / deviation


class _Patches(nnx.Module):
    def __init__(
        self, channels: int, side: int, patch: int, width: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.class_embedding = nnx.Param(spread(0.02)(rngs.params(), (width,), jnp.float32))
        self.patch_embedding = conv(
            channels, width, size=patch, stride=patch, padding=0, bias=False, dtype=dtype, rngs=rngs
        )
        self.position_embedding = Table((side // patch) ** 2 + 1, width, rngs=rngs)

    def __call__(self, image: Array) -> Array:
        patches = self.patch_embedding(image)
        b, h, w, d = patches.shape
        extra = self.class_embedding.get_value().reshape(1, 1, d).astype(patches.dtype)
        tokens = [jnp.broadcast_to(extra, (b, 1, d)), patches.reshape(b, h * w, d)]
        places = self.position_embedding(jnp.arange(h * w + 1))
        return jnp.concatenate(tokens, axis=1) + places[None].astype(patches.dtype)


class _VisionTower(nnx.Module):
    def __init__(
        self,
        channels: int,
        side: int,
        patch: int,
        width: int,
        inner: int,
        layers: int,
        heads: int,
        act: Callable[[Array], Array],
        eps: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.embeddings = _Patches(channels, side, patch, width, dtype, rngs)
        # The name in the checkpoints is misspelt.
        self.pre_layrnorm = LayerNorm(width, eps=eps)
        self.encoder = Tower(width, inner, layers, heads, act, eps, dtype, rngs)
        self.post_layernorm = LayerNorm(width, eps=eps)

    def __call__(self, image: Array) -> Encoded:
        tokens = self.pre_layrnorm(self.embeddings(image.astype(self.dtype)))
        states = self.encoder(tokens, None, causal=False)
        hidden = tuple(state.astype(jnp.float32) for state in states)
        return Encoded(hidden[-1], hidden, self.post_layernorm(hidden[-1][:, 0]))


class _Vision(nnx.Module):
    def __init__(
        self, tower: _VisionTower, width: int, project: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.vision_model = tower
        self.visual_projection = (
            linear(width, project, bias=False, dtype=dtype, rngs=rngs) if project else None
        )

    def __call__(self, image: Array) -> Encoded:
        out = self.vision_model(image)
        if self.visual_projection is None or out.pooled is None:
            return out
        return out._replace(pooled=self.visual_projection(out.pooled).astype(jnp.float32))
