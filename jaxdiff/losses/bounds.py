"""Losses that train the variational bound: one step of the chain a sample, without bias.

    L_vlb = L_T + E_i [L_i / p_i],            i ~ p, uniform or of a `resampler`,
    L_hybrid = L_simple + lambda L_vlb,       x_0 constant in L_vlb: it trains the variance alone.

Bounds are in bits per dimension. The network answers 2c channels, the prediction and then v.

Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15)-(16) and section 3.3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff import process as pr
from jaxdiff import trees
from jaxdiff.denoise import halves, predict
from jaxdiff.losses import vlb
from jaxdiff.losses.decoder import check_levels
from jaxdiff.losses.kernel import Metrics, dropped, exchange, mean_square
from jaxdiff.losses.resampling import Resampler, drawn
from jaxdiff.process import Process, Wiring, decode, encode, low_discrepancy, perturb
from jaxdiff.trees import combine, keys_for, normal
from jaxdiff.types import Batch, PyTree, Scalar, number

Draw = Callable[[Array, Array], Array]


class _Asked(NamedTuple):
    """One network call: the step of each sample, its weight, and what the network said there."""

    index: Array
    weight: Array
    link: vlb.Links
    eps: PyTree
    both: PyTree
    centred: PyTree


def _asked(
    key: Array, batch: Batch, ask: Callable[..., Any], process: Process, ts: Array,
    steps: Resampler | None, draw: Draw, null: PyTree, drop: Scalar,
) -> _Asked:  # fmt: skip
    rows = jnp.arange(trees.size(batch.x)) if batch.row is None else batch.row
    for_time, for_noise, for_drop = jax.random.split(key, 3)
    index, weight = _drawn(steps, draw(for_time, rows), len(ts) - 1)
    link = jax.tree.map(lambda a: a[index], vlb.links(process, ts))
    eps = normal(keys_for(for_noise, rows), batch.x)
    cond = dropped(keys_for(for_drop, rows), batch.cond, null, drop)
    both, centred = ask(perturb(process, link.t, batch.x, eps), link.t, cond)
    return _Asked(index, weight, link, eps, both, centred)


def _drawn(steps: Resampler | None, u: Array, n: int) -> tuple[Array, Array]:
    if steps is None:
        return jnp.minimum((u * n).astype(jnp.int32), n - 1), jnp.ones_like(u)
    if len(steps.count) != n:
        raise ValueError(f"resampler of {len(steps.count)} steps for a chain of {n}: make it anew")
    return drawn(steps, u)


def _terms(
    asked: _Asked, x: PyTree, x0: PyTree, v: PyTree, n: int, levels: int | None
) -> Float[Array, " b"]:
    """The term of each sample's own step, in bits per dimension."""
    step = vlb.step_nats(asked.link, x, x0, v)
    last = vlb.last_nats(asked.link, x, x0, v, levels)
    return jnp.where(asked.index == n - 1, last, step) / (vlb.entries(x) * np.log(2.0))


def _chain(process: Process, ts: Any, x: PyTree, levels: int | None) -> Array:
    times: Any = pr.uniform(process, 1000) if ts is None else ts
    vlb.check_chain(process, times)
    if levels is not None:
        check_levels(x, levels)
    return number(times)


def _prior(process: Process, ts: Array, x: PyTree) -> Array:
    return jnp.mean(vlb.prior_nats(process, ts[0], x)) / (vlb.entries(x) * np.log(2.0))


def _with_steps(metrics: Metrics, steps: Resampler | None, asked: _Asked, term: Array) -> Metrics:
    if steps is None:
        return metrics
    return metrics | {"index": asked.index, "term": jax.lax.stop_gradient(term)}


