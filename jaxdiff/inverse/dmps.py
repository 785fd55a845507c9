"""Likelihood scores of x_t itself: no Jacobian of the network, and no network in them at all.

Both take x_0 given x_t from x_t alone, so that x_0 = k x_t + sqrt(r^2) n and

    grad_x log p(y | x_t) = k A^T (r^2 A A^T + s^2 I)^-1 (y - A k x_t).

DMPS takes a flat prior: k = 1/alpha, r^2 = sigma^2/alpha^2. Data that are N(0, v0 I) have
k = alpha/(alpha^2 + sigma^2/v0), r^2 = sigma^2/(alpha^2 + sigma^2/v0), of which the flat prior is
the limit v0 -> inf; a finite v0 stays regular at alpha = 0. Score-ALD, which is older, puts a
number s^2 + gamma_t^2 in the place of the matrix.

Through Tweedie's formula the score moves x_0 by sigma^2/alpha times it.

Meng & Kabashima 2022, arXiv:2211.12343, algorithm 1. Jalal et al. 2021, arXiv:2108.01368
(annealed Langevin dynamics with the likelihood's gradient).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, edited
from jaxdiff.inverse.doors import check_linear, check_noise, check_positive
from jaxdiff.inverse.gaussian import misfit, per_sample
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import in_range
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, PyTree


def _over(known: Array, numerator: Array, denominator: Array) -> Array:
    return jnp.where(known, numerator / jnp.where(known, denominator, 1.0), 0.0)


def _dmps(operator: Any, y: Any, noise: Any, v0: Any, est: Estimate, at: At) -> PyTree:
    total = at.alpha**2 + at.sigma**2 / value_at(v0, at)
    known = total > 0  # a flat prior and alpha = 0: nothing is known, and nothing is done
    k, r2 = _over(known, at.alpha, total), _over(known, at.sigma**2, total)
    residual = misfit(operator, y, combine((k, at.x)))
    scales = jnp.where(known, r2, 1.0), value_at(noise, at) ** 2
    scales = [per_sample(scale, at.x) for scale in scales]
    back = jax.vmap(operator.At)(jax.vmap(operator.gram_solve)(*scales, residual))
    return combine((1.0, est.x0), (per_sample(r2, at.x), back))


def dmps(operator: Measurement, y: PyTree, *, noise: Number, v0: Number = jnp.inf) -> Guide:
    """DMPS: one evaluation a step, no backward pass.

    x_0' = x_0 + r^2 A^T (r^2 A A^T + s^2 I)^-1 (y - A k x_t).

    With the flat prior the pull is stiff where alpha is small (x_t/alpha is large there): many
    steps, or a finite v0.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s >= 0, a number, [b], or At -> scalar.
      v0: variance of the data if they were N(0, v0 I); inf as published.

    Raises:
      ValueError: if the operator is not linear, noise < 0, v0 <= 0, or y or x do not have the
        shapes that the operator says.

    Meng & Kabashima 2022, arXiv:2211.12343, algorithm 1.
    """
    check_linear(operator, "dmps", "dps")
    check_noise(noise)
    check_positive("v0", v0)
    edit = Partial(_dmps, operator, y, numeric(noise), numeric(v0))
    return in_range(edited(edit), operator, y, noise)


def _gamma(at: At) -> Array:
    return _over(at.alpha > 0, at.sigma, at.alpha)


def _score_ald(operator: Any, y: Any, noise: Any, gamma: Any, est: Estimate, at: At) -> PyTree:
    known = at.alpha > 0
    ones = jnp.ones_like(at.alpha)
    residual = misfit(operator, y, combine((_over(known, ones, at.alpha), at.x)))
    width = value_at(noise, at) ** 2 + value_at(gamma, at) ** 2
    gain = _over(known & (width > 0), at.sigma**2, at.alpha**2 * width)
    return combine((1.0, est.x0), (gain, jax.vmap(operator.At)(residual)))


_ANNEALED = Partial(_gamma)


def score_ald(
    operator: Measurement, y: PyTree, *, noise: Number, gamma: Number = _ANNEALED
) -> Guide:
    """Score-ALD: x_0' = x_0 + (sigma/alpha)^2 A^T (y - A x_t/alpha) / (s^2 + gamma^2).

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s >= 0, a number, [b], or At -> scalar.
      gamma: the annealing, a number, [b], or At -> scalar; by default sigma/alpha, which for
        A A^T = I is the variance that A x_t/alpha has.

    Raises:
      ValueError: if the operator is not linear, noise < 0, or y or x do not have the shapes that
        the operator says.

    Jalal et al. 2021, arXiv:2108.01368, the update of annealed Langevin dynamics.
    """
    check_linear(operator, "score_ald", "dps")
    check_noise(noise)
    edit = Partial(_score_ald, operator, y, numeric(noise), numeric(gamma))
    return in_range(edited(edit), operator, y, noise)
