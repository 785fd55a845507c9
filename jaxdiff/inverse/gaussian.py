"""Posterior sampling by a Gaussian p(x_0 | x_t): PiGDM and MMPS.

With y = A x_0 + s n and p(x_0 | x_t) about N(x_0(x_t), V),

    grad_x log p(y | x_t) = J^T A^T (s^2 I + A V A^T)^-1 (y - A x_0(x_t)).

PiGDM takes V = r^2 I with r^2 = v0 sigma^2/(v0 alpha^2 + sigma^2), the posterior variance if the
data were N(0, v0 I). MMPS takes the true V = (sigma^2/alpha) J^T (Tweedie's second moment) and
solves by conjugate gradient, each step one backward pass: exact for a Gaussian prior.

PiGDM: Song et al. 2023, ICLR, eq. (7)-(8). MMPS: Rozet et al. 2024, arXiv:2405.13712,
eq. (16)-(20).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, pulled, tweedie_gain
from jaxdiff.inverse.cg import cg
from jaxdiff.inverse.doors import check_linear, check_noise
from jaxdiff.inverse.operators import Measurement, check_measurement
from jaxdiff.inverse.ranges import in_range
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, PyTree


def misfit(operator: Measurement, y: PyTree, x0: PyTree) -> PyTree:
    """y - A x_0 over a batch."""
    check_measurement(operator, y, x0)
    return combine((1.0, y), (-1.0, jax.vmap(operator.A)(x0)))


def per_sample(value: Any, x: PyTree) -> Array:
    """A number as one per sample, [b]."""
    leaf = jax.tree.leaves(x)[0]
    return jnp.broadcast_to(value, leaf.shape[:1])


def _pigdm(operator: Any, y: Any, noise: Any, v0: Any, est: Estimate, at: At) -> PyTree:
    v0, s = value_at(v0, at), value_at(noise, at)
    r2 = v0 * at.sigma**2 / (v0 * at.alpha**2 + at.sigma**2)
    residual = misfit(operator, y, est.x0)
    scales = per_sample(r2, est.x0), per_sample(s**2, est.x0)
    solved = jax.vmap(operator.gram_solve)(*scales, residual)
    return jax.vmap(operator.At)(solved)


def pigdm(operator: Measurement, y: PyTree, *, noise: Number, v0: Number = 1.0) -> Guide:
    """PiGDM: pseudo-inverse guidance, one backward pass a step.

    x_0' = x_0 + (sigma^2/alpha) J^T A^T (r^2 A A^T + s^2 I)^-1 (y - A x_0).

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s, standard deviation of the measurement noise (a number, [b], or At -> scalar), >= 0.
      v0: variance of the data, in the paper 1.

    Raises:
      ValueError: if the operator is not linear, noise < 0, or y or x do not have the shapes that
        the operator says.

    Song et al. 2023, ICLR (openreview 9_gsMA8MRKQ), eq. (7)-(8), algorithm 1.
    """
    check_linear(operator, "pigdm", "dps")
    check_noise(noise)
    pull = Partial(_pigdm, operator, y, numeric(noise), numeric(v0))
    return in_range(pulled(pull), operator, y, noise)


class _Mmps:
    """The pull of MMPS with a static number of steps; equal by it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Mmps) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash((_Mmps, self.steps))

    def __call__(self, operator: Any, y: Any, noise: Any, est: Estimate, at: At) -> PyTree:
        gain, s2 = tweedie_gain(at), value_at(noise, at) ** 2
        adjoint, forward = jax.vmap(operator.At), jax.vmap(operator.A)

        def seen(u: PyTree) -> PyTree:
            spread = forward(combine((gain, at.vjp(adjoint(u)))))
            return combine((1.0, spread), (s2, u))

        residual = misfit(operator, y, est.x0)
        return adjoint(cg(seen, residual, steps=self.steps))


def mmps(operator: Measurement, y: PyTree, *, noise: Number, steps: int = 2) -> Guide:
    """MMPS: moment matching with the true posterior covariance; 1 + steps backward passes a step.

    x_0' = x_0 + V A^T (s^2 I + A V A^T)^-1 (y - A x_0),  V = (sigma^2/alpha) J^T.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s > 0, standard deviation of the measurement noise.
      steps: of conjugate gradient, static; as many as y has entries is exact.

    Raises:
      ValueError: if the operator is not linear, noise < 0, steps < 1, or y or x do not have the
        shapes that the operator says.

    Rozet et al. 2024, arXiv:2405.13712, algorithm 2.
    """
    check_linear(operator, "mmps", "dps")
    check_noise(noise)
    if steps < 1:
        raise ValueError(f"steps={steps}: conjugate gradient needs at least one step")
    pull = Partial(_Mmps(steps), operator, y, numeric(noise))
    return in_range(pulled(pull), operator, y, noise)
