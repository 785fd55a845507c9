"""LPIPS: how different two images look, by the features of a classifier.

    d(x, y) = sum_l mean_hw w_l . (f_l(x) - f_l(y))^2

where f_l are the feature maps of a trunk after five of its layers, each divided by its length over
channels, and w_l >= 0 are weights that people's judgements gave.

Reference: Zhang et al. 2018, arXiv 1801.03924, eq. 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.features.layers import convolution, max_pool
from jaxdiff.nets.features.record import Distance, check_picture
from jaxdiff.nets.functional import bridge
from jaxdiff.types import PyTree

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Layer(NamedTuple):
    """A convolution of a trunk: its number there, its width, size, stride and padding."""

    number: int
    width: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class Trunk(NamedTuple):
    """The convolutions of each slice; `pool`, the window of the pooling (stride 2) before a slice.

    `pooled` are the slices (from 0) that begin with one; `least`, the smallest side of an image.
    """

    slices: tuple[tuple[Layer, ...], ...]
    pool: int
    pooled: tuple[int, ...]
    least: int


VGG16 = Trunk(
    (
        (Layer(0, 64), Layer(2, 64)),
        (Layer(5, 128), Layer(7, 128)),
        (Layer(10, 256), Layer(12, 256), Layer(14, 256)),
        (Layer(17, 512), Layer(19, 512), Layer(21, 512)),
        (Layer(24, 512), Layer(26, 512), Layer(28, 512)),
    ),
    pool=2,
    pooled=(1, 2, 3, 4),
    least=16,
)
ALEXNET = Trunk(
    (
        (Layer(0, 64, 11, 4, 2),),
        (Layer(3, 192, 5, 1, 2),),
        (Layer(6, 384),),
        (Layer(8, 256),),
        (Layer(10, 256),),
    ),
    pool=3,
    pooled=(1, 2),
    least=31,
)


def lpips(trunk: Trunk = VGG16, *, dtype: DTypeLike = jnp.float32) -> Distance:
    """The perceptual distance as pure functions.

    Args:
      trunk: `VGG16` (as a loss) or `ALEXNET` (as a measure).
      dtype: of the convolutions; the comparison is in float32.

    Returns:
      `Distance`; `apply(params, x, y) -> [b]` with a finite gradient everywhere, also where all
      features of a place are 0.

    Raises:
      ValueError: later, images of different shapes, without 3 channels, or too small.

    Reference: Zhang et al. 2018, arXiv 1801.03924.

    >>> net = lpips(ALEXNET)
    >>> jax.eval_shape(net.apply, jax.eval_shape(net.init, jax.random.key(0)),
    ...                *[jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)] * 2).shape
    (2,)
    """
    init, module = bridge(lambda rngs: LPIPS(trunk, dtype, rngs))

    def maps(params: PyTree, x: Array) -> tuple[Array, ...]:
        check_picture(x, trunk.least, "x")
        return module(params).maps(x)

    def apply(params: PyTree, x: Array, y: Array) -> Array:
        check_picture(x, trunk.least, "x")
        if x.shape != y.shape:
            raise ValueError(f"x has shape {x.shape} and y {y.shape}: they must be equal")
        return module(params)(x, y)

    return Distance(init, apply, maps)


class LPIPS(nnx.Module):
    """Trunk and weights with the names of the published ones."""

    def __init__(self, trunk: Trunk, dtype: DTypeLike, rngs: nnx.Rngs):
        self.trunk, self.dtype = trunk, dtype
        slices, inputs = {}, 3
        for i, layers in enumerate(trunk.slices):
            made = {}
            for layer in layers:
                made[str(layer.number)] = convolution(
                    inputs,
                    layer.width,
                    layer.size,
                    stride=layer.stride,
                    padding=layer.padding,
                    bias=True,
                    dtype=dtype,
                    rngs=rngs,
                )
                inputs = layer.width
            slices[f"slice{i + 1}"] = nnx.Dict(made)
            head = convolution(inputs, 1, 1, rngs=rngs)
            setattr(self, f"lin{i}", nnx.Dict({"model": nnx.Dict({"1": head})}))
        self.net = nnx.Dict(slices)

    def maps(self, x: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b h2 w2 c"], ...]:
        shift, scale = (jnp.array(v, jnp.float32).reshape(1, 1, 1, 3) for v in (_SHIFT, _SCALE))
        h, found = ((x - shift) / scale).astype(self.dtype), []
        for i, layers in enumerate(self.trunk.slices):
            h = max_pool(h, self.trunk.pool, 2) if i in self.trunk.pooled else h
            for layer in layers:
                h = jax.nn.relu(self.net[f"slice{i + 1}"][str(layer.number)](h))
            found.append(unit(h.astype(jnp.float32)))
        return tuple(found)

    def __call__(self, x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"]) -> Array:
        total = jnp.zeros(x.shape[0], jnp.float32)
        # One pass over both, which is half the calls and the same numbers.
        for i, both in enumerate(self.maps(jnp.concatenate([x, y]))):
            a, b = jnp.split(both, 2)
            weighed = getattr(self, f"lin{i}")["model"]["1"](jnp.square(a - b))
            total = total + jnp.mean(weighed, axis=(1, 2, 3))
        return total


def unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """x divided by its length over channels; 0, with gradient 0, where that is 0.

    >>> unit(jnp.array([3.0, 4.0]).reshape(1, 1, 1, 2)).ravel().round(3)
    Array([0.6, 0.8], dtype=float32)
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    there = square > 0
    length = jnp.sqrt(jnp.where(there, square, 1.0))
    return jnp.where(there, x / (length + 1e-10), 0.0)
