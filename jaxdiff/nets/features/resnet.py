"""ResNet with bottlenecks: 1x1, 3x3, 1x1 convolutions around a shortcut.

Two lineages differ in where a block that halves the resolution does so: in its 3x3 convolution
(torchvision) or already in the first 1x1 (the paper, and Keras, whose convolutions have biases).

Reference: He et al. 2015, arXiv 1512.03385.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.features.layers import FrozenNorm, convolution, max_pool
from jaxdiff.nets.features.record import Extractor, Features, check_picture
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import linear
from jaxdiff.types import PyTree

_EXPANSION = 4


def imagenet_pixels(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in [-1, 1] with mean and deviation of ImageNet, as torchvision's networks take them.

    >>> [round(v, 3) for v in imagenet_pixels(jnp.zeros((1, 1, 1, 3))).ravel().tolist()]
    [0.066, 0.196, 0.418]
    """
    mean, deviation = (
        jnp.array(v, jnp.float32).reshape(1, 1, 1, 3)
        for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return ((image + 1) / 2 - mean) / deviation


def caffe_pixels(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in [-1, 1] as blue, green, red in 0 ... 255 less their means, as Keras's ResNet.

    >>> caffe_pixels(-jnp.ones((1, 1, 1, 3))).ravel()
    Array([-103.939, -116.779, -123.68 ], dtype=float32)
    """
    mean = jnp.array((103.939, 116.779, 123.68), jnp.float32).reshape(1, 1, 1, 3)
    return (image[..., ::-1] + 1) * 127.5 - mean


def resnet(
    *,
    depths: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    classes: int = 1000,
    early_stride: bool = False,
    bias: bool = False,
    eps: float = 1e-5,
    pixels: Callable[[Array], Array] = imagenet_pixels,
    dtype: DTypeLike = jnp.float32,
) -> Extractor:
    """A ResNet as pure functions; the defaults are ResNet-50 of torchvision.

    Keras's is `resnet(early_stride=True, bias=True, eps=1e-3, pixels=caffe_pixels)`; later versions
    have eps=1.001e-5.

    Args:
      depths: blocks of each stage.
      width: of the first stage inside its blocks; doubles with each.
      classes: of the last layer; 0: none.
      early_stride: halve the resolution in the first convolution of a block.
      bias: of the convolutions.
      eps: of the norms.
      pixels: what is done to images in [-1, 1] first.
      dtype: of the arithmetic.

    Returns:
      `Extractor`; `maps` are the results of the stages, `pooled` the mean of the last.

    Raises:
      ValueError: later, images without 3 channels or too small.

    Reference: He et al. 2015, arXiv 1512.03385.

    >>> net = resnet(depths=(1, 1), width=8, classes=5)
    >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((2, 32, 32, 3))).logits.shape
    (2, 5)
    """

    def make(rngs: nnx.Rngs) -> ResNet:
        return ResNet(tuple(depths), width, classes, early_stride, bias, eps, dtype, rngs)

    init, module = bridge(make)

    def apply(params: PyTree, image: Array) -> Features:
        check_picture(image, 2 ** (len(depths) + 1))
        return module(params)(pixels(image))

    return Extractor(init, apply)


class ResNet(nnx.Module):
    """Stem, stages and classifier with torchvision's names."""

    def __init__(
        self,
        depths: tuple[int, ...],
        width: int,
        classes: int,
        early_stride: bool,
        bias: bool,
        eps: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype, self.stages = dtype, len(depths)
        self.conv1 = convolution(
            3, width, 7, stride=2, padding=3, bias=bias, dtype=dtype, rngs=rngs
        )
        self.bn1 = FrozenNorm(width, eps=eps)
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                inner, stride = width * 2**stage, 2 if stage and not i else 1
                strides = (stride, 1) if early_stride else (1, stride)
                blocks.append(_Bottleneck(inputs, inner, strides, bias, eps, dtype, rngs))
                inputs = _EXPANSION * inner
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        self.fc = linear(inputs, classes, dtype=dtype, rngs=rngs) if classes else None

    def __call__(self, x: Float[Array, "b h w 3"]) -> Features:
        h = jax.nn.relu(self.bn1(self.conv1(x.astype(self.dtype))))
        h, maps = max_pool(h, 3, 2, 1), []
        for stage in range(self.stages):
            for block in getattr(self, f"layer{stage + 1}"):
                h = block(h)
            maps.append(h.astype(jnp.float32))
        pooled = jnp.mean(maps[-1], axis=(1, 2))
        logits = None if self.fc is None else self.fc(pooled).astype(jnp.float32)
        return Features(tuple(maps), pooled, logits)


class _Bottleneck(nnx.Module):
    def __init__(
        self,
        inputs: int,
        inner: int,
        strides: tuple[int, int],
        bias: bool,
        eps: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        outputs, (first, second) = _EXPANSION * inner, strides
        more: dict[str, Any] = dict(bias=bias, dtype=dtype, rngs=rngs)
        self.conv1 = convolution(inputs, inner, 1, stride=first, **more)
        self.bn1 = FrozenNorm(inner, eps=eps)
        self.conv2 = convolution(inner, inner, 3, stride=second, padding=1, **more)
        self.bn2 = FrozenNorm(inner, eps=eps)
        self.conv3 = convolution(inner, outputs, 1, **more)
        self.bn3 = FrozenNorm(outputs, eps=eps)
        new = first * second > 1 or inputs != outputs
        shortcut = [
            convolution(inputs, outputs, 1, stride=first * second, **more),
            FrozenNorm(outputs, eps=eps),
        ]
        self.downsample = nnx.List(shortcut if new else [])

    def __call__(self, x: Array) -> Array:
        h = jax.nn.relu(self.bn1(self.conv1(x)))
        h = jax.nn.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        for layer in self.downsample:
            x = layer(x)
        return jax.nn.relu(x + h)
