"""Computed tomography: sums along parallel rays, for any angles.

At angle theta, in degrees, the ray t = 0, +-1, ... crosses the image along

    column = t cos(theta) - r sin(theta),   row = t sin(theta) + r cos(theta),   r = 0, +-1, ...

from its middle, where the image is interpolated linearly between pixels and 0 outside. Angle 0 sums
columns, 90 rows. Few angles are a sparse view, a narrow range a limited angle.

Radon 1917; Kak & Slaney 1988, Principles of Computerized Tomographic Imaging, chapter 3.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.ndimage import map_coordinates
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxdiff.inverse.operators.kernel import Operator, Static, image_shape
from jaxdiff.inverse.operators.solve import CG_STEPS, derived


def _steps_from_middle(n: int) -> Array:
    return jnp.arange(n, dtype=float) - (n - 1) / 2


class _Radon(Static):
    """x [h, w, c] -> y [angles, detectors, c]; static: numbers of detectors and steps."""

    def __call__(self, angles: Array, x: Array) -> Array:
        detectors, along = self.value
        t, r = jnp.meshgrid(*map(_steps_from_middle, (detectors, along)), indexing="ij")
        h, w, _ = x.shape

        def one(angle: Array) -> Array:
            cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
            at = [t * sin + r * cos + (h - 1) / 2, t * cos - r * sin + (w - 1) / 2]
            turned = jax.vmap(lambda v: map_coordinates(v, at, 1), -1, -1)(x)
            return turned.sum(axis=1)

        return jax.vmap(one)(angles)


def radon(
    angles: Float[Array, " n"] | tuple[float, ...],
    shape: tuple[int, ...],
    *,
    detectors: int | None = None,
    steps: int = CG_STEPS,
) -> Operator:
    """Parallel-beam tomography: y [angles, detectors, c] holds sums along rays.

    Args:
      angles: in degrees, [n].
      shape: (h, w, c) of one image.
      detectors: rays an angle, a pixel apart; by default enough to see all corners.
      steps: of conjugate gradient, static.

    Raises:
      ValueError: if there is no angle, one is not a number, or there is no detector.

    >>> radon((0.0, 90.0), (2, 2, 1), detectors=2).A(jnp.ones((2, 2, 1))).shape
    (2, 2, 1)
    """
    h, w, c = image_shape(shape)
    angles = jnp.asarray(angles, float)
    _check_angles(angles)
    if detectors is not None and detectors < 1:
        raise ValueError(f"detectors={detectors}: at least one ray is needed")
    # as even or odd as a square image, so that rays at right angles pass through pixels
    across = _at_least(math.hypot(h, w), w) if detectors is None else detectors
    size = across, _at_least(math.hypot(h, w), h)
    return derived(Partial(_Radon(size), angles), (h, w, c), steps=steps)


def _at_least(length: float, like: int) -> int:
    n = math.ceil(length)
    return n + (n - like) % 2


def _check_angles(angles: Array) -> None:
    if angles.ndim != 1 or not angles.size:
        raise ValueError(f"angles of shape {angles.shape}: give a list of one or more, in degrees")
    if not isinstance(angles, Tracer) and not np.isfinite(np.asarray(angles)).all():
        raise ValueError(f"angles={angles}: all need to be numbers, in degrees")
