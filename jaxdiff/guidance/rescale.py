"""What keeps large guidance scales within bounds: rescaling and dynamic thresholding.

Guidance above 1 stretches x_0. Rescaling brings its standard deviation back to that of the
conditional branch, per sample,

    x_0' = phi x_0 std(x_0(cond)) / std(x_0) + (1 - phi) x_0,

and dynamic thresholding clips at a percentile of |x_0| and shrinks to the range.

Lin et al. 2023, arXiv:2305.08891, section 3.4; Saharia et al. 2022, Imagen, arXiv:2205.11487, the
section on large guidance weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Model, Number, combined, numeric, value_at
from jaxdiff.guidance.kernel import Guide, edited
from jaxdiff.trees import combine, fit
from jaxdiff.types import At, Estimate, PyTree, number


def _spread(leaf: Array) -> Array:
    return jnp.std(leaf.reshape(leaf.shape[0], -1), axis=1)


def _rescaled(scale: Any, share: Array, branches: tuple[PyTree, ...], at: At) -> Estimate:
    null, cond = branches
    weight = value_at(scale, at)
    guided = combine((1 - weight, null), (weight, cond))

    def back(leaf: Array, aim: Array) -> Array:
        now = _spread(leaf)
        ratio = jnp.where(now > 0, _spread(aim) / jnp.where(now > 0, now, 1.0), 1.0)
        return leaf * fit(share * ratio + (1 - share), leaf)

    return Estimate(jax.tree.map(back, guided, cond))


def rescaled_cfg(
    model: Model, cond: PyTree, null: PyTree, scale: Number, *, rescale: float | Array = 0.7
) -> Denoiser:
    """Classifier-free guidance whose x_0 gets the spread of the conditional one back.

    x_0 = x_0(null) + w (x_0(cond) - x_0(null)), then x_0 times
    rescale std(x_0(cond))/std(x_0) + 1 - rescale, per sample (and per array of a tree); one call.

    Args:
      model: a model trained with its condition dropped at times.
      cond: the condition, a tree with leading axis b.
      null: the empty condition, or a negative one.
      scale: w, a number, [b], or At -> scalar.
      rescale: phi in [0, 1]; 0 is plain guidance.

    Raises:
      ValueError: if rescale is outside [0, 1].

    Lin et al. 2023, arXiv:2305.08891, section 3.4, on x_0 whatever the network predicts.
    """
    if not isinstance(rescale, Tracer) and not np.all((np.asarray(rescale) >= 0) & (rescale <= 1)):
        raise ValueError(f"rescale={rescale}: the share of the rescaled image is in [0, 1]")
    rule = Partial(_rescaled, numeric(scale), number(rescale))
    return combined(model, (null, cond), rule)


def _thresholded(percentile: Array, low: Array, high: Array, est: Estimate, at: At) -> PyTree:
    centre, half = (low + high) / 2, (high - low) / 2

    def shrink(leaf: Array) -> Array:
        size = jnp.abs(leaf - centre).reshape(leaf.shape[0], -1)
        bound = fit(jnp.maximum(jnp.quantile(size, percentile, axis=1), half), leaf)
        return centre + jnp.clip(leaf - centre, -bound, bound) * (half / bound)

    return jax.tree.map(shrink, est.x0)


def dynamic_threshold(
    percentile: float | Array = 0.995, low: float | Array = -1.0, high: float | Array = 1.0
) -> Guide:
    """Dynamic thresholding: clip x_0 to [-s, s] and divide by s, s = max(1, percentile of |x_0|).

    For a range (low, high) it acts about its centre, in units of its half width; per sample, and
    per array of a tree. No Jacobian is taken.

    Args:
      percentile: p in (0, 1]; Imagen has 0.995.
      low: of the range of the data.
      high: of the range of the data.

    Raises:
      ValueError: if percentile is outside (0, 1], or not low < high.

    Saharia et al. 2022, arXiv:2205.11487.

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(2), 3 * jnp.eye(2)), process.edm())
    >>> dynamic_threshold(1.0)(d)(jnp.array([[4.0, 1.0]]), 1.0).x0.tolist()   # of [3, 3/4]
    [[1.0, 0.25]]
    """
    if not isinstance(percentile, Tracer) and not 0 < float(percentile) <= 1:
        raise ValueError(f"percentile={percentile}: give a share in (0, 1], such as 0.995")
    if not any(isinstance(v, Tracer) for v in (low, high)) and not float(low) < float(high):
        raise ValueError(f"low={low}, high={high}: low < high is needed, e.g. -1.0, 1.0")
    return edited(Partial(_thresholded, number(percentile), number(low), number(high)))
