"""MPGD and FlowChef: a gradient step on x_0 itself, without the network's Jacobian.

    MPGD      x_0' = P(x_0 + rate A^T (y - A x_0)),  P the identity or decode(encode(.)),
    FlowChef  x_s' = x_s + rate A^T (y - A x_0).

MPGD's autoencoder P brings x_0 back to the data manifold. FlowChef applies the same gradient to the
state after the step; its rate is per STEP, and the result depends on how many are taken.

He et al. 2023, arXiv:2311.16424, algorithm 1 and section 4. Patel et al. 2024, arXiv:2412.00100,
algorithm 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, edited
from jaxdiff.inverse.descent import downhill
from jaxdiff.inverse.doors import check_positive
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import correction_in_range, in_range
from jaxdiff.samplers import after
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, Now, PyTree, Sampler, number


def _mpgd(operator: Any, y: Any, rate: Any, back: Any, est: Estimate, at: At) -> PyTree:
    moved = combine((1.0, est.x0), (value_at(rate, at), downhill(operator, y, est.x0)))
    return moved if back is None else jax.vmap(back)(moved)


def mpgd(
    operator: Measurement,
    y: PyTree,
    *,
    rate: Number,
    autoencode: Callable[[PyTree], PyTree] | None = None,
) -> Guide:
    """MPGD: x_0' = P(x_0 - rate grad ||y - A(x_0)||^2/2); no network Jacobian.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      rate: step size > 0, a number, [b], or At -> scalar; 1/||A||^2 is safe for a linear A.
      autoencode: P, x -> decode(encode(x)) of ONE example (a `Partial` if the guided denoiser is
        to be an argument under `jit`); None for no projection.

    Raises:
      ValueError: if rate <= 0, or y or x do not have the shapes that the operator says.

    He et al. 2023, arXiv:2311.16424, algorithm 1.
    """
    check_positive("rate", rate)
    if autoencode is not None and not isinstance(autoencode, Partial):
        autoencode = Partial(autoencode)
    guide = edited(Partial(_mpgd, operator, y, numeric(rate), autoencode))
    return in_range(guide, operator, y)


def _chef(
    operator: Any, y: Any, rate: Any, now: Now, process: Any, x: PyTree, est: Estimate
) -> PyTree:
    return combine((1.0, x), (rate, downhill(operator, y, est.x0)))


def flowchef(
    operator: Measurement, y: PyTree, *, rate: float | Array
) -> Callable[[Sampler], Sampler]:
    """FlowChef: after each step x_s += rate A^T (y - A(x_0)), the gradient taken at x_0.

    A correction: it wraps a sampler. The result depends on the number of steps.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      rate: step size > 0 per step, a number or [b].

    Raises:
      ValueError: if rate <= 0, or y or x do not have the shapes that the operator says.

    Patel et al. 2024, arXiv:2412.00100, algorithm 1.
    """
    check_positive("rate", rate)
    fix = partial(_chef, operator, y, number(rate))
    return correction_in_range(after(fix), operator, y)
