"""Times to sample at on a table of N betas: whole numbers in 0 ... N - 1, then t_clean = -1.

Each is a grid as in `grids`: n + 1 decreasing times.
"""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxdiff.process.gaussian import Process
from jaxdiff.process.grids import between, check_grid, check_steps, ended
from jaxdiff.types import Scalar


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


def simple(process: Process, n: int) -> Float[Array, " m"]:
    """Tables: times N - 1 - floor(i N/n), then t_clean: ComfyUI's "simple".

    `trailing` rounds where this cuts off; where n divides N they are the same.

    Args:
      process: a table, whose times are 0 ... N - 1.
      n: number of steps, at most N.

    Returns:
      [n + 1] times, the first of them t_max.

    Raises:
      ValueError: if n < 1 or n > N.

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> simple(from_betas(linear_betas()), 3).tolist()
    [999.0, 666.0, 333.0, -1.0]
    """
    count = _table_size("simple", process, n)
    passed = jnp.floor(jnp.arange(n) * count / n)
    return ended(process, count - 1 - passed)


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


def sections(process: Process, counts: tuple[int, ...]) -> Float[Array, " m"]:
    """Tables: the table in len(counts) parts of like length, counts[i] even times in part i.

    The part next to data comes first. Known as "respacing": the times of "10,15,20" are those of
    (10, 15, 20), which spends more of its steps at the noisy end.

    Args:
      process: a table, whose times are 0 ... N - 1.
      counts: steps in each part, at least 1 and at most its length.

    Returns:
      [sum(counts) + 1] times; the first is t_max if the last count is above 1.

    Raises:
      ValueError: if there are no counts, or one is not in 1 ... the length of its part.

    Nichol & Dhariwal 2021, arXiv:2102.09672, section 4 (sub-sequences of evenly spaced times).

    >>> from jaxdiff.process import from_betas, linear_betas
    >>> sections(from_betas(linear_betas()), (2, 3)).tolist()
    [999.0, 750.0, 500.0, 499.0, 0.0, -1.0]
    """
    size, extra = divmod(_concrete_size(process), max(len(counts), 1))
    lengths = np.array([size + (i < extra) for i in range(len(counts))], int)
    if not counts or any(not 1 <= c <= length for c, length in zip(counts, lengths, strict=True)):
        raise ValueError(
            f"sections: counts={counts} on parts of {lengths.tolist()} times: give 1 to that many "
            "steps in each part"
        )
    starts = np.cumsum(lengths) - lengths
    parts = [
        start + np.round(np.linspace(0, length - 1, c) if c > 1 else np.zeros(1))
        for start, length, c in zip(starts, lengths, counts, strict=True)
    ]
    return ended(process, jnp.asarray(np.concatenate(parts)[::-1].copy()))


def _concrete_size(process: Process) -> int:
    if isinstance(process.t_max, Tracer):
        raise ValueError("sections: make the grid outside of jit, and give it as an argument")
    return int(_table_size("sections", process, 1))


def _table_size(name: str, process: Process, n: int) -> Array:
    check_steps(n)
    count = process.t_max + 1
    if not isinstance(count, Tracer) and n > count:
        raise ValueError(
            f"{name}={n} on times 0 ... {float(process.t_max):g}: a table gives at most one step "
            "an entry; take fewer steps, or a grid of a continuous process"
        )
    return count
