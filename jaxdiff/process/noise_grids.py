"""Times to sample at, spread in the ratio sigma/alpha: what sampling papers call noise schedules.

Each is a grid as in `grids`: n + 1 decreasing times, the last of them t_clean.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.special import betainc
from jaxtyping import Array, Float

from jaxdiff.process.gaussian import Process, scales, time_of
from jaxdiff.process.grids import between, check_steps, ended, lowest
from jaxdiff.types import Scalar, number

LARGEST_RATIO = 1e3
"""sigma/alpha that a grid which starts at alpha = 0 counts from, as the ratio is infinite there."""


def uniform_lambda(process: Process, n: int) -> Float[Array, " m"]:
    """n times evenly spread in log-SNR from t_max to t_min, then t_clean.

    Where alpha(t_max) is about 0 the spread counts from sigma/alpha = 1000, and where
    sigma(t_min) is about 0 to sigma/alpha = 0.002.

    Args:
      process: what noise does.
      n: number of steps.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    Lu et al. 2022, arXiv:2206.00927, section 3.4.
    """
    return _even(process, n, jnp.log, jnp.exp)


def karras(process: Process, n: int, rho: Scalar = 7.0) -> Float[Array, " m"]:
    """n times evenly spread in (sigma/alpha)^(1/rho) from t_max to t_min, then t_clean.

    sigma/alpha = (max^(1/rho) + i/(n-1) (min^(1/rho) - max^(1/rho)))^rho for i = 0 ... n - 1;
    its ends are limited to 1000 and 0.002 as in `uniform_lambda`.

    Args:
      process: what noise does.
      n: number of steps.
      rho: the larger, the denser towards data.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    Karras et al. 2022, arXiv:2206.00364, eq. (5).

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in karras(edm(), 3).tolist()]
    [80.0, 2.515, 0.002, 0.0]
    """
    return _even(process, n, lambda ratio: ratio ** (1 / rho), lambda root: root**rho)


def polyexponential(process: Process, n: int, rho: Scalar = 1.0) -> Float[Array, " m"]:
    """n times whose log(sigma/alpha) falls as (1 - i/(n-1))^rho from t_max to t_min, then t_clean.

    rho = 1 is `uniform_lambda`; its ends are limited as there.

    Args:
      process: what noise does.
      n: number of steps.
      rho: above 1 denser towards data, below 1 towards noise.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in polyexponential(edm(), 3, 1.5).tolist()]
    [80.0, 0.085, 0.002, 0.0]
    """
    check_steps(n)
    high, low = (jnp.log(ratio) for ratio in _ratios(process))
    ramp = between(jnp.ones(()), jnp.zeros(()), n) ** rho
    return _at_ratios(process, jnp.exp(ramp * (high - low) + low))


def uniform_ratio(process: Process, n: int) -> Float[Array, " m"]:
    """n times evenly spread in sigma/alpha from t_max to t_min, then t_clean.

    Its ends are limited to 1000 and 0.002 as in `uniform_lambda`.

    Args:
      process: what noise does.
      n: number of steps.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in uniform_ratio(edm(0.5, 10.5), 3).tolist()]
    [10.5, 5.5, 0.5, 0.0]
    """
    return _even(process, n, lambda ratio: ratio, lambda ratio: ratio)


def kl_optimal(process: Process, n: int) -> Float[Array, " m"]:
    """n times evenly spread in arctan(sigma/alpha) from t_max to t_min, then t_clean.

    For data of unit variance this is the spread that minimises the sum over steps of the KL
    divergence of an Euler step.

    Args:
      process: what noise does.
      n: number of steps.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    Sabour et al. 2024, arXiv:2404.14507, theorem 3.1.

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in kl_optimal(edm(), 3).tolist()]
    [80.0, 0.99, 0.002, 0.0]
    """
    return _even(process, n, jnp.arctan, jnp.tan)


def beta(process: Process, n: int, a: Scalar = 0.6, b: Scalar = 0.6) -> Float[Array, " m"]:
    """n times at quantiles of a Beta(a, b) law over the range of sigma/alpha, then t_clean.

    sigma/alpha = min + (max - min) q(1 - i/(n-1)), q the quantile function; dense at both ends.

    Args:
      process: what noise does.
      n: number of steps.
      a, b: > 0; both 1 give `uniform_ratio`.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    Lee et al. 2024, arXiv:2407.12173.

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in beta(edm(), 3).tolist()]
    [80.0, 40.001, 0.002, 0.0]
    """
    check_steps(n)
    high, low = _ratios(process)
    q = _beta_quantile(between(jnp.ones(()), jnp.zeros(()), n), number(a), number(b))
    return _at_ratios(process, low + q * (high - low))


def _beta_quantile(u: Array, a: Array, b: Array) -> Array:
    """x with betainc(a, b, x) = u, by halving the interval to the last bit."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = betainc(a, b, middle) < u
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(u), jnp.ones_like(u)))
    return jnp.where(u <= 0, 0.0, jnp.where(u >= 1, 1.0, 0.5 * (low + high)))


