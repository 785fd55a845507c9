"""Times to train at: a DRAW gives every row of the global batch a number u in (0, 1), a LAW turns u
into a time, being the quantile function of its distribution.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key

from jaxdiff.process.gaussian import Process, time_of
from jaxdiff.trees import keys_for
from jaxdiff.types import Scalar, number


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
