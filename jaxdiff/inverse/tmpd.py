"""TMPD: PiGDM with a variance per measured number, from the row sums of the true covariance.

Cov[x_0 | x_t] = C = (sigma^2/alpha) J^T is Tweedie's second moment. The matrix A C A^T + s^2 I is
replaced by the diagonal of its row sums, d = A C A^T 1 + s^2, one more backward pass:

    x_0' = x_0 + C A^T ((y - A x_0) / d).

Row sums are the diagonal where posterior pixels do not covary (masks, near the data), and are exact
for a single measurement. For dense A they may be negative, where the method as published pulls away
from y; here such an entry takes PiGDM's r^2 = sigma^2/(alpha^2 + sigma^2) instead, in units of
the largest row sum of A A^T.

Boys et al. 2023, arXiv:2310.06721, the diagonal form (DTMPD).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, pulled, tweedie_gain
from jaxdiff.inverse.doors import check_linear, check_noise
from jaxdiff.inverse.gaussian import misfit, per_sample
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import in_range
from jaxdiff.trees import combine, fit
from jaxdiff.types import At, Estimate, PyTree


def _guarded(sums: PyTree, instead: PyTree, r2: Any) -> PyTree:
    """Row sums, and r^2 |A A^T| where they are negative by more than rounding error."""

    def guard(leaf: Array, gram: Array) -> Array:
        flat = (leaf.shape[0], -1)
        top, gram = (jnp.max(jnp.abs(a.reshape(flat)), axis=1) for a in (leaf, gram))
        return jnp.where(leaf < -1e-6 * fit(top, leaf), fit(r2 * gram, leaf), jnp.maximum(leaf, 0))

    return jax.tree.map(guard, sums, instead)


def _divided(residual: Array, width: Array) -> Array:
    known = width > 0
    return jnp.where(known, residual / jnp.where(known, width, 1.0), 0.0)


def _tmpd(operator: Any, y: Any, noise: Any, est: Estimate, at: At) -> PyTree:
    gain, s2 = tweedie_gain(at), value_at(noise, at) ** 2
    adjoint, forward = jax.vmap(operator.At), jax.vmap(operator.A)
    residual = misfit(operator, y, est.x0)
    ones = jax.tree.map(jnp.ones_like, residual)
    rows = adjoint(ones)
    sums = forward(combine((gain, at.vjp(rows))))
    r2 = per_sample(at.sigma**2 / (at.alpha**2 + at.sigma**2), est.x0)
    width = combine((1.0, _guarded(sums, forward(rows), r2)), (s2, ones))
    return adjoint(jax.tree.map(_divided, residual, width))


def tmpd(operator: Measurement, y: PyTree, *, noise: Number) -> Guide:
    """TMPD: two backward passes a step; made for masks.

    x_0' = x_0 + (sigma^2/alpha) J^T A^T ((y - A x_0) / (A C A^T 1 + s^2)).

    Args:
      operator: A, of one example: one whose rows do not overlap, such as a mask or a pooling.
      y: measurements, leaves [b, ...].
      noise: s >= 0, a number, [b], or At -> scalar.

    Raises:
      ValueError: if the operator is not linear, noise < 0, or y or x do not have the shapes that
        the operator says.

    Boys et al. 2023, arXiv:2310.06721, the diagonal form (DTMPD).
    """
    check_linear(operator, "tmpd", "dps")
    check_noise(noise)
    pull = Partial(_tmpd, operator, y, numeric(noise))
    return in_range(pulled(pull), operator, y, noise)
