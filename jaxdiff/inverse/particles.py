"""Particles: groups of rows that are weighted, and resampled among themselves.

Rows [b g] are b groups of g particles, row = group * g + particle; groups know nothing of one
another. With log-weights l_j and w_j = exp(l_j) / sum_k exp(l_k) of a group,

    ess = 1 / sum_j w_j^2,

and a group whose ess is below a share of g is resampled: ancestors are the particles in whose
share of the cumulated weights the points (j + u)/g fall, with one u for the group (systematic
resampling). At the last step every group is resampled, so that what comes out is not weighted.
Walk a plain `grid`: a jump back in time (`travel`) voids a sampler's state, weights included.

Kitagawa 1996, doi:10.1080/10618600.1996.10474692.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from jaxdiff.trees import Tape, fold, size
from jaxdiff.types import GUIDE, Now, PyTree


def effective_size(logw: Float[Array, "b g"]) -> Float[Array, " b"]:
    """The effective number of particles of each group, 1 / sum_j w_j^2, in [1, g].

    Args:
      logw: log-weights [b, g], up to a constant for each group.

    >>> effective_size(jnp.log(jnp.array([[1.0, 1.0], [1.0, 1e-9]]))).round(3).tolist()
    [2.0, 1.0]
    """
    return jnp.exp(2 * logsumexp(logw, axis=1) - logsumexp(2 * logw, axis=1))


def systematic(u: Float[Array, " b"], logw: Float[Array, "b g"]) -> Int[Array, "b g"]:
    """Ancestors by systematic resampling: particle j is chosen g w_j times, but for rounding.

    Args:
      u: one number in [0, 1) for each group, [b].
      logw: log-weights [b, g], up to a constant for each group.

    Returns:
      the numbers of the ancestors within the group, [b, g], not decreasing.

    >>> systematic(jnp.array([0.5]), jnp.log(jnp.array([[0.5, 0.0, 0.5, 0.0]]))).tolist()
    [[0, 0, 2, 2]]
    """
    g = logw.shape[1]
    total = jnp.cumsum(jax.nn.softmax(logw, axis=1), axis=1)
    total = total / total[:, -1:]  # so that the last is 1, whatever was rounded
    points = (jnp.arange(g)[None] + u[:, None]) / g
    found = jax.vmap(lambda c, p: jnp.searchsorted(c, p, side="right"))(total, points)
    return jnp.minimum(found, g - 1)


def resample(
    now: Now,
    logw: Float[Array, " n"],
    rows: PyTree,
    *,
    particles: int,
    below: Any,
    draw: int = 0,
) -> tuple[Float[Array, " n"], PyTree]:
    """Resample the groups whose effective size is below a share of their particles.

    Args:
      now: the step; a group draws from the key of its first row.
      logw: log-weights [b g].
      rows: what is resampled, leaves [b g, ...].
      particles: g, static.
      below: share of g under which a group is resampled; above 1 always, 0 never.
      draw: number of this draw in the step.

    Returns:
      the log-weights, normalised in each group, and the rows.

    Raises:
      TypeError: if the noise comes from a tape.
    """
    logw = logw.reshape(-1, particles)
    logw = logw - logsumexp(logw, axis=1, keepdims=True)
    asked = (effective_size(logw) < below * particles)[:, None]
    keys = fold(_keys(now.key), draw)[::particles]
    chosen = systematic(jax.vmap(lambda k: jax.random.uniform(k, (), logw.dtype))(keys), logw)
    own = jnp.arange(particles)[None]
    first = particles * jnp.arange(logw.shape[0])[:, None]
    at = (first + jnp.where(asked, chosen, own)).reshape(-1)
    logw = jnp.where(asked, -jnp.log(float(particles)), logw)
    return logw.reshape(-1), jax.tree.map(lambda leaf: leaf[at], rows)


def at_the_end(now: Now) -> Array:
    """A share for `resample`: 2, always, in the last step of the grid, and 0, never, before."""
    return jnp.where(now.i >= now.n - 1, 2.0, 0.0)


def _keys(keys: Any) -> Array:
    folded = fold(keys, GUIDE) if not isinstance(keys, Tape) else keys
    if not isinstance(folded, jax.Array):
        raise TypeError("particles draw uniform numbers, which a tape does not hold: give keys")
    return folded


def check_particles(particles: int, threshold: Any = 0.5) -> None:
    """Refuse groups of fewer than two particles, and a threshold outside [0, 1].

    Raises:
      ValueError: naming the argument.
    """
    if particles < 2:
        raise ValueError(f"particles={particles}: a group needs at least 2, to be resampled")
    if not isinstance(threshold, Tracer) and not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: give a share of the particles, in [0, 1]")


def groups_of(x: PyTree, particles: int) -> int:
    """The number b of groups in rows [b g, ...].

    Raises:
      ValueError: if the rows do not make whole groups.
    """
    rows = size(x)
    if rows % particles:
        raise ValueError(
            f"{rows} rows do not make groups of particles={particles}: start from "
            f"{particles} rows for each group, e.g. shape=({particles} * b, ...)"
        )
    return rows // particles


def for_each(y: PyTree, x: PyTree, particles: int) -> PyTree:
    """Measurements of groups, leaves [b, ...], as measurements of their rows [b g, ...].

    Raises:
      ValueError: if there is not one measurement for each group.
    """
    groups = groups_of(x, particles)
    found = [jnp.shape(leaf) for leaf in jax.tree.leaves(y)]
    if any(shape[:1] != (groups,) for shape in found):
        raise ValueError(
            f"y has shapes {found} for {groups} groups of {particles} particles: give one "
            f"measurement for each group, [{groups}, ...]"
        )
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, particles, axis=0), y)


def start(x: PyTree, particles: int) -> Array:
    """Equal log-weights, [b g]."""
    rows = groups_of(x, particles) * particles
    return jnp.zeros(rows, jax.tree.leaves(x)[0].dtype)
