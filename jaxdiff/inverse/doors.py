"""What posterior samplers refuse, and how it is said: the argument, its value, the fix.

Values are looked at on concrete arrays only, never on tracers; shapes always.
"""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxdiff.inverse.operators import Measurement, Nonlinear, Operator, Svd
from jaxdiff.types import PyTree


def _concrete(value: Any) -> bool:
    return not callable(value) and not isinstance(value, Tracer)


def check_noise(noise: Any) -> None:
    """Refuse a negative standard deviation.

    Raises:
      ValueError: naming it.
    """
    # numpy, since inside a trace jnp would make a tracer of a plain number
    if _concrete(noise) and not np.all(np.asarray(noise) >= 0):
        raise ValueError(f"noise={noise}: a standard deviation is at least 0")


def check_positive(name: str, value: Any) -> None:
    """Refuse a number that is not above 0.

    Raises:
      ValueError: naming the argument and its value.
    """
    if _concrete(value) and not np.all(np.asarray(value) > 0):
        raise ValueError(f"{name}={value}: give a number above 0")


def check_share(name: str, value: Any) -> None:
    """Refuse a number outside [0, 1].

    Raises:
      ValueError: naming the argument and its value.
    """
    inside = not _concrete(value) or np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1))
    if not inside:
        raise ValueError(f"{name}={value}: give a number in [0, 1]")


def check_steps(steps: int) -> None:
    """Refuse a number of inner steps below 1.

    Raises:
      ValueError: naming it.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: at least one inner step is needed")


def check_linear(operator: Any, method: str, instead: str) -> None:
    """Refuse a measurement that is not linear.

    Raises:
      ValueError: naming the method, and what takes it instead.
    """
    if isinstance(operator, Nonlinear):
        raise ValueError(
            f"{method} needs a linear operator (A^T, and solves with A A^T), and was given a "
            f"Nonlinear: use {instead}, which takes any A"
        )


def spectrum(operator: Measurement, method: str) -> Svd:
    """The singular value decomposition that a spectral method needs.

    Raises:
      ValueError: if there is none, saying how to get one.
    """
    check_linear(operator, method, "dps")
    svd = operator.svd if isinstance(operator, Operator) else None
    if svd is None:
        raise ValueError(
            f"{method} works in the spectral space of A, and this operator has no svd: write A as "
            "a matrix on flattened examples, inverse.matrix(values, shape), or take ddnm or diffpir"
        )
    return svd


def check_picture(y: PyTree, x: PyTree, span: Any, seen: Any = None) -> None:
    """Refuse a picture that cannot be one of the samples: another shape, or quite other values.

    Noise may take y a little outside of the value range; more than the range's own width is taken
    for pixels in other units.

    Args:
      y: pictures in the space of x, leaves [b, ...].
      x: samples.
      span: the value range of the denoiser's data, or None.
      seen: a mask of what counts, [1, ...], or None for all.

    Raises:
      ValueError: naming the shapes or the ranges.
    """
    shapes = [jax.tree.map(np.shape, tree) for tree in (y, x)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"y of shape {shapes[0]} for samples of shape {shapes[1]}: they must agree"
        )
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((y, span, seen))):
        return
    for leaf in jax.tree.leaves(y):
        value = np.asarray(leaf)
        _check_values(value if seen is None else np.where(np.asarray(seen), value, 0), span)


def _check_values(values: Any, span: Any) -> None:
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("y holds NaN or infinities where it is seen: clean it, or mask them")
    if span is None:
        return
    bottom, top = float(span[0]), float(span[1])
    if min(low - bottom, top - high) < bottom - top:
        raise ValueError(
            f"y spans [{low:g}, {high:g}], but the denoiser was made for [{bottom:g}, {top:g}]: "
            "bring the picture to the model's value range"
        )
