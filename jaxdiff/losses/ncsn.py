"""NCSN: denoising score matching summed over geometric noise levels sigma_1 > ... > sigma_L.

    L = 1/L sum_i lambda(sigma_i) 1/2 E |s(x + sigma_i eps, sigma_i) + eps/sigma_i|^2 / d,

with lambda(sigma) = sigma^2, so that all levels weigh about the same. It is `denoising_loss` in the
space of the score, its times a uniform choice of the levels.

Song & Ermon 2019, arXiv:1907.05600, eq. (5)-(6).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from jaxdiff import process as pr
from jaxdiff.losses.kernel import Metrics, denoising_loss
from jaxdiff.process import Process, Wiring, log_snr, time_of
from jaxdiff.types import Batch, PyTree, Scalar, number


def geometric_levels(n: int = 10, largest: float = 1.0, smallest: float = 0.01) -> np.ndarray:
    """n noise levels in geometric progression, decreasing.

    Args:
      n: how many, at least 2.
      largest, smallest: the ends, largest > smallest > 0; NCSN's for images in [0, 1] by default.

    Returns:
      [n] float64.

    Raises:
      ValueError: if n < 2, or the ends are not in order.

    Song & Ermon 2019, arXiv:1907.05600, section 5; 2020, arXiv:2006.09011, for choosing them.

    >>> [round(float(s), 4) for s in geometric_levels(3)]
    [1.0, 0.1, 0.01]
    """
    if n < 2:
        raise ValueError(f"n={n}: at least two levels")
    if not largest > smallest > 0:
        raise ValueError(f"largest={largest}, smallest={smallest}: need largest > smallest > 0")
    return np.geomspace(largest, smallest, n)


def level_law(sigmas: np.ndarray | Float[Array, " n"] | list[float]) -> Partial:
    """Times at which sigma/alpha is one of the levels, each as likely: a law for `denoising_loss`.

    Args:
      sigmas: [n] decreasing positive levels of sigma/alpha.

    Returns:
      a law, (process, u [b]) -> t [b]. It raises ValueError for levels that the process (if it is
        concrete) does not reach.

    Raises:
      ValueError: if the levels are no vector, not positive, or do not decrease.

    >>> law = level_law([4.0, 2.0, 1.0])
    >>> [round(float(t), 4) for t in law(pr.edm(), jnp.array([0.1, 0.4, 0.5, 0.9]))]
    [4.0, 2.0, 2.0, 1.0]
    """
    if np.ndim(sigmas) != 1 or np.size(sigmas) == 0:
        raise ValueError(f"sigmas of shape {np.shape(sigmas)}: a vector of levels is needed")
    if not isinstance(sigmas, Tracer):
        _check_levels(np.asarray(sigmas))
    return Partial(_level, number(sigmas))


def _check_levels(sigmas: np.ndarray) -> None:
    bad = ~(np.diff(sigmas, append=0.0) < 0)  # the last has to be above 0
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"sigmas[{i}]={sigmas[i]}, then {[*sigmas, 0.0][i + 1]}: levels are positive and "
            "decrease, from most noise to least"
        )


def _level(sigmas: Array, process: Process, u: Array) -> Array:
    ends = [log_snr(process, t) for t in (process.t_max, process.t_min)]
    if not any(isinstance(a, Tracer) for a in (sigmas, *ends)):
        _check_reach(np.asarray(sigmas), *(float(np.exp(-end / 2)) for end in ends))
    index = jnp.minimum((u * len(sigmas)).astype(int), len(sigmas) - 1)
    return time_of(process, -2 * jnp.log(sigmas))[index]


def _check_reach(sigmas: np.ndarray, largest: float, smallest: float) -> None:
    if sigmas[0] > largest * 1.0001 or sigmas[-1] < smallest * 0.9999:
        raise ValueError(
            f"sigmas from {sigmas[0]} to {sigmas[-1]}: this process has sigma/alpha from "
            f"{largest:g} to {smallest:g}; take a wider process or fewer levels"
        )


def _half_sigma2(process: Process, t: Array) -> Array:
    return process.sigma(t) ** 2 / 2


def ncsn_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    sigmas: np.ndarray | Float[Array, " n"] | list[float] | None = None,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """NCSN: E_i sigma_i^2/2 ||score_net + eps/sigma_i||^2 / d over noise levels sigma_i.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: `edm` by default, x + sigma eps with sigma from 0.002 to 80.
      wiring: predicts the score and reads log(sigma)/4 by default.
      sigmas: [n] decreasing; `geometric_levels()` by default.

    Song & Ermon 2019, arXiv:1907.05600, eq. (5)-(6).
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.edm(),
        wiring=wiring or pr.wiring(pr.score, clock=pr.edm_clock),
        law=level_law(geometric_levels() if sigmas is None else sigmas),
        space=pr.score,
        weight=Partial(_half_sigma2),
        null=null,
        drop=drop,
    )
