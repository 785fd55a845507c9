"""Statistics of a model, from samples: what DPM-Solver-v3 adapts its steps to.

With r = sigma/alpha, l = -log(r) as the time, and primes along the probability flow dx/dl,

    lin   = E[diag(sigma d eps/dx)],   by v * (d eps/dx) v with random signs v,
    f     = r eps - lin x/alpha,       f' = r ((lin - 1) eps + eps') - lin' x/alpha,
    slope = cov(f, f')/var(f),         bias = E f' - slope E f,

each at a table of levels, over samples x = alpha x_0 + sigma z. lin' is taken from the table.

Zheng et al. 2023, arXiv:2310.13268, eq. (8), (13), appendix D; Hutchinson's estimate of a diagonal:
Bekas et al. 2007, Applied Numerical Mathematics 57.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.process import check_grid, log_snr, perturb, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, STAGE, PyTree, number, record


@record
class Statistics:
    """Tables of lin, slope and bias at the increasing `level` = log(alpha/sigma) [m].

    Each is [m], or a tree like one sample with leaves [m, ...]. Between the levels they are
    linear, outside constant.
    """

    level: Array
    lin: PyTree
    slope: PyTree
    bias: PyTree

    def at(self, table: PyTree, level: Array) -> PyTree:
        """The values of one table at levels [q]: [q], or leaves [q, ...]."""
        last = self.level.shape[0] - 2
        low = jnp.clip(jnp.searchsorted(self.level, level) - 1, 0, last)
        left, right = self.level[low], self.level[low + 1]
        share = jnp.clip((level - left) / (right - left), 0.0, 1.0)

        def one(leaf: Array) -> Array:
            weight = share.reshape(share.shape + (1,) * (leaf.ndim - 1))
            return leaf[low] * (1 - weight) + leaf[low + 1] * weight

        return jax.tree.map(one, table)


def model_statistics(
    keys: Any, denoise: Denoiser, x0: PyTree, times: Float[Array, " m"], *, pooled: bool = False
) -> Statistics:
    """lin, slope and bias of a model at the given times, from clean samples.

    Three passes through the denoiser and as many derivatives along a direction, per time.

    Args:
      keys: [b], one per sample.
      denoise: the model, with the condition and the guidance that it will be sampled with.
      x0: samples of the data [b, ...], or a tree of them; the authors take 1024 and more.
      times: [m] decreasing, with alpha > 0 and sigma > 0; the authors take 120 to 1000.
      pooled: one number per leaf in the place of one per entry; for few samples.

    Returns:
      Statistics, the levels increasing.

    Raises:
      ValueError: if the times do not decrease, or one has alpha = 0 or sigma = 0.

    Zheng et al. 2023, arXiv:2310.13268, eq. (8), (13).

    >>> from jaxdiff import exact, trees
    >>> from jaxdiff.process import edm
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), edm())
    >>> keys = trees.keys_for(jax.random.key(0), jnp.arange(4))
    >>> found = model_statistics(keys, d, normal(keys, jnp.zeros((4, 1))), jnp.array([2.0, 1.0]))
    >>> [round(float(a), 4) for a in found.lin[:, 0]]   # sigma^2/(1 + sigma^2)
    [0.8, 0.5]
    """
    _check_times(denoise, times)
    times, count = number(times), jnp.arange(times.shape[0])
    level = log_snr(denoise.process, times) / 2
    mean = _pooled_mean if pooled else _mean

    def first(_: tuple[()], row: tuple[Array, Array]) -> tuple[tuple[()], PyTree]:
        i, t = row
        return (), jax.tree.map(mean, _sensitivity(fold(keys, i), denoise, x0, t))

    _, lin = scan(first, (), (count, times))
    change = jax.tree.map(lambda table: _gradient(table, level), lin)

    def second(_: tuple[()], row: Any) -> tuple[tuple[()], PyTree]:
        i, t, lin, change = row
        x, eps, ahead = _along(fold(keys, i), denoise, x0, t)
        fitted = functools.partial(_regress, mean, *scales(denoise.process, t))
        return (), jax.tree.map(fitted, x, eps, ahead, lin, change)

    _, fitted = scan(second, (), (count, times, lin, change))
    slope, bias = jax.tree.transpose(jax.tree.structure(x0), None, fitted)
    return Statistics(level, lin, slope, bias)


def _check_times(denoise: Denoiser, times: Array) -> None:
    check_grid(times)
    alpha, sigma = scales(denoise.process, times)
    inside = jnp.all((alpha > 0) & (sigma > 0))
    if not isinstance(inside, Tracer) and not bool(inside):
        raise ValueError(
            f"times from {float(times[0]):g} to {float(times[-1]):g}: the statistics need "
            "alpha > 0 and sigma > 0 at all of them; leave out the pure noise and the clean data"
        )


def _mean(leaf: Array) -> Array:
    return jnp.mean(leaf, axis=0)


def _pooled_mean(leaf: Array) -> Array:
    return jnp.mean(leaf)


def _noisy(keys: Any, denoise: Denoiser, x0: PyTree, t: Array) -> tuple[PyTree, Callable[..., Any]]:
    """x_t, and eps as a function of (x, t)."""
    x = perturb(denoise.process, t, x0, normal(fold(keys, SOLVER), x0))
    return x, lambda x, t: noise_of(denoise, x, t, denoise(x, t).x0)


def _sensitivity(keys: Any, denoise: Denoiser, x0: PyTree, t: Array) -> PyTree:
    """sigma v * (d eps/dx) v for random signs v."""
    x, eps = _noisy(keys, denoise, x0, t)
    signs = jax.tree.map(lambda z: jnp.where(z < 0, -1.0, 1.0).astype(z.dtype), _probe(keys, x0))
    _, moved = jax.jvp(lambda x: eps(x, t), (x,), (signs,))
    _, sigma = scales(denoise.process, t)
    return jax.tree.map(lambda v, m: sigma * v * m, signs, moved)


def _probe(keys: Any, x0: PyTree) -> PyTree:
    return normal(fold(keys, STAGE), x0)


def _along(keys: Any, denoise: Denoiser, x0: PyTree, t: Array) -> tuple[PyTree, PyTree, PyTree]:
    """x, eps and d eps/dl along the flow dx/dl = (alpha'/alpha) x - sigma eps."""
    process = denoise.process
    x, eps = _noisy(keys, denoise, x0, t)
    _, rate = jax.jvp(lambda t: log_snr(process, t) / 2, (t,), (jnp.ones_like(t),))
    dt = 1 / rate
    alpha, change = jax.jvp(process.alpha, (t,), (dt,))
    here = eps(x, t)
    dx = combine((change / alpha, x), (-process.sigma(t), here))
    _, ahead = jax.jvp(eps, (x, t), (dx, dt))
    return x, here, ahead


def _gradient(table: Array, level: Array) -> Array:
    """d table/d level: parabolas through three neighbours, straight at the ends."""
    steps = jnp.diff(level).reshape((-1,) + (1,) * (table.ndim - 1))
    slopes = jnp.diff(table, axis=0) / steps
    if table.shape[0] == 2:
        return jnp.concatenate([slopes, slopes])
    inner = (slopes[:-1] * steps[1:] + slopes[1:] * steps[:-1]) / (steps[1:] + steps[:-1])
    return jnp.concatenate([slopes[:1], inner, slopes[-1:]])


def _regress(
    mean: Callable[[Array], Array],
    alpha: Array,
    sigma: Array,
    x: Array,
    eps: Array,
    ahead: Array,
    lin: Array,
    change: Array,
) -> tuple[Array, Array]:
    """(slope, bias) of f' on f, of one leaf."""
    lin, change = (a[None] if a.ndim else a for a in (lin, change))
    f = (sigma * eps - lin * x) / alpha
    prime = (sigma * ((lin - 1) * eps + ahead) - change * x) / alpha
    middle, middle_prime = mean(f), mean(prime)
    off = f - (middle[None] if middle.ndim else middle)
    var, cov = mean(off**2), mean(off * prime)
    # f is what is left of x/alpha: where that is rounding, it has no slope
    least = (100 * jnp.finfo(f.dtype).eps) ** 2 * mean((x / alpha) ** 2)
    slope = jnp.where(var > least, cov / jnp.where(var > least, var, 1.0), 0.0)
    return slope, middle_prime - slope * middle
