"""The one denoising loss: draw a time, add noise, ask the network, weigh the squared error.

Given x_t, an error in one prediction is an error in every other, up to a factor: with rows (a, b)
and det = alpha b - sigma a,  delta q = (det_q / det_p) delta p. So a loss is a weight w(t) and the
space in which the error is measured, whatever the network predicts:

    L = E_{t, eps} w(t) (det_q/det_p)^2 ||p_net(x_t, t) - p||^2 / d.

Kingma & Gao 2023, arXiv:2303.00848, section 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff import trees
from jaxdiff.denoise import predict
from jaxdiff.process import (
    Prediction,
    Process,
    Wiring,
    encode,
    low_discrepancy,
    perturb,
    scales,
    uniform_law,
)
from jaxdiff.trees import combine, dots, keys_for, normal
from jaxdiff.types import Batch, PyTree, Scalar

Weight = Callable[[Process, Array], Array]
Metrics = dict[str, Array]


def denoising_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process,
    wiring: Wiring,
    law: Callable[[Process, Array], Array] = uniform_law,
    draw: Callable[[Array, Array], Array] = low_discrepancy,
    space: Prediction | None = None,
    weight: Weight | None = None,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Mean over the batch of w(t) (det_q/det_p)^2 ||p_net - p||^2 / d.

    Row i of the GLOBAL batch draws from fold_in(key, i), so the loss does not depend on how the
    batch is spread over devices or micro-batches.

    Args:
      params: of the network.
      key: one key for the whole batch.
      batch: data x [b, ...], condition, rows.
      apply: `apply(params, x, time, cond) -> p`.
      process: what noise does.
      wiring: what the network predicts and how it is spoken to.
      law: quantile function of the training times, (process, u [b]) -> t [b].
      draw: (key, rows) -> u [b] in (0, 1).
      space: the prediction q in which the error is measured; None is the network's own.
      weight: w(process, t) -> [b]; None is 1.
      null: the empty condition, a tree like batch.cond of scalars or arrays.
      drop: probability with which a row's condition becomes `null`.

    Returns:
      the loss, and a dict of metrics: `loss`, `error` (unweighted, in the network's own space).
    """
    rows = jnp.arange(trees.size(batch.x)) if batch.row is None else batch.row
    for_time, for_noise, for_drop = jax.random.split(key, 3)
    t = law(process, draw(for_time, rows))
    eps = normal(keys_for(for_noise, rows), batch.x)
    cond = dropped(keys_for(for_drop, rows), batch.cond, null, drop)
    x = perturb(process, t, batch.x, eps)
    p, _ = predict(apply, params, process, wiring, x, t, cond)
    target = encode(wiring.prediction, process, t, _centred(batch.x, wiring), eps)
    error = mean_square(combine((1.0, p), (-1.0, target)))
    loss = jnp.mean(_scale(process, wiring.prediction, space, weight, t) * error)
    return loss, {"loss": loss, "error": jnp.mean(error)}


def _scale(process: Process, p: Prediction, space: Any, weight: Any, t: Array) -> Array:
    """w(t) (det_q/det_p)^2; 0 where the error in q is, though the weight be infinite there."""
    scale = jnp.ones_like(t) if weight is None else weight(process, t)
    if space is None:
        return scale
    factor = exchange(p, space, process, t)
    return jnp.where(factor == 0, 0.0, scale * factor**2)


def _centred(x: PyTree, wiring: Wiring) -> PyTree:
    return jax.tree.map(lambda leaf: leaf - wiring.center, x)


def mean_square(x: PyTree) -> Float[Array, " b"]:
    """Mean of the squares of every entry of a sample, [b].

    >>> mean_square(jnp.array([[1.0, 3.0]])).tolist()
    [5.0]
    """
    entries = sum(leaf[0].size for leaf in jax.tree.leaves(x))
    return dots(x, x) / entries


def exchange(p: Prediction, q: Prediction, process: Process, t: Array) -> Array:
    """det_q / det_p: what an error in p is in q.

    Where both vanish (two rows of noise at alpha = 0, two of data at sigma = 0) it is their limit.

    Args:
      p: the row in which the error is.
      q: the row in which it is asked for.
      process: what noise does.
      t: times [b].

    >>> from jaxdiff.process import edm, eps, x0
    >>> float(exchange(x0, eps, edm(), jnp.float32(2.0)))   # eps = (x - x_0) / sigma
    -0.5
    """
    alpha, sigma = scales(process, t)
    (a, b), (c, d) = p(process, t), q(process, t)
    det_p, det_q = alpha * b - sigma * a, alpha * d - sigma * c
    limit = jnp.where(alpha == 0, d, c) / jnp.where(alpha == 0, b, a)
    return jnp.where((det_p == 0) & (det_q == 0), limit, det_q / det_p)


def dropped(keys: Key[Array, " b"], cond: PyTree, null: PyTree, rate: Scalar) -> PyTree:
    """The condition with each row replaced by `null` with probability `rate`.

    Args:
      keys: [b] one key per row.
      cond: a tree with leading axis b, or None.
      null: a tree like cond, of what replaces a row (scalars or arrays without the axis b).
      rate: in [0, 1].

    Returns:
      a tree like cond.

    Raises:
      ValueError: if rate > 0 and there is no condition or no null.
    """
    if isinstance(rate, int | float) and rate == 0:
        return cond
    if cond is None or null is None:
        raise ValueError(f"drop={rate} needs a condition in the batch and null=, the empty one")
    gone = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys) < rate

    def like(c: Array, n: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape)

    return trees.where(gone, jax.tree.map(like, cond, null), cond)
