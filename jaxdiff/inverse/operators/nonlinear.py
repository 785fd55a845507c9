"""Measurements that are not linear: their gradients are finite everywhere, and 0 or passed on
where the measurement itself has none.

    phase_retrieval   y = |F pad(x)|
    hdr               y = clip(gain x, low, high)
    quantise          y = the nearest of n levels; gradients pass as if it were the identity
    nonlinear_blur    y = (k * u^g)^(1/g): a blur of light, of which cameras store a power
    blind_blur        y = k * x with both unknown

DPS (Chung et al. 2023, arXiv:2209.14687, appendix) and DAPS (Zhang et al. 2024, arXiv:2407.01521)
measure by these; their nonlinear blur is a trained network, for which the gamma blur stands in.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxdiff.inverse.operators.blur import fft, filtered, transfer
from jaxdiff.inverse.operators.kernel import Nonlinear, Static, image_shape
from jaxdiff.types import Scalar, number


class _Magnitudes(Static):
    def __call__(self, x: Array) -> Array:
        p = self.value
        z = fft(jnp.pad(x, ((p, p), (p, p), (0, 0))))
        power = z.real**2 + z.imag**2
        lit = power > 0  # the modulus has a kink at 0: its gradient there is taken as 0
        return jnp.where(lit, jnp.sqrt(jnp.where(lit, power, 1.0)), 0.0)


def phase_retrieval(shape: tuple[int, ...], *, pad: int) -> Nonlinear:
    """Magnitudes of the Fourier coefficients of the image with a dark border: y = |F pad(x)|.

    F is orthonormal. Images that differ by a sign, a shift in the border or a turn by 180 degrees
    are measured alike.

    Args:
      shape: (h, w, c) of one image.
      pad: pixels of border on each side; h/2 samples the autocorrelation fully, DPS takes h/4.

    Raises:
      ValueError: if pad < 0.

    >>> phase_retrieval((2, 2, 1), pad=1).A(jnp.ones((2, 2, 1)))[0, 0].tolist()
    [1.0]
    """
    if pad < 0:
        raise ValueError(f"pad={pad}: a border has no negative width")
    return Nonlinear(Partial(_Magnitudes(pad)), image_shape(shape))


def _clipped(gain: Array, low: Array, high: Array, x: Array) -> Array:
    return jnp.clip(gain * x, low, high)


def _unclipped(gain: Array, low: Array, high: Array, x: Array, y: Array) -> Array:
    """Where y was not clipped x is known; where it was, x is beyond."""
    least = jnp.where(y <= low, -jnp.inf, y / gain)
    most = jnp.where(y >= high, jnp.inf, y / gain)
    return jnp.clip(x, least, most)


def hdr(
    shape: tuple[int, ...], *, gain: Scalar = 2.0, low: Scalar = -1.0, high: Scalar = 1.0
) -> Nonlinear:
    """High dynamic range: an exposure that clips, y = clip(gain x, low, high).

    Args:
      shape: that of x.
      gain: > 0, in the literature 2.
      low, high: the range of values.

    Raises:
      ValueError: if gain <= 0 or low >= high.

    >>> hdr((3,)).A(jnp.array([-0.9, 0.2, 0.7])).tolist()
    [-1.0, 0.4..., 1.0]
    """
    check_range(low, high)
    _check_positive("gain", gain)
    numbers = number(gain), number(low), number(high)
    return Nonlinear(Partial(_clipped, *numbers), tuple(shape), Partial(_unclipped, *numbers))


def straight(x: Array, y: Array) -> Array:
    """The values of y with the gradient of x (a straight-through estimate)."""
    return x + lax.stop_gradient(y - x)


def _level(low: Array, step: Array, top: Array, x: Array) -> Array:
    return straight(x, low + step * jnp.clip(jnp.round((x - low) / step), 0.0, top))


def _into_box(low: Array, step: Array, top: Array, x: Array, y: Array) -> Array:
    """The values that are rounded to y; the outermost levels take all beyond."""
    least = jnp.where(y < low + step / 2, -jnp.inf, y - step / 2)
    most = jnp.where(y > low + step * (top - 0.5), jnp.inf, y + step / 2)
    return jnp.clip(x, least, most)


def quantise(
    levels: int, shape: tuple[int, ...], *, low: Scalar = -1.0, high: Scalar = 1.0
) -> Nonlinear:
    """The nearest of `levels` values spread evenly over [low, high]; gradients pass unchanged.

    Args:
      levels: >= 2; 2^b for b bits.
      shape: that of x.
      low, high: the range of values.

    Raises:
      ValueError: if levels < 2 or low >= high.

    >>> quantise(3, (3,)).A(jnp.array([-0.9, 0.2, 4.0])).tolist()
    [-1.0, 0.0, 1.0]
    """
    if levels < 2:
        raise ValueError(f"levels={levels}: a picture needs at least two")
    check_range(low, high)
    low, high = number(low), number(high)
    numbers = low, (high - low) / (levels - 1), number(levels - 1)
    return Nonlinear(Partial(_level, *numbers), tuple(shape), Partial(_into_box, *numbers))


def _in_light(h: Array, gamma: Array, low: Array, high: Array, x: Array) -> Array:
    unit = jnp.clip((x - low) / (high - low), 1e-3, None)
    seen = jnp.maximum(filtered(h, unit**gamma), 1e-3**2)
    return low + (high - low) * seen ** (1 / gamma)


def nonlinear_blur(
    kernel: Float[Array, "k l"],
    shape: tuple[int, ...],
    *,
    gamma: Scalar = 2.2,
    low: Scalar = -1.0,
    high: Scalar = 1.0,
) -> Nonlinear:
    """A blur of light: values u in [0, 1] are raised to gamma, blurred, and put back.

    y = (k * u^gamma)^(1/gamma). Bright spots outshine what is around them, as on a sensor. Values
    below 0.001 of the range count as that, so that gradients are finite.

    Args:
      kernel: [k, l] >= 0 of sum 1; circular, see `blur`.
      shape: (h, w, c) of one image.
      gamma: > 0; at 1 it is the linear blur of images in the range.
      low, high: the range of values.

    Raises:
      ValueError: if the kernel is larger than the image, gamma <= 0 or low >= high.
    """
    check_range(low, high)
    _check_positive("gamma", gamma)
    h = transfer(jnp.asarray(kernel, float), shape)
    numbers = number(gamma), number(low), number(high)
    return Nonlinear(Partial(_in_light, h, *numbers), image_shape(shape))


class _Convolved(Static):
    def __call__(self, x: Any) -> Array:
        return filtered(transfer(x["kernel"].reshape(self.value), x["image"].shape), x["image"])


def blind_blur(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Nonlinear:
    """Blind deconvolution: y = kernel * image on the tree {"image", "kernel"}, both unknown.

    Args:
      shape: (h, w, c) of the image.
      kernel_shape: (k, l) of the kernel, or (k, l, 1), centred in its pixel (k // 2, l // 2).

    Raises:
      ValueError: if the kernel is larger than the image, or not of one channel.

    Chung et al. 2023, arXiv:2211.10656 (BlindDPS), section 3.
    """
    h, w, c = image_shape(shape)
    if len(kernel_shape) not in (2, 3) or kernel_shape[2:] not in ((), (1,)):
        raise ValueError(f"kernel_shape={kernel_shape}: give (k, l) or (k, l, 1)")
    if kernel_shape[0] > h or kernel_shape[1] > w:
        raise ValueError(
            f"kernel of shape {kernel_shape} for images of shape {tuple(shape)}: it may not be "
            "larger than the image"
        )
    parts = {"image": (h, w, c), "kernel": tuple(kernel_shape)}
    return Nonlinear(Partial(_Convolved(tuple(kernel_shape[:2]))), parts)


def check_range(low: Scalar, high: Scalar) -> None:
    """Refuse a range of values that is empty.

    Raises:
      ValueError: if low >= high.
    """
    if not isinstance(low, Tracer) and not isinstance(high, Tracer) and not low < high:
        raise ValueError(f"low={low}, high={high}: a range of values has low < high")


def _check_positive(name: str, value: Scalar) -> None:
    if not isinstance(value, Tracer) and not np.asarray(value) > 0:
        raise ValueError(f"{name}={value}: give a positive number")
