"""Times to sample at, spread in the process's own time.

A GRID gives n + 1 decreasing times, the last of them t_clean; the network is asked at the first n.
Those spread in noise are in `noise_grids`, those of a table's whole times in `table_grids`.
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


def check_grid(ts: Num[Array, "m *b"] | np.ndarray, process: Process | None = None) -> None:
    """Refuse a grid that does not decrease, or leaves its process; traced grids pass.

    Args:
      ts: [n + 1, ...] times.
      process: if given, the times must lie in its [t_clean, t_max], to rounding.

    Raises:
      ValueError: naming the first pair that does not decrease, the time that lies outside, or
        fewer than two times.

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
    if process is not None:
        _check_inside(times, process)


def _check_inside(times: np.ndarray, process: Process) -> None:
    ends = process.t_clean, process.t_max
    if any(isinstance(end, Tracer) for end in ends):
        return
    low, high = (float(end) for end in ends)
    grain = max(float(jnp.finfo(jnp.result_type(a, float)).eps) for a in (times, process.t_max))
    slack = 8 * grain * max(abs(low), abs(high))
    outside = (times < low - slack) | (times > high + slack)
    if outside.any():
        i = tuple(int(j) for j in np.argwhere(outside)[0])
        raise ValueError(
            f"grid[{', '.join(map(str, i))}]={times[i]} lies outside [t_clean, t_max] = "
            f"[{low:g}, {high:g}] of the process: give times of this process, in its own units"
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


def _stretched(terminal: Array, inner: Grid, process: Process, n: int) -> Array:
    top, clean = process.t_max, process.t_clean
    concrete = not any(isinstance(t, Tracer) for t in (terminal, top, clean))
    if concrete and not clean < terminal < top:
        raise ValueError(
            f"terminal={float(terminal):g}: give a time in ({float(clean):g}, {float(top):g})"
        )
    ts = inner(process, n)
    passed = top - ts[-2]
    moves = passed > 0  # one step alone has nowhere to go
    scale = jnp.where(moves, (top - terminal) / jnp.where(moves, passed, 1.0), 1.0)
    return jnp.where(jnp.arange(n + 1) == n, ts, top - (top - ts) * scale)


def stretched(terminal: Scalar, inner: Grid = linspace) -> Partial:
    """A grid stretched away from t_max so that the last time asked is `terminal`.

    t -> t_max - (t_max - t)(t_max - terminal)/(t_max - t_last); t_clean stays.

    Args:
      terminal: above t_clean, below t_max; LTX-Video takes 0.1. One step is left as it is.
      inner: the grid that is stretched.

    Raises:
      ValueError: when the grid is made, if terminal does not lie between t_clean and t_max.

    >>> from jaxdiff.process import rectified_flow
    >>> stretched(0.5, uniform)(rectified_flow(), 2).tolist()
    [1.0, 0.5, 0.0]
    """
    return Partial(_stretched, number(terminal), Partial(inner))


def _discarded(inner: Grid, process: Process, n: int) -> Array:
    check_steps(n)
    ts = inner(process, n + 1)
    return jnp.concatenate([ts[:-2], ts[-1:]])


def discard_penultimate(inner: Grid = linspace) -> Partial:
    """A grid without its last time asked: of n + 1 steps, the last two are walked as one.

    `discard_penultimate(linspace)` is known as SGM uniform, and after rounding as what diffusers'
    multistep solvers call linspace; `discard_penultimate(leading)` is what they call leading.

    Args:
      inner: the grid of n + 1 steps.

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> discard_penultimate(linspace)(from_betas(linear_betas(1001)), 4).tolist()
    [1000.0, 750.0, 500.0, 250.0, -1.0]
    """
    return Partial(_discarded, Partial(inner))


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
