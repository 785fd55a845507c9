"""Times to sample at, spread in the process's own time.

A GRID gives n + 1 decreasing times, the last of them t_clean; the network is asked at the first n.
Those spread in noise are in `noise_grids`.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, Num

from jaxdiff.process.gaussian import Process, scales, time_of
from jaxdiff.types import Scalar, number

SMALLEST_RATIO = 2e-3
"""sigma/alpha at the last time asked, for processes that may be asked at sigma = 0."""


Grid = Callable[[Process, int], Array]
"""(process, number of steps n) -> [n + 1] decreasing times."""


def check_steps(n: int) -> None:
    """Raise ValueError unless n >= 1."""
    if n < 1:
        raise ValueError(f"steps={n}: a grid needs at least one step")


def check_grid(ts: Num[Array, "m *b"] | np.ndarray) -> None:
    """Refuse a grid that does not decrease; traced grids pass.

    Raises:
      ValueError: naming the first pair that does not decrease, or fewer than two times.

    >>> check_grid(jnp.array([1.0, 0.5, 0.0]))
    """
    if ts.shape[0] < 2:
        raise ValueError(f"a grid of {ts.shape[0]} times: steps >= 1 need at least two times")
    if isinstance(ts, Tracer):
        return
    times = np.asarray(ts)
    bad = ~(np.diff(times, axis=0) < 0).reshape(len(times) - 1, -1).all(axis=1)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"grid[{i}]={times[i]}, grid[{i + 1}]={times[i + 1]}: times must decrease from noise "
            "to data; sort them and drop repeats"
        )


def uniform(process: Process, n: int) -> Float[Array, " m"]:
    """n + 1 times evenly spread from t_max to t_clean; for tables this is 'trailing'.

    Where the last of the n times asked would lie below t_min, the n are spread to t_min.

    Args:
      process: what noise does.
      n: number of steps.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    Lin et al. 2023, arXiv:2305.08891, table 2 (trailing).

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> uniform(from_betas(linear_betas()), 4).tolist()
    [999.0, 749.0, 499.0, 249.0, -1.0]
    """
    check_steps(n)
    even = between(process.t_max, process.t_clean, n + 1)
    inside = ended(process, between(process.t_max, process.t_min, n))
    return jnp.where(even[-2] < process.t_min, inside, even)


def linspace(process: Process, n: int) -> Float[Array, " m"]:
    """n times evenly spread from t_max to t_min, then t_clean.

    Where sigma(t_min) is about 0, the last time asked is that of sigma/alpha = 0.002.

    Args:
      process: what noise does.
      n: number of steps.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1.

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> linspace(from_betas(linear_betas()), 4).tolist()
    [999.0, 666.0, 333.0, 0.0, -1.0]
    """
    check_steps(n)
    return ended(process, between(process.t_max, lowest(process)[0], n))


def leading(process: Process, n: int, offset: int = 0) -> Float[Array, " m"]:
    """Tables: times (n-1-i) floor(N/n) + offset, then t_clean.

    Args:
      process: a table, whose times are 0 ... N - 1.
      n: number of steps, at most N.
      offset: 0, or 1 as in Stable Diffusion's.

    Returns:
      [n + 1] times; the first is not t_max.

    Raises:
      ValueError: if n < 1, or the times would not lie in 0 ... N - 1.

    Song et al. 2020, arXiv:2010.02502, appendix D.2 (linear selection).

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> leading(from_betas(linear_betas()), 4).tolist()
    [750.0, 500.0, 250.0, 0.0, -1.0]
    """
    check_steps(n)
    stride = jnp.floor((process.t_max + 1) / n)
    first = (n - 1) * stride + offset
    if not isinstance(first, Tracer) and not (
        stride >= 1 and offset >= 0 and first <= process.t_max
    ):
        raise ValueError(
            f"leading: steps={n}, offset={offset} on times 0 ... {float(process.t_max):g}: take "
            "fewer steps or a smaller offset, on a table of betas"
        )
    return ended(process, jnp.arange(n - 1, -1, -1) * stride + offset)


def trailing(process: Process, n: int) -> Float[Array, " m"]:
    """Tables: times round(N - i N/n) - 1, then t_clean; `uniform` on whole times.

    Args:
      process: a table, whose times are 0 ... N - 1.
      n: number of steps, at most N.

    Returns:
      [n + 1] times, the first of them t_max. Halves are rounded to the even number.

    Raises:
      ValueError: if n < 1 or n > N.

    Lin et al. 2023, arXiv:2305.08891, table 2.

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> trailing(from_betas(linear_betas()), 3).tolist()
    [999.0, 666.0, 332.0, -1.0]
    """
    count = _table_size("trailing", process, n)
    return ended(process, jnp.round(count - jnp.arange(n) * (count / n)) - 1)


def quadratic(process: Process, n: int, reach: Scalar = 0.8) -> Float[Array, " m"]:
    """Tables: times floor((i/(n-1))^2 reach N) for i = n - 1 ... 0, then t_clean.

    Args:
      process: a table, whose times are 0 ... N - 1.
      n: number of steps; so few that no time repeats.
      reach: the part of the table that is used, in (0, 1].

    Returns:
      [n + 1] times; the first is not t_max.

    Raises:
      ValueError: if n < 1, or two times would be the same.

    Song et al. 2020, arXiv:2010.02502, appendix D.2 (quadratic selection).

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> quadratic(from_betas(linear_betas()), 4).tolist()
    [800.0, 355.0, 88.0, 0.0, -1.0]
    """
    count = _table_size("quadratic", process, n)
    root = between(jnp.sqrt(reach * count), jnp.zeros(()), n)
    # the largest is a square of a root: without this it may fall just short of a whole number
    ts = ended(process, jnp.floor(root**2 * (1 + 4 * jnp.finfo(root.dtype).eps)))
    check_grid(ts)
    return ts


def lcm_times(process: Process, n: int, original: int = 50) -> Float[Array, " m"]:
    """Tables: n of the `original` times that a consistency model was distilled at, then t_clean.

    The distillation saw t_j = j floor(N/original) - 1; of them, from the largest down, those with
    number floor(i original/n) are taken.

    Args:
      process: a table, whose times are 0 ... N - 1.
      n: number of steps, at most `original`.
      original: number of steps of the solver in distillation.

    Returns:
      [n + 1] times.

    Raises:
      ValueError: if n < 1, n > original, or original > N.

    Luo et al. 2023, arXiv:2310.04378, section 4.3 (skipping step).

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> lcm_times(from_betas(linear_betas()), 4).tolist()
    [999.0, 759.0, 499.0, 259.0, -1.0]
    """
    check_steps(n)
    count = _table_size("lcm_times: original", process, original)
    if n > original:
        raise ValueError(f"lcm_times: steps={n}, original={original}: take at most {original}")
    passed = jnp.arange(n) * original // n
    return ended(process, (original - passed) * jnp.floor(count / original) - 1)


def _table_size(name: str, process: Process, n: int) -> Array:
    check_steps(n)
    count = process.t_max + 1
    if not isinstance(count, Tracer) and n > count:
        raise ValueError(
            f"{name}={n} on times 0 ... {float(process.t_max):g}: a table gives at most one step "
            "an entry; take fewer steps, or a grid of a continuous process"
        )
    return count


def shift(ts: Num[Array, "*m"], s: Scalar) -> Num[Array, "*m"]:
    """Times of a flow on [0, 1], moved towards noise: s t / (1 + (s - 1) t).

    It multiplies sigma/alpha by s, as suits images with s^2 times as many pixels.

    Args:
      ts: times of a rectified flow, in [0, 1].
      s: > 0; 1 changes nothing. Stable Diffusion 3 takes 3, FLUX exp(`flux_mu(tokens)`).

    Returns:
      like ts; 0 and 1 stay.

    Esser et al. 2024, arXiv:2403.03206, eq. (23).

    >>> shift(jnp.array([1.0, 0.5, 0.0]), 3.0).tolist()
    [1.0, 0.75, 0.0]
    """
    return s * ts / (1 + (s - 1) * ts)


def _shifted(s: Array, inner: Grid, process: Process, n: int) -> Array:
    return shift(inner(process, n), s)


def shifted(s: Scalar, inner: Grid = linspace) -> Partial:
    """A grid whose times are shifted: (process, n) -> shift(inner(process, n), s).

    Args:
      s: see `shift`.
      inner: the grid that is shifted, of a process with times in [0, 1] and t_clean = 0.

    >>> from jaxdiff.process import rectified_flow
    >>> shifted(3.0, uniform)(rectified_flow(), 2).tolist()
    [1.0, 0.75, 0.0]
    """
    return Partial(_shifted, number(s), Partial(inner))


def flux_mu(tokens: int, *, base: float = 0.5, largest: float = 1.15) -> float:
    """log of the shift for an image of so many tokens: linear, base at 256, largest at 4096.

    Args:
      tokens: of the image (for 16 x 16 pixels a token: height/16 * width/16).
      base: mu at 256 tokens.
      largest: mu at 4096 tokens.

    Returns:
      mu; the shift is exp(mu).

    >>> flux_mu(256), flux_mu(4096)
    (0.5, 1.15)
    """
    return base + (largest - base) * (tokens - 256) / (4096 - 256)


def between(high: Array, low: Array, n: int) -> Array:
    """n numbers evenly spread from high to low, both ends exact; high alone for n = 1."""
    i = jnp.arange(n)
    spread = high + i * (low - high) / max(n - 1, 1)  # in this order exact where the result is
    return jnp.where(i < max(n - 1, 1), spread, low)


def lowest(process: Process) -> tuple[Array, Array]:
    """The last time at which to ask, and sigma/alpha there."""
    alpha, sigma = scales(process, process.t_min)
    asked = sigma > SMALLEST_RATIO * alpha * 0.5
    if not isinstance(asked, Tracer) and bool(asked):
        return process.t_min, sigma / alpha
    ratio = jnp.where(asked, sigma / alpha, SMALLEST_RATIO)
    return jnp.where(asked, process.t_min, time_of(process, -2 * jnp.log(ratio))), ratio


def ended(process: Process, ts: Array) -> Array:
    """The times, and t_clean after them."""
    return jnp.concatenate([ts.astype(float), process.t_clean.reshape(1)])
