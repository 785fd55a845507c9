"""Score matching in random directions: one derivative where the trace needs d, or none at all.

For directions with E v v^T = I (independent signs, or normals) the implicit loss is

    E [v . (ds/dx) v + 1/2 (v . s)^2]      (sliced),
    E [v . (ds/dx) v + 1/2 |s|^2]          (sliced, variance reduced),

both without bias. With differences of step h along v in the place of derivatives,

    E [v . (s_+ - s_-)/(2 h) + 1/8 (v . (s_+ + s_-))^2],                     s_+- = s(x +- h v),
    E [(l_+ + l_- - 2 l)/h^2 + 1/8 ((l_+ - l_-)/h)^2],                       l = log p + const,

each is the sliced loss up to O(h^2), and a network is only ever evaluated.

Song et al. 2019, arXiv:1905.07088; Pang et al. 2020, arXiv:2007.03317.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.canonical import scan
from jaxdiff.losses.kernel import Metrics
from jaxdiff.losses.matching import Score, averaged, positive, row_keys
from jaxdiff.trees import combine, dots, fold, normal
from jaxdiff.types import Batch, PyTree, Scalar

Directions = Callable[[Any, PyTree], PyTree]
"""(keys [b], x) -> v like x, with mean 0 and E v v^T = I: `signs`, or `trees.normal`."""


def signs(keys: Key[Array, " b"], x: PyTree) -> PyTree:
    """Independent signs like `x` [b, ...], each sample's from its own key of `keys` [b].

    >>> v = signs(jax.random.split(jax.random.key(0), 4), jnp.zeros((4, 9)))
    >>> v.shape, bool(jnp.all(v**2 == 1))
    ((4, 9), True)
    """
    return jax.tree.map(lambda leaf: jnp.where(leaf < 0, -1.0, 1.0).astype(leaf.dtype),
                        normal(keys, x))  # fmt: skip


def sliced_score_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    score: Score,
    probes: int = 1,
    reduced: bool = True,
    directions: Directions = signs,
) -> tuple[Float[Array, ""], Metrics]:
    """E [v . (ds/dx) v + 1/2 |s|^2], or 1/2 (v . s)^2 for the last term: no trace.

    Args:
      params: of the score.
      key: one key for the whole batch; row i of the global batch draws from fold_in(key, i).
      batch: samples x [b, ...] of p, condition, rows.
      score: `score(params, x, cond) -> s`.
      probes: directions v a sample, at least 1.
      reduced: |s|^2 in the place of (v . s)^2, its mean over v.
      directions: what draws v; Gaussian ones are `trees.normal`.

    Returns:
      the loss, and {"loss"}.

    Raises:
      ValueError: if probes < 1.

    Song et al. 2019, arXiv:1905.07088, section 3 (SSM; SSM-VR where reduced).

    >>> loss, _ = sliced_score_loss(
    ...     {}, jax.random.key(0), Batch(jnp.ones((1, 3))), score=lambda params, x, cond: -x)
    >>> float(loss)   # -3 + 3/2: signs give the trace of a diagonal exactly
    -1.5
    """

    def one(v: PyTree) -> Array:
        s, slope = jax.jvp(lambda y: score(params, y, batch.cond), (batch.x,), (v,))
        return dots(v, slope) + (dots(s, s) if reduced else dots(v, s) ** 2) / 2

    return _over_probes(one, key, batch, probes, directions)


def finite_difference_score_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    score: Score,
    step: Scalar,
    probes: int = 1,
    directions: Directions = signs,
) -> tuple[Float[Array, ""], Metrics]:
    """E [v . (s_+ - s_-)/(2 h) + 1/8 (v . (s_+ + s_-))^2] with s_+- = s(x +- h v).

    Args:
      params: of the score.
      key: one key for the whole batch; row i of the global batch draws from fold_in(key, i).
      batch: samples x [b, ...] of p, condition, rows.
      score: `score(params, x, cond) -> s`.
      step: h > 0; x moves by |h v| = h sqrt(d), which Pang et al. set to 0.1.
      probes: directions v a sample, at least 1.
      directions: what draws v.

    Returns:
      the loss, and {"loss"}.

    Raises:
      ValueError: if step <= 0 or probes < 1.

    Pang et al. 2020, arXiv:2007.03317 (FD-SSM of a score network).

    >>> loss, _ = finite_difference_score_loss(
    ...     {}, jax.random.key(0), Batch(jnp.ones((1, 1))), step=0.5,
    ...     score=lambda params, x, cond: -x)
    >>> float(loss)
    -0.5
    """
    positive("step", step)

    def one(v: PyTree) -> Array:
        up, down = (
            dots(v, score(params, combine((1.0, batch.x), (h, v)), batch.cond))
            for h in (step, -step)
        )
        return (up - down) / (2 * step) + (up + down) ** 2 / 8

    return _over_probes(one, key, batch, probes, directions)


def finite_difference_energy_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    log_density: Callable[..., Any],
    step: Scalar,
    probes: int = 1,
    directions: Directions = signs,
) -> tuple[Float[Array, ""], Metrics]:
    """E [(l_+ + l_- - 2 l)/h^2 + 1/8 ((l_+ - l_-)/h)^2] with l_+- = l(x +- h v): no derivative.

    Args:
      params: of the log-density.
      key: one key for the whole batch; row i of the global batch draws from fold_in(key, i).
      batch: samples x [b, ...] of p, condition, rows.
      log_density: `log_density(params, x, cond) -> l [b]`, up to a constant: minus the energy.
      step: h > 0. Rounding is amplified by 1/h^2: about 1e-2 in single precision.
      probes: directions v a sample, at least 1.
      directions: what draws v.

    Returns:
      the loss, and {"loss"}.

    Raises:
      ValueError: if step <= 0 or probes < 1.

    Pang et al. 2020, arXiv:2007.03317 (FD-SSM).

    >>> loss, _ = finite_difference_energy_loss(
    ...     {}, jax.random.key(0), Batch(jnp.ones((1, 1))), step=0.5,
    ...     log_density=lambda params, x, cond: -jnp.sum(x**2, axis=1) / 2)
    >>> float(loss)
    -0.5
    """
    positive("step", step)
    middle = log_density(params, batch.x, batch.cond)

    def one(v: PyTree) -> Array:
        up, down = (
            log_density(params, combine((1.0, batch.x), (h, v)), batch.cond) - middle
            for h in (step, -step)
        )
        return (up + down) / step**2 + ((up - down) / step) ** 2 / 8

    return _over_probes(one, key, batch, probes, directions)


def _over_probes(
    one: Callable[[PyTree], Array], key: Array, batch: Batch, probes: int, directions: Directions
) -> tuple[Array, Metrics]:
    """The mean of `one` [b] over directions and batch."""
    if probes < 1:
        raise ValueError(f"probes={probes}: at least one direction a sample")
    keys = row_keys(key, batch)

    def body(_: tuple[()], j: Array) -> tuple[tuple[()], Array]:
        return (), one(directions(fold(keys, j), batch.x))

    _, values = scan(body, (), jnp.arange(probes))
    return averaged(jnp.mean(values, axis=0))