AYS = {
    "stable_diffusion": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "stable_diffusion_xl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113),
    "stable_video": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}
"""sigma/alpha of the ten steps that Align Your Steps found for these models."""

AYS_TIMES = {
    "stable_diffusion": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "stable_diffusion_xl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}
"""The same as published in whole times of Stable Diffusion's table; t_clean = -1 comes after."""


def align_your_steps(
    process: Process, n: int, ratios: Float[Array, " k"] | tuple[float, ...]
) -> Float[Array, " m"]:
    """n times at a table of sigma/alpha, which is interpolated in its logarithm, then t_clean.

    Args:
      process: what noise does.
      n: number of steps; any, not only the length of the table.
      ratios: [k] decreasing sigma/alpha > 0, such as `AYS["stable_diffusion"]`.

    Returns:
      [n + 1] times; the largest ratio is cut at that of t_max.

    Raises:
      ValueError: if n < 1, or ratios are not at least two decreasing positive numbers.

    Sabour et al. 2024, arXiv:2404.14507, appendix D (tables and interpolation).

    >>> from jaxdiff.process import edm
    >>> grid = align_your_steps(edm(), 10, AYS["stable_diffusion"])
    >>> [round(t, 3) for t in grid[:3].tolist()]
    [14.615, 6.475, 3.861]
    """
    check_steps(n)
    table = number(ratios)
    if (
        table.ndim != 1
        or len(table) < 2
        or not (isinstance(table, Tracer) or bool(jnp.all(jnp.diff(table) < 0) & (table[-1] > 0)))
    ):
        raise ValueError(f"ratios={ratios}: at least two decreasing positive numbers are needed")
    places = between(jnp.zeros(()), number(len(table) - 1.0), n)
    logs = jnp.interp(places, jnp.arange(len(table), dtype=float), jnp.log(table))
    return ended(process, jnp.minimum(time_of(process, -2 * logs), process.t_max))


def _even(
    process: Process, n: int, there: Callable[[Array], Array], back: Callable[[Array], Array]
) -> Array:
    """n times whose ratios are evenly spread after `there`, then t_clean."""
    check_steps(n)
    high, low = (there(ratio) for ratio in _ratios(process))
    return _at_ratios(process, back(between(high, low, n)))


def _ratios(process: Process) -> tuple[Array, Array]:
    """The largest and smallest sigma/alpha of a grid."""
    alpha, sigma = scales(process, process.t_max)
    high = jnp.where(alpha * LARGEST_RATIO > sigma, sigma / alpha, LARGEST_RATIO)
    return high, lowest(process)[1]


def _at_ratios(process: Process, ratios: Array) -> Array:
    """Times of the given sigma/alpha, the first put at t_max exactly."""
    ts = time_of(process, -2 * jnp.log(ratios))
    return ended(process, ts.at[0].set(process.t_max))
