"""A grid for few steps: even in a root of the noise near data, in a flow's time near noise.

    sigma/alpha = C tau^2 / ((1 - tau) (1 - b tau)),        tau in [0, 1],  b in [0, 1].

Near data tau = sqrt(sigma / (C alpha)). Near noise, for b = 0, 1 - tau = C alpha / sigma, the time
of a flow, in which the estimate of an exact denoiser is smooth. Trained networks were better served
by more steps where the noise is far above the data: b near 1 spends them there. For b = 1 both
ends are alike, tau / (1 - tau) = sqrt(sigma / (C alpha)). sigma = 0 and alpha = 0 are regular for
every b.
`adams_moulton` continues its slopes as polynomials in tau.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.process.gaussian import Process, Time, scales, time_of
from jaxdiff.process.grids import between, check_steps, ended
from jaxdiff.types import Scalar, number

CURVATURE = 1.5
"""C over the standard deviation of the data."""


class Root(NamedTuple):
    """C and b of sigma/alpha = C tau^2 / ((1 - tau) (1 - b tau))."""

    c: Array
    b: Array


def root(std: Scalar = 0.7, bend: Scalar = 0.8) -> Root:
    """C = 1.5 std and b = bend.

    Raises:
      ValueError: if std is not positive, or bend not in [0, 1].

    >>> round(float(root(2.0).c), 4)
    3.0
    """
    if isinstance(std, int | float) and not 0 < std < float("inf"):
        raise ValueError(f"std={std}: give the standard deviation of the data, e.g. 0.7")
    if isinstance(bend, int | float) and not 0 <= bend <= 1:
        raise ValueError(f"bend={bend}: give a number in [0, 1], 0 for exact denoisers")
    return Root(CURVATURE * number(std), number(bend))


def root_place(process: Process, t: Time, root: Root) -> Array:
    """tau(t): 0 at sigma = 0, 1 at alpha = 0.

    Args:
      process: what noise does.
      t: times of any shape.
      root: see `root`.

    Returns:
      tau, shaped like t.

    >>> from jaxdiff.process import rectified_flow
    >>> tau = root_place(rectified_flow(), jnp.array([0.0, 0.5, 1.0]), root(0.7, 1.0))
    >>> [round(place, 4) for place in tau.tolist()]   # 1 / (1 + sqrt(1.05))
    [0.0, 0.4939, 1.0]
    """
    alpha, sigma = scales(process, t)
    c, b = root
    far = jnp.sqrt((1 - b) ** 2 * sigma + 4 * c * alpha)
    return 2 * jnp.sqrt(sigma) / ((1 + b) * jnp.sqrt(sigma) + far)


def root_flow(
    process: Process, n: int, std: Scalar = 0.7, bend: Scalar = 0.8
) -> Float[Array, " m"]:
    """n + 1 times evenly spread in tau from t_max to t_clean.

    sigma/alpha = C tau^2 / ((1 - tau) (1 - b tau)), C = 1.5 std, b = bend.

    Where the last of the n times asked would lie below t_min, the n are spread to t_min.

    Args:
      process: what noise does; alpha(t_max) may be 0.
      n: number of steps.
      std: standard deviation of the data (that of pixels in [-1, 1] is 0.5 to 0.8).
      bend: in [0, 1]; 0 suits exact denoisers, 0.8 networks.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1, std is not positive, or bend not in [0, 1].

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in root_flow(edm(), 4).tolist()]
    [80.0, 4.325, 0.729, 0.096, 0.0]
    """
    check_steps(n)
    c, b = shape = root(std, bend)
    first, last = (root_place(process, t, shape) for t in (process.t_max, process.t_min))
    even = between(first, jnp.zeros_like(first), n + 1)[:-1]
    tau = jnp.where(even[-1] < last, between(first, last, n), even)
    lam = 2 * (jnp.log1p(-tau) + jnp.log1p(-b * tau) - jnp.log(c * tau**2))
    return ended(process, time_of(process, lam).at[0].set(process.t_max))