def vlb_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    ts: Array | np.ndarray | None = None,
    v: Scalar | None = None,
    levels: int | None = 256,
    resampler: Resampler | None = None,
    draw: Draw = low_discrepancy,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """The variational bound in bits per dimension, one step of the chain a sample.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: the linear table of 1000 betas by default.
      wiring: predicts eps and reads t by default; of the first half of the channels, if v is None.
      ts: [n + 1] decreasing times, the last t_clean; 1000 even steps by default.
      v: None: the network answers 2c channels, its prediction and v. A number: it answers c, and
        the variance is fixed, -1 the small one, 1 the large one.
      levels: of the data between -1 and 1, 256 for bytes; None for real numbers.
      resampler: draws the steps; None draws them uniformly.
      draw: (key, rows) -> u [b] in (0, 1).

    Returns:
      the loss, and {"loss"}; with a resampler also `index` [b] and `term` [b], for `observed`:
      these are no means, so take them out before metrics are averaged.

    Raises:
      ValueError: for data off the levels, times that are no chain, a resampler of another length,
        or an answer without 2c channels.

    Ho et al. 2020, arXiv:2006.11239, eq. (5); Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15).

    >>> net = lambda params, x, time, cond: jnp.zeros((*x.shape[:-1], 6))
    >>> loss, _ = vlb_loss({}, jax.random.key(0), Batch(jnp.ones((2, 4, 4, 3))), apply=net)
    >>> loss.shape
    ()
    """
    process = process or pr.from_betas(pr.linear_betas())
    wiring = wiring or pr.wiring(pr.eps)
    times = _chain(process, ts, batch.x, levels)

    def ask(x: PyTree, t: Array, cond: PyTree) -> tuple[PyTree, PyTree]:
        return predict(apply, params, process, wiring, x, t, cond)

    asked = _asked(key, batch, ask, process, times, resampler, draw, null, drop)
    p, v = halves(asked.both, batch.x) if v is None else (asked.both, v)
    x0 = _clean(process, wiring, asked, p)
    term = _terms(asked, batch.x, x0, v, len(times) - 1, levels)
    loss = _prior(process, times, batch.x) + (len(times) - 1) * jnp.mean(asked.weight * term)
    return loss, _with_steps({"loss": loss}, resampler, asked, term)


def _clean(process: Process, wiring: Wiring, asked: _Asked, p: PyTree) -> PyTree:
    x0, _ = decode(wiring.prediction, process, asked.link.t, asked.centred, p)
    return jax.tree.map(lambda leaf: leaf + wiring.center, x0)


def hybrid_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    ts: Array | np.ndarray | None = None,
    lam: Scalar = 0.001,
    levels: int | None = 256,
    resampler: Resampler | None = None,
    draw: Draw = low_discrepancy,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Improved DDPM: L_simple + lambda L_vlb, where L_vlb trains the variance alone.

    L_simple = E ||eps - eps_net||^2 / d as in `ddpm_loss`; in L_vlb, bits per dimension summed over
    the steps, x_0 is held constant.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`; `apply` answers 2c channels.
      process, wiring, ts, levels, resampler, draw: see `vlb_loss`.
      lam: lambda.

    Returns:
      the loss, and {"loss", "simple", "bits"}: bits is the whole bound per dimension. With a
      resampler also `index` and `term`, see `vlb_loss`.

    Raises:
      ValueError: as `vlb_loss`.

    Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (16).
    """
    process = process or pr.from_betas(pr.linear_betas())
    wiring = wiring or pr.wiring(pr.eps)
    times = _chain(process, ts, batch.x, levels)

    def ask(x: PyTree, t: Array, cond: PyTree) -> tuple[PyTree, PyTree]:
        return predict(apply, params, process, wiring, x, t, cond)

    asked = _asked(key, batch, ask, process, times, resampler, draw, null, drop)
    p, v = halves(asked.both, batch.x)
    x0 = jax.lax.stop_gradient(_clean(process, wiring, asked, p))
    term = _terms(asked, batch.x, x0, v, len(times) - 1, levels)
    simple = jnp.mean(asked.weight * _simple(process, wiring, asked, batch.x, p))
    bits = (len(times) - 1) * jnp.mean(asked.weight * term)
    loss = simple + number(lam) * bits
    metrics = {"loss": loss, "simple": simple, "bits": bits + _prior(process, times, batch.x)}
    return loss, _with_steps(metrics, resampler, asked, term)


def _simple(process: Process, wiring: Wiring, asked: _Asked, x: PyTree, p: PyTree) -> Array:
    """||eps - eps_net||^2 / d of every sample, whatever the network predicts."""
    centred = jax.tree.map(lambda leaf: leaf - wiring.center, x)
    target = encode(wiring.prediction, process, asked.link.t, centred, asked.eps)
    factor = exchange(wiring.prediction, pr.eps, process, asked.link.t)
    return factor**2 * mean_square(combine((1.0, p), (-1.0, target)))
