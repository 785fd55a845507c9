"""APG: guidance without the part of it that saturates.

With D = x_0(cond) - x_0(null), classifier-free guidance is x_0(cond) + (w - 1) D. The part of D
along x_0(cond) makes images brighter and more saturated; the part across it makes them better:

    D <- D + beta (D of the step before),   a reverse momentum for beta < 0,
    D <- D min(1, r / ||D||),
    x_0 = x_0(cond) + (w - 1) (D_across + eta D_along),

with norms and projections per sample. eta = 1 alone is classifier-free guidance again.

Sadat, Hilliges & Weber 2024, arXiv:2410.02416, section 4 and algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Model, Number, combined, numeric, value_at
from jaxdiff.trees import combine, dots
from jaxdiff.types import At, Estimate, PyTree, number

_NAME = "apg"


def _projected(scale: Any, eta: Array, norm: Array, cond: PyTree, step: PyTree) -> PyTree:
    """x_0(cond) + (w - 1) of the bounded step, less (1 - eta) of what lies along x_0(cond)."""
    length, along = jnp.sqrt(dots(step, step)), dots(cond, cond)
    step = combine((jnp.minimum(1.0, norm / jnp.where(length > 0, length, 1.0)), step))
    share = jnp.where(along > 0, dots(step, cond) / jnp.where(along > 0, along, 1.0), 0.0)
    kept = combine((1.0, step), (-(1 - eta) * share, cond))
    return combine((1.0, cond), (scale - 1, kept))


def _still(scale: Any, eta: Array, norm: Array, branches: tuple[PyTree, ...], at: At) -> Estimate:
    null, cond = branches
    step = combine((1.0, cond), (-1.0, null))
    return Estimate(_projected(value_at(scale, at), eta, norm, cond, step))


def _moving(
    scale: Any, eta: Array, norm: Array, beta: Array, branches: tuple[PyTree, ...], at: At
) -> Estimate:
    null, cond = branches
    step = combine((1.0, cond), (-1.0, null), (beta, at.now.memory[_NAME]))
    x0 = _projected(value_at(scale, at), eta, norm, cond, step)
    return Estimate(x0, None, {_NAME: step})


def _at_rest(x: PyTree) -> dict[str, PyTree]:
    return {_NAME: jax.tree.map(jnp.zeros_like, x)}


def apg(
    model: Model,
    cond: PyTree,
    null: PyTree,
    scale: Number,
    *,
    eta: float | Array = 0.0,
    norm: float | Array = jnp.inf,
    momentum: float | Array = 0.0,
) -> Denoiser:
    """Adaptive projected guidance, in one call at 2b.

    Args:
      model: a model trained with its condition dropped at times.
      cond: the condition, a tree with leading axis b.
      null: the empty condition, or a negative one.
      scale: w, a number, [b], or At -> scalar; 1 is the conditional model.
      eta: the weight of the part along x_0(cond); 1 is classifier-free guidance.
      norm: r > 0, the largest norm of D over a sample; infinite for no bound.
      momentum: beta, below 0 in the paper. A Python 0 keeps nothing between steps; any other
        number needs a loop over steps (`sample`, `run`).

    Raises:
      ValueError: if norm is not above 0.
      GridOnly: with momentum, outside a loop over steps.

    Sadat et al. 2024, arXiv:2410.02416, algorithm 1.
    """
    if not isinstance(norm, Tracer) and not np.all(np.asarray(norm) > 0):
        raise ValueError(f"norm={norm}: the largest norm of the guidance is above 0")
    settings = numeric(scale), number(eta), number(norm)
    if isinstance(momentum, int | float) and momentum == 0:
        return combined(model, (null, cond), Partial(_still, *settings))
    rule = Partial(_moving, *settings, number(momentum))
    return combined(model, (null, cond), rule, Partial(_at_rest))
