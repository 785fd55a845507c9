"""Times to train at and times to sample at.

Training: a DRAW gives every row of the global batch a number u in (0, 1); a LAW turns u into a
time, being the quantile function of its distribution. Sampling: a GRID gives n + 1 decreasing times
from t_max to t_clean; the network is asked at the first n.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import ndtri
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key, Num

from jaxdiff.process.gaussian import Process, scales, time_of
from jaxdiff.trees import keys_for
from jaxdiff.types import Scalar, number

LARGEST_RATIO = 1e3
"""sigma/alpha that a grid which starts at alpha = 0 counts from, as the ratio is infinite there."""

SMALLEST_RATIO = 2e-3
"""sigma/alpha at the last time asked, for processes that may be asked at sigma = 0."""


def independent(key: Key[Array, ""], rows: Int[Array, " b"]) -> Float[Array, " b"]:
    """u_i uniform on (0, 1), each row from its own key: it does not depend on the batch size.

    Args:
      key: one key for the global batch.
      rows: [b] places in it.

    Returns:
      u [b], never 0 nor 1.

    >>> independent(jax.random.key(0), jnp.arange(3)).shape
    (3,)
    """
    bits = jax.vmap(lambda k: jax.random.bits(k, (), jnp.uint32))(keys_for(key, rows))
    return _fraction(bits)


def low_discrepancy(key: Key[Array, ""], rows: Int[Array, " b"]) -> Float[Array, " b"]:
    """u_i = (u + i / golden ratio) mod 1: evenly spread over every run of rows, jointly random.

    One shared u makes each u_i uniform; the golden rotation spreads any number of consecutive
    rows almost evenly, so a row need not know the size of the batch, nor its shard.

    Args:
      key: one key for the global batch.
      rows: [b] places in it.

    Returns:
      u [b], never 0 nor 1.

    Kingma et al. 2021, arXiv:2107.00630, appendix I.1 spreads one batch by i / b in its place.

    >>> u = low_discrepancy(jax.random.key(0), jnp.arange(64))
    >>> bool(jnp.max(jnp.diff(jnp.sort(u))) < 2.7 / 64)
    True
    """
    golden = jnp.uint32(2654435769)  # 2^32 / golden ratio; integers wrap where floats would round
    shared = jax.random.bits(key, (), jnp.uint32)
    return _fraction(shared + rows.astype(jnp.uint32) * golden)


def _fraction(bits: Array) -> Array:
    # 23 bits and a half: each is exact in single precision, so neither end is ever reached
    return (bits >> 9).astype(float) * 2.0**-23 + 2.0**-24


def _uniform(process: Process, u: Array) -> Array:
    return process.t_min + u * (process.t_max - process.t_min)


def _log_normal(mean: Array, std: Array, process: Process, u: Array) -> Array:
    return time_of(process, -2 * (mean + std * ndtri(u)))


def _logit_normal(mean: Array, std: Array, process: Process, u: Array) -> Array:
    return _uniform(process, jax.nn.sigmoid(mean + std * ndtri(u)))


uniform_law = Partial(_uniform)
"""t uniform on [t_min, t_max]."""


def _integers(process: Process, u: Array) -> Array:
    t = process.t_min + u * (process.t_max - process.t_min + 1)
    return jnp.minimum(jnp.floor(t), process.t_max)


integer_law = Partial(_integers)
"""t uniform on the integers t_min ... t_max: what tables of betas are trained at."""


def log_normal(mean: Scalar = -1.2, std: Scalar = 1.2) -> Partial:
    """log(sigma/alpha) ~ N(mean, std^2), clipped to the process.

    Args:
      mean, std: of log(sigma/alpha), in nats.

    Returns:
      a law, (process, u [b]) -> t [b].

    Karras et al. 2022, arXiv:2206.00364, table 1 (P_mean, P_std).

    >>> from jaxdiff.process import edm
    >>> round(float(log_normal(0.0, 1.0)(edm(), jnp.float32(0.5))), 4)
    1.0
    """
    return Partial(_log_normal, number(mean), number(std))


def logit_normal(mean: Scalar = 0.0, std: Scalar = 1.0) -> Partial:
    """logit of the position in [t_min, t_max] ~ N(mean, std^2).

    Args:
      mean, std: of the logit.

    Returns:
      a law, (process, u [b]) -> t [b].

    Esser et al. 2024, arXiv:2403.03206, eq. (19).

    >>> from jaxdiff.process import rectified_flow
    >>> float(logit_normal()(rectified_flow(), jnp.float32(0.5)))
    0.5
    """
    return Partial(_logit_normal, number(mean), number(std))


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
    even = _between(process.t_max, process.t_clean, n + 1)
    inside = _ended(process, _between(process.t_max, process.t_min, n))
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
    return _ended(process, _between(process.t_max, _low(process)[0], n))


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
    return _ended(process, jnp.arange(n - 1, -1, -1) * stride + offset)


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
    check_steps(n)
    high, low = _ratios(process)
    return _at_ratios(process, jnp.exp(_between(jnp.log(high), jnp.log(low), n)))


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
    check_steps(n)
    high, low = _ratios(process)
    return _at_ratios(process, _between(high ** (1 / rho), low ** (1 / rho), n) ** rho)


def _between(high: Array, low: Array, n: int) -> Array:
    """n numbers evenly spread from high to low, both ends exact; high alone for n = 1."""
    i = jnp.arange(n)
    spread = high + i * (low - high) / max(n - 1, 1)  # in this order exact where the result is
    return jnp.where(i < max(n - 1, 1), spread, low)


def _ratios(process: Process) -> tuple[Array, Array]:
    """The largest and smallest sigma/alpha of a grid."""
    alpha, sigma = scales(process, process.t_max)
    high = jnp.where(alpha * LARGEST_RATIO > sigma, sigma / alpha, LARGEST_RATIO)
    return high, _low(process)[1]


def _low(process: Process) -> tuple[Array, Array]:
    """The last time at which to ask, and sigma/alpha there."""
    alpha, sigma = scales(process, process.t_min)
    asked = sigma > SMALLEST_RATIO * alpha * 0.5
    if not isinstance(asked, Tracer) and bool(asked):
        return process.t_min, sigma / alpha
    ratio = jnp.where(asked, sigma / alpha, SMALLEST_RATIO)
    return jnp.where(asked, process.t_min, time_of(process, -2 * jnp.log(ratio))), ratio


def _at_ratios(process: Process, ratios: Array) -> Array:
    """Times of the given sigma/alpha, the first put at t_max exactly."""
    ts = time_of(process, -2 * jnp.log(ratios))
    return _ended(process, ts.at[0].set(process.t_max))


def _ended(process: Process, ts: Array) -> Array:
    return jnp.concatenate([ts.astype(float), process.t_clean.reshape(1)])
