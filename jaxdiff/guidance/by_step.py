"""Guidance scales that go by the step of a grid: rising or falling, with a given mean.

With abar = alpha^2/(alpha^2 + sigma^2), which is alpha^2 of the process in its variance-preserving
frame, a step t -> s of the grid weighs a_i = abar_t/abar_s (rising towards clean data) or 1 - a_i
(falling), and the scale is n mean weight_i / sum_j weight_j.

Ye et al. 2024, arXiv:2409.15761, the section on the design space of rho and mu.
"""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Num

from jaxdiff.process import Process, check_grid, scales
from jaxdiff.types import At, Scalar, number


def _at_step(values: Array, at: At) -> Array:
    return values[at.now.i]


def by_step(values: Array) -> Partial:
    """A scale that is values[i] in step i of the grid; needs a loop over steps.

    Args:
      values: [n], or [n, b] for one per sample.

    >>> from jaxdiff.types import Now
    >>> at = At(None, 0.5, None, None, None, Now(0.5, 0.4, 1, 2, None, {}))
    >>> float(by_step(jnp.array([3.0, 4.0]))(at))
    4.0
    """
    return Partial(_at_step, number(values))


def _kept(process: Process, ts: Array) -> Array:
    """abar_t / abar_s of every step t -> s, in [0, 1]."""
    alpha, sigma = scales(process, ts)
    abar = alpha**2 / (alpha**2 + sigma**2)
    return abar[:-1] / abar[1:]


def rising(process: Process, ts: Num[Array, " m"], mean: Scalar) -> Partial:
    """A scale proportional to abar_t/abar_s, of this mean over the grid: more near clean data.

    Args:
      process: what noise did.
      ts: the grid, decreasing times [n + 1].
      mean: the mean over the n steps.

    Raises:
      ValueError: if the times do not decrease.

    Ye et al. 2024, arXiv:2409.15761 ("increase").

    >>> from jaxdiff.process import rectified_flow
    >>> rising(rectified_flow(), jnp.array([1.0, 0.5, 0.0]), 2.0).args[0].tolist()
    [0.0, 4.0]
    """
    check_grid(ts)
    kept = _kept(process, ts)
    return by_step(number(mean) * kept / jnp.mean(kept))


def falling(process: Process, ts: Num[Array, " m"], mean: Scalar) -> Partial:
    """A scale proportional to 1 - abar_t/abar_s, of this mean over the grid: more at high noise.

    Args:
      process: what noise did.
      ts: the grid, decreasing times [n + 1].
      mean: the mean over the n steps.

    Raises:
      ValueError: if the times do not decrease.

    Ye et al. 2024, arXiv:2409.15761 ("decrease").

    >>> from jaxdiff.process import rectified_flow
    >>> grid = jnp.array([1.0, 0.5, 0.0])   # abar 0, 1/2, 1
    >>> [round(float(v), 4) for v in falling(rectified_flow(), grid, 3.0).args[0]]
    [4.0, 2.0]
    """
    check_grid(ts)
    lost = 1 - _kept(process, ts)
    return by_step(number(mean) * lost / jnp.mean(lost))
