"""Colourisation: y = w . x, one grey value from the channels of every pixel.

With Q orthonormal, its first row w / |w|, z = Q x of each pixel, and the values are |w| in the
first channel, 0 in the others.
"""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxdiff.inverse.operators.kernel import Operator, Static, Svd, image_shape
from jaxdiff.inverse.operators.solve import spectral

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance of ITU-R BT.601."""


def _grey(weights: Array, x: Array) -> Array:
    return jnp.einsum("c,hwc->hw", weights, x, precision="highest")[..., None]


def _spread(weights: Array, y: Array) -> Array:
    return y * weights[None, None]


def _turned(rows: Array, x: Array) -> Array:
    return jnp.einsum("dc,hwc->hwd", rows, x, precision="highest")


class _Place(Static):
    def __call__(self, y: Array) -> Array:
        return jnp.pad(y, ((0, 0), (0, 0), (0, self.value - 1)))


def _first(z: Array) -> Array:
    return z[..., :1]


def colourisation(
    shape: tuple[int, ...], weights: Float[Array, " c"] | tuple[float, ...] | None = None
) -> Operator:
    """One grey value for each pixel, the weighted sum of its channels; to be coloured again.

    Args:
      shape: (h, w, c) of one image.
      weights: [c], by default the mean, 1/c each; `LUMA` is the luminance of red, green, blue.

    Raises:
      ValueError: if there is not one weight for each channel, or all are 0.

    >>> colourisation((1, 1, 3)).A(jnp.array([[[1.0, 2.0, 6.0]]])).tolist()
    [[[3.0]]]
    """
    h, w, c = image_shape(shape)
    weights = jnp.full(c, 1 / c) if weights is None else jnp.asarray(weights, float)
    _check_weights(weights, c)
    norm, rows = jnp.linalg.norm(weights), _frame(weights)
    values = jnp.zeros((h, w, c)).at[..., 0].set(norm)
    vt, v = Partial(_turned, rows), Partial(_turned, rows.T)
    svd = Svd(values, vt, v, Partial(_Place(c)), Partial(_first))
    A, At = Partial(_grey, weights), Partial(_spread, weights)
    return spectral(svd, (h, w, c), A=A, At=At, onto=True)


def _check_weights(weights: Array, c: int) -> None:
    if weights.shape != (c,):
        raise ValueError(f"weights of shape {weights.shape} for {c} channels: give one for each")
    if not isinstance(weights, Tracer) and not np.any(np.asarray(weights)):
        raise ValueError("weights are all 0: such a picture is black whatever the image is")


def _frame(weights: Array) -> Array:
    """An orthonormal basis whose first row is w / |w|: Householder's reflection of e_1 onto it.

    The sign is chosen so that nothing cancels.
    """
    unit = weights / jnp.linalg.norm(weights)
    sign = jnp.where(unit[0] >= 0, 1.0, -1.0)
    v = unit.at[0].add(sign)
    reflected = jnp.eye(len(unit)) - 2 * jnp.outer(v, v) / (v @ v)
    return -sign * reflected
