"""LGD-MC: the loss averaged over what x_0 may still become.

p(y | x_t) = E[p(y | x_0) | x_t] is a mean over the posterior, not its value at the mean. With
p(x_0 | x_t) about N(x_0(x_t), r^2 I) and p(y | x_0) = exp(-loss(x_0)),

    log p(y | x_t) ~ log 1/K sum_k exp(-loss(x_0(x_t) + r n_k)),    n_k standard normal,

and its gradient at x_0 is a pull. For a Gaussian posterior and K large it is exact.

Song et al. 2023, Loss-guided diffusion models for plug-and-play controllable generation, ICML.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance.energy import Loss, spread
from jaxdiff.guidance.kernel import as_partial
from jaxdiff.trees import combine, fold, normal, size
from jaxdiff.types import GUIDE, At, Estimate, Pull, PyTree


def unit_spread(at: At) -> Array:
    """r = sigma / sqrt(alpha^2 + sigma^2): the posterior deviation if the data were N(0, I)."""
    return at.sigma / jnp.sqrt(at.alpha**2 + at.sigma**2)


def drawn(now: Any, x: PyTree, samples: int) -> PyTree:
    """Standard normal noise like x, `samples` times a sample: leaves [b, samples, ...]."""
    keys = fold(now.key, GUIDE)
    return jax.vmap(lambda k: normal(fold(keys, k), x), out_axes=1)(jnp.arange(samples))


def _log_mean(loss: Any, x0: PyTree, r: Array, noise: PyTree, each: tuple[PyTree, ...]) -> Array:
    """log 1/K sum_k exp(-loss(x_0 + r n_k)) of one example; noise [K, ...]."""

    def one(n: PyTree) -> Array:
        return -loss(combine((1.0, x0), (r, n)), *each)

    logs = jax.vmap(one)(noise)
    return logsumexp(logs) - jnp.log(logs.shape[0])


def uphill(loss: Any, x0: PyTree, r: Any, noise: PyTree, each: tuple[PyTree, ...]) -> PyTree:
    """grad_{x_0} log 1/K sum_k exp(-loss(x_0 + r n_k)) over a batch."""
    b = size(x0)
    slope = jax.vmap(jax.grad(_log_mean, argnums=1), in_axes=(None, 0, 0, 0, 0))
    return slope(loss, x0, jnp.broadcast_to(r, (b,)), noise, spread(each, b))


class _Smoothed:
    """The pull of LGD-MC with a static number of samples; equal by it."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Smoothed) and self.samples == other.samples

    def __hash__(self) -> int:
        return hash((_Smoothed, self.samples))

    def __call__(self, loss: Any, scale: Any, r: Any, each: Any, est: Estimate, at: At) -> PyTree:
        noise = drawn(at.now, est.x0, self.samples)
        slope = uphill(loss, est.x0, value_at(r, at), noise, each)
        return combine((value_at(scale, at), slope))


def check_samples(samples: int) -> None:
    """Refuse a number of samples below 1."""
    if samples < 1:
        raise ValueError(f"samples={samples}: a mean needs at least one")


def smoothed(
    loss: Loss,
    samples: int,
    scale: Number = 1.0,
    *,
    r: Number | Callable[[At], Array] = unit_spread,
    each: Sequence[PyTree] = (),
) -> Pull:
    """LGD-MC: the pull scale grad log 1/K sum_k exp(-loss(x_0 + r n_k)); K losses, ONE pass.

    Args:
      loss: of ONE example, (x_0, *each) -> scalar: -log p(y | x_0), its temperature included.
      samples: K >= 1, static.
      scale: a number, [b], or At -> scalar.
      r: the deviation of x_0 given x_t, a number, [b], or At -> scalar.
      each: what else the loss takes, trees of leaves [b, ...], or [1, ...] to serve every sample.

    Raises:
      ValueError: if samples < 1.
      GridOnly: outside a loop over steps, where there are no keys.

    Song et al. 2023, Loss-guided diffusion models, ICML, the section on Monte Carlo estimates.
    """
    check_samples(samples)
    return Partial(_Smoothed(samples), as_partial(loss), numeric(scale), numeric(r), tuple(each))
