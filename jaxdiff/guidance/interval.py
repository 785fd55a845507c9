"""Guidance in an interval of noise levels: where it helps, and not where it only narrows.

At high noise classifier-free guidance pulls all samples of a class towards one another before
anything is decided; at low noise it changes nothing. Kynkaanniemi et al. 2024, arXiv:2404.07724.
"""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.types import At, number


def _within(scale: Number, low: Array, high: Array, at: At) -> Array:
    # products, not sigma / alpha: alpha may be 0
    inside = (at.sigma > low * at.alpha) & (at.sigma <= high * at.alpha)
    return jnp.where(inside, value_at(scale, at), 1.0)


def interval(scale: Number, low: float | Array = 0.0, high: float | Array = jnp.inf) -> Partial:
    """A guidance scale that acts where low < sigma/alpha <= high, and is 1 outside.

    Args:
      scale: w inside, a number, [b], or At -> scalar.
      low: of sigma/alpha.
      high: of sigma/alpha; at alpha = 0 the scale is 1.

    Returns:
      a function of `At`, for `cfg(model, cond, null, scale)`.

    Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. (4).

    >>> from jaxdiff.types import NOWHERE
    >>> at = At(None, 5.0, jnp.ones(()), 5.0 * jnp.ones(()), None, NOWHERE)
    >>> float(interval(2.0, high=3.0)(at)), float(interval(2.0, high=9.0)(at))
    (1.0, 2.0)
    """
    return Partial(_within, numeric(scale), number(low), number(high))
