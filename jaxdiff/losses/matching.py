"""Score matching: fit s(x) to grad log p(x), whose values nobody has.

With samples of p alone the explicit error is known up to a constant, by partial integration or by
adding noise whose score is known:

    1/2 E |s - grad log p|^2 = E [tr(ds/dx) + 1/2 |s|^2] + 1/2 E |grad log p|^2     (implicit)
    1/2 E |s - grad log p_sigma|^2 = 1/2 E |s(x + sigma eps) + eps/sigma|^2 + const  (denoising)

so the minima are -1/2 E |grad log p|^2 and 1/2 E tr Var[x | x + sigma eps] / sigma^4. Squares are
SUMS over the entries of a sample, as in the papers. The `score` is (params, x, cond) -> s like x,
where row i depends on row i alone. `sliced` holds the forms for many dimensions.

Hyvarinen 2005, JMLR 6; Vincent 2011, doi:10.1162/NECO_a_00142.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from jaxdiff import denoise, trees
from jaxdiff.canonical import scan
from jaxdiff.losses.kernel import Metrics
from jaxdiff.process import Process, Wiring
from jaxdiff.trees import combine, dots, keys_for, normal
from jaxdiff.types import Batch, PyTree, Scalar

Score = Callable[[PyTree, PyTree, PyTree], PyTree]


def explicit_score_loss(
    params: PyTree, key: Key[Array, ""], batch: Batch, *, score: Score, truth: Callable[..., Any]
) -> tuple[Float[Array, ""], Metrics]:
    """1/2 E |s(x) - grad log p(x)|^2, for tests: it needs the true score.

    Args:
      params: of the score.
      key: not used.
      batch: samples x [b, ...] of p, and the condition.
      score: `score(params, x, cond) -> s`.
      truth: `truth(x, cond) -> grad log p`, like x.

    Returns:
      the loss, and {"loss"}.

    Hyvarinen 2005, JMLR 6, eq. (2).

    >>> loss, _ = explicit_score_loss(
    ...     {}, jax.random.key(0), Batch(jnp.ones((1, 3))),
    ...     score=lambda params, x, cond: -2 * x, truth=lambda x, cond: -x)
    >>> float(loss)
    1.5
    """
    error = combine((1.0, score(params, batch.x, batch.cond)), (-1.0, truth(batch.x, batch.cond)))
    return averaged(dots(error, error) / 2)


def implicit_score_loss(
    params: PyTree, key: Key[Array, ""], batch: Batch, *, score: Score
) -> tuple[Float[Array, ""], Metrics]:
    """E [tr(ds/dx) + 1/2 |s|^2], the trace exact: d directional derivatives.

    Args:
      params: of the score.
      key: not used.
      batch: samples x [b, ...] of p, and the condition.
      score: `score(params, x, cond) -> s`.

    Returns:
      the loss, and {"loss"}.

    Hyvarinen 2005, JMLR 6, theorem 1.

    >>> loss, _ = implicit_score_loss(
    ...     {}, jax.random.key(0), Batch(jnp.ones((1, 3))), score=lambda params, x, cond: -x)
    >>> float(loss)   # -3 + 3/2
    -1.5
    """

    def field(x: PyTree) -> PyTree:
        return score(params, x, batch.cond)

    s = field(batch.x)
    return averaged(_divergence(field, batch.x) + dots(s, s) / 2)


def denoising_score_loss(
    params: PyTree, key: Key[Array, ""], batch: Batch, *, score: Score, sigma: Scalar
) -> tuple[Float[Array, ""], Metrics]:
    """1/2 E |s(x + sigma eps) + eps/sigma|^2: the score of p blurred by sigma.

    Args:
      params: of the score.
      key: one key for the whole batch; row i of the global batch draws from fold_in(key, i).
      batch: samples x [b, ...] of p, condition, rows.
      score: `score(params, x, cond) -> s`.
      sigma: deviation of the noise, > 0.

    Returns:
      the loss, and {"loss"}.

    Raises:
      ValueError: if sigma <= 0.

    Vincent 2011, doi:10.1162/NECO_a_00142, eq. (9)-(11).

    >>> loss, _ = denoising_score_loss(
    ...     {}, jax.random.key(0), Batch(jnp.zeros((4, 3))), sigma=0.5,
    ...     score=lambda params, x, cond: -x / 0.25)   # data that are one point
    >>> float(loss)
    0.0
    """
    positive("sigma", sigma)
    eps = normal(row_keys(key, batch), batch.x)
    s = score(params, combine((1.0, batch.x), (sigma, eps)), batch.cond)
    error = combine((1.0, s), (1 / sigma, eps))
    return averaged(dots(error, error) / 2)


def network_score(apply: Callable[..., Any], process: Process, wiring: Wiring) -> Partial:
    """A diffusion network as the score of noisy data: (params, x_t, {"t", "cond"}) -> grad log p_t.

    With it the losses here judge or train a network at noisy samples: `Batch(x_t, {"t": t [b],
    "cond": cond})`.

    Args:
      apply: `apply(params, x, time, cond) -> p`.
      process: what noise does.
      wiring: what the network predicts and how it is spoken to.

    Returns:
      a score.

    >>> from jaxdiff import process as pr
    >>> s = network_score(lambda params, x, time, cond: 0 * x, pr.edm(), pr.wiring(pr.x0))
    >>> s({}, jnp.ones((1, 2)), {"t": jnp.array([2.0]), "cond": None}).tolist()   # -x / sigma^2
    [[-0.25, -0.25]]
    """
    return Partial(_network_score, Partial(apply), process, wiring)


def _network_score(apply: Any, process: Any, wiring: Any, params: Any, x: Any, at: Any) -> PyTree:
    model = denoise.model(apply, params, process, wiring, span=None)
    return denoise.score(denoise.bind(model, at["cond"]), x, at["t"])


def averaged(values: Float[Array, " b"]) -> tuple[Float[Array, ""], Metrics]:
    """The mean over the batch, and itself as the metric `loss`."""
    loss = jnp.mean(values)
    return loss, {"loss": loss}


def row_keys(key: Key[Array, ""], batch: Batch) -> Key[Array, " b"]:
    """One key for each row, by its place in the global batch."""
    rows = jnp.arange(trees.size(batch.x)) if batch.row is None else batch.row
    return keys_for(key, rows)


def positive(name: str, value: Scalar) -> None:
    """Refuse a number that is not above 0; traced ones pass."""
    if not isinstance(value, Tracer) and not float(value) > 0:
        raise ValueError(f"{name}={value}: a positive number is needed")


def _divergence(field: Callable[[PyTree], PyTree], x: PyTree) -> Float[Array, " b"]:
    """sum_j d field_j / d x_j of every sample, one column of the Jacobian at a time."""
    flat, back = _flatten(x)

    def column(total: Array, j: Array) -> tuple[Array, None]:
        along = jnp.zeros_like(flat).at[:, j].set(1.0)
        _, slope = jax.jvp(lambda y: _flatten(field(back(y)))[0], (flat,), (along,))
        return total + slope[:, j], None

    start = jnp.zeros(flat.shape[:1], flat.dtype)
    return scan(column, start, jnp.arange(flat.shape[1]))[0]


def _flatten(x: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """A tree of samples as [b, d], and the way back."""
    leaves, structure = jax.tree.flatten(x)
    rows = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves]
    ends = np.cumsum([row.shape[1] for row in rows])[:-1]

    def back(flat: Array) -> PyTree:
        parts = jnp.split(flat, ends, axis=1)
        return structure.unflatten(
            [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        )

    return jnp.concatenate(rows, axis=1), back
