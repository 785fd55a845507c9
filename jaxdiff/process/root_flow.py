"""A grid for few steps: even in a root of the noise near data, in a flow's time near noise.

    sigma/alpha = C tau^2 / (1 - tau),        tau in [0, 1].

Near data tau = sqrt(sigma / (C alpha)), near noise 1 - tau = C alpha / sigma, so that both ends,
sigma = 0 and alpha = 0, are regular. `adams_moulton` continues its slopes as polynomials in tau.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.process.gaussian import Process, Time, scales, time_of
from jaxdiff.process.grids import between, check_steps, ended
from jaxdiff.types import Scalar, number

CURVATURE = 1.5
"""C over the standard deviation of the data."""


def root_place(process: Process, t: Time, c: Scalar) -> Array:
    """tau(t) with sigma/alpha = c tau^2 / (1 - tau): 0 at sigma = 0, 1 at alpha = 0.

    Args:
      process: what noise does.
      t: times of any shape.
      c: > 0.

    Returns:
      tau, shaped like t.

    >>> from jaxdiff.process import rectified_flow
    >>> tau = root_place(rectified_flow(), jnp.array([0.0, 0.5, 1.0]), 0.5)
    >>> [round(place, 4) for place in tau.tolist()]
    [0.0, 0.7321, 1.0]
    """
    alpha, sigma = scales(process, t)
    root = jnp.sqrt(sigma)
    return 2 * root / (root + jnp.sqrt(sigma + 4 * number(c) * alpha))


def root_flow(process: Process, n: int, std: Scalar = 0.7) -> Float[Array, " m"]:
    """n + 1 times evenly spread in tau from t_max to t_clean, C = 1.5 std.

    sigma/alpha = C tau^2 / (1 - tau).

    Where the last of the n times asked would lie below t_min, the n are spread to t_min.

    Args:
      process: what noise does; alpha(t_max) may be 0.
      n: number of steps.
      std: standard deviation of the data (that of pixels in [-1, 1] is 0.5 to 0.8).

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1, or std is not positive.

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in root_flow(edm(), 4).tolist()]
    [80.0, 2.217, 0.505, 0.085, 0.0]
    """
    check_steps(n)
    check_std(std)
    c = CURVATURE * number(std)
    first, last = (root_place(process, t, c) for t in (process.t_max, process.t_min))
    even = between(first, jnp.zeros_like(first), n + 1)[:-1]
    tau = jnp.where(even[-1] < last, between(first, last, n), even)
    t = time_of(process, 2 * (jnp.log1p(-tau) - jnp.log(c * tau**2)))
    return ended(process, t.at[0].set(process.t_max))


def check_std(std: Scalar) -> None:
    """Refuse a Python number that is no standard deviation."""
    if isinstance(std, int | float) and not 0 < std < float("inf"):
        raise ValueError(f"std={std}: give the standard deviation of the data, e.g. 0.7")
