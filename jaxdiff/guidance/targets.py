"""Losses of x_0 for guidance by an energy: each is of ONE example, and takes its target with it.

    towards(style(features), scale, each=(reference,))

All networks are the caller's: functions of one example, `Partial`s if they carry parameters.

Style: Gatys et al. 2016, sections 2.2 (Gram matrices); as energies of diffusion: Yu et al. 2023,
FreeDoM, arXiv:2303.09833, and Bansal et al. 2023, arXiv:2302.07121.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.guidance.kernel import as_partial
from jaxdiff.types import PyTree, number


def gram(features: Array) -> Array:
    """The Gram matrix F^T F / (h w) of feature maps [h, w, c]: [c, c].

    >>> gram(jnp.ones((2, 2, 1))).tolist()
    [[1.0]]
    """
    rows = features.reshape(-1, features.shape[-1])
    return jnp.einsum("nc,nd->cd", rows, rows, precision="highest") / rows.shape[0]


def _style(features: Any, x0: PyTree, reference: PyTree) -> Array:
    pairs = zip(jax.tree.leaves(features(x0)), jax.tree.leaves(features(reference)), strict=True)
    parts = [jnp.mean((gram(a) - gram(jax.lax.stop_gradient(b))) ** 2) for a, b in pairs]
    return sum(parts[1:], parts[0])


def style(features: Callable[..., PyTree]) -> Partial:
    """loss(x_0, reference): the mean squared differences of Gram matrices, summed over layers.

    Args:
      features: one image -> feature maps [h, w, c], one or a tree of them.

    Gatys et al. 2016; Yu et al. 2023, arXiv:2303.09833.

    >>> loss = style(lambda x: x)   # the pixels themselves
    >>> float(loss(jnp.ones((2, 2, 1)), jnp.zeros((2, 2, 1))))
    1.0
    """
    return Partial(_style, as_partial(features))


def colour(x0: Array, target: Array) -> Array:
    """loss(x_0, target): squared distance of the mean colour of an image [h, w, c] to target [c].

    >>> float(colour(jnp.ones((2, 2, 3)), jnp.array([1.0, 1.0, 0.0])))
    1.0
    """
    return jnp.sum((jnp.mean(x0, axis=(0, 1)) - target) ** 2)


def _shares(levels: Array, x0: Array) -> Array:
    """The share of the pixels above every level, softened over the gap of the levels: [k, c]."""
    gap = levels[1] - levels[0]
    pixels = x0.reshape(-1, x0.shape[-1])
    above = (pixels[None] - levels[:, None, None]) / gap + 0.5
    return jnp.mean(jnp.clip(above, 0.0, 1.0), axis=1)


def _palette(levels: Array, x0: Array, reference: Array) -> Array:
    apart = _shares(levels, x0) - _shares(levels, jax.lax.stop_gradient(reference))
    return jnp.mean(apart**2)


def palette(bins: int = 32, span: tuple[float, float] = (-1.0, 1.0)) -> Partial:
    """loss(x_0, reference): the mean squared distance of cumulative colour histograms.

    Per channel, of images [h, w, c] of any two sizes. Cumulative histograms have a slope wherever
    two colours differ, and not only where their bins touch.

    Args:
      bins: number of levels, at least 2; static.
      span: the range of the data.

    Raises:
      ValueError: if bins < 2, or span is not low < high.

    >>> float(palette(2)(jnp.ones((2, 2, 1)), -jnp.ones((3, 3, 1))))
    0.25
    """
    low, high = span
    if bins < 2 or not low < high:
        raise ValueError(f"bins={bins}, span={span}: at least two levels, and low < high")
    return Partial(_palette, number(jnp.linspace(low, high, bins)))


def _segmentation(segmenter: Any, x0: PyTree, labels: Array) -> Array:
    logs = jax.nn.log_softmax(segmenter(x0), axis=-1)
    known = labels >= 0
    chosen = jnp.take_along_axis(logs, jnp.where(known, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(known, chosen, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def segmentation(segmenter: Callable[..., Array]) -> Partial:
    """loss(x_0, labels): the mean cross-entropy of a segmenter, over the pixels that have a label.

    Args:
      segmenter: one image -> logits [h, w, classes].

    The labels are integers [h, w]; below 0 is free.

    >>> loss = segmentation(lambda x: jnp.concatenate([x, -x], axis=-1))
    >>> round(float(loss(jnp.ones((2, 2, 1)), jnp.array([[1, 1], [1, -1]]))), 3)   # log(1 + e^2)
    2.127
    """
    return Partial(_segmentation, as_partial(segmenter))


def _cosine(a: Array, b: Array) -> Array:
    # under one root, and never 0: an embedding of 0 has similarity 0 to all, and a slope
    lengths = jnp.sqrt(jnp.maximum(jnp.sum(a**2) * jnp.sum(b**2), 1e-12))
    return jnp.sum(a * b) / lengths


def _similarity(embed: Any, x0: PyTree, target: Array) -> Array:
    return 1 - _cosine(embed(x0), target)


def similarity(embed: Callable[..., Array]) -> Partial:
    """loss(x_0, target): 1 - the cosine of embed(x_0) and the embedding `target` [d].

    CLIP with the embedding of a text, a face recogniser with that of a face.

    Args:
      embed: one image -> [d].

    >>> float(similarity(lambda x: x)(jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0])))
    1.0
    """
    return Partial(_similarity, as_partial(embed))


def _noisy_similarity(embed: Any, x: PyTree, t: Array, target: Array) -> Array:
    return 1 - _cosine(embed(x, t), target)


def noisy_similarity(embed: Callable[..., Array]) -> Partial:
    """loss(x_t, t, target) for `noisy`: 1 - cosine, by an embedder that reads noisy images.

    Args:
      embed: one noisy image and its time, (x_t, t) -> [d].

    Nichol et al. 2021, GLIDE, arXiv:2112.10741, section 2.4.
    """
    return Partial(_noisy_similarity, as_partial(embed))
