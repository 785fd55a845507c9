"""Measurement noises, of one example: how likely y is given the clean A x, and a draw of it.

    gaussian           y = c + s n                    log N(y; c, s^2)
    poisson            y = low + K / rate             log Poisson(K; rate (c - low))
    poisson_gaussian   y = low + K / rate + s n       log N(y; c, (c - low) / rate + s^2)
    speckle            y = c (1 + s n)                log N(y; c, s^2 c^2)

with c = A x, n standard normal and K a number of counts. What a guide wants of them is the gradient
in c, so each is finite everywhere: below a small floor, where the true log-likelihood ends or has a
pole, it is continued, and says how. y and c may be trees (a stack of measurements).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.trees import fit
from jaxdiff.types import PyTree, number, record

DIM = 1e-2
"""Expected counts below which the log of the Poisson law is continued by its tangent."""


@record
class Noise:
    """A law p(y | clean), of one example: `log_prob(y, clean) -> scalar`, `draw(key, clean) -> y`.

    Its numbers are leaves: a new level does not retrace.
    """

    log_prob: Callable[[PyTree, PyTree], Array]
    draw: Callable[[Array, PyTree], PyTree]


Level = float | Array | PyTree
"""A number, or a tree of numbers like y: one level for each measurement of a stack."""


def gaussian(s: Level) -> Noise:
    """y = clean + s n: log p = -|y - clean|^2/(2 s^2) - log(2 pi s^2)/2 per entry.

    Args:
      s: standard deviation > 0; a number, an array like y, or a tree of them.

    Raises:
      ValueError: if s <= 0.

    >>> f"{gaussian(0.5).log_prob(jnp.ones(1), jnp.ones(1)):.4f}"  # -log(2 pi / 4) / 2
    '-0.2258'
    """
    s = _positive("s", s)
    return _noise((_gaussian, (s,)), (_add_gaussian, (s,)))


def poisson(rate: Level, *, low: float | Array = 0.0) -> Noise:
    """y = low + K/rate with K ~ Poisson(rate (clean - low)): rate counts per unit of light.

    log p = K log(m) - m - log(K!), m = rate (clean - low), the probability of K = rate (y - low).
    Below m = 0.01 log(m) is continued by its tangent: dark pixels that saw counts are pulled up.

    Args:
      rate: counts at clean = low + 1, > 0.
      low: the value of no light: 0, or -1 for images in [-1, 1].

    Raises:
      ValueError: if rate <= 0.

    >>> f"{poisson(2.0).log_prob(jnp.zeros(1), jnp.ones(1)):.4f}"  # no count, two were expected
    '-2.0000'
    """
    numbers = _positive("rate", rate), number(low)
    return _noise((_poisson, numbers), (_counts, numbers))


def poisson_gaussian(rate: Level, s: Level, *, low: float | Array = 0.0) -> Noise:
    """Counts and read-out noise: y = low + K/rate + s n, K ~ Poisson(rate (clean - low)).

    log p is that of the Gaussian of the same mean and variance, (clean - low)/rate + s^2 (s^2 alone
    below low); the draw is exact. With small s it is the Gaussian approximation of Poisson noise.

    Args:
      rate: counts at clean = low + 1, > 0.
      s: standard deviation of the read-out, > 0.
      low: the value of no light.

    Raises:
      ValueError: if rate <= 0 or s <= 0.

    Foi et al. 2008, doi:10.1109/TIP.2008.2001399, section II.
    """
    numbers = _positive("rate", rate), _positive("s", s), number(low)
    return _noise((_mixed, numbers), (_add_mixed, numbers))


def speckle(s: Level, *, floor: float | Array = 1e-3) -> Noise:
    """Multiplicative noise: y = clean (1 + s n), log p = log N(y; clean, s^2 clean^2).

    Args:
      s: relative standard deviation, > 0.
      floor: > 0; nearer to 0 the deviation in log p stays s floor, since a black pixel has none.

    Raises:
      ValueError: if s <= 0 or floor <= 0.

    >>> speckle(0.1).draw(jax.random.key(0), jnp.zeros(2)).tolist()  # black stays black
    [0.0, 0.0]
    """
    s = _positive("s", s)
    numbers = s, _positive("floor", floor)
    return _noise((_speckle, numbers), (_multiply, (s,)))


def _noise(law: tuple[Any, Any], draw: tuple[Any, Any]) -> Noise:
    return Noise(
        Partial(_summed, Partial(law[0]), law[1]), Partial(_drawn, Partial(draw[0]), draw[1])
    )


def _positive(name: str, value: Any) -> Any:
    for leaf in jax.tree.leaves(value):
        # numpy, since inside a trace jnp would make a tracer of a plain number
        if not isinstance(leaf, Tracer) and not np.all(np.asarray(leaf) > 0):
            raise ValueError(
                f"{name}={leaf}: a noise has a density only for {name} > 0; for a measurement "
                "without noise take a method that needs none, or a small number"
            )
    return jax.tree.map(number, value)


def _summed(law: Any, numbers: Any, y: PyTree, clean: PyTree) -> Array:
    """The log-density of one leaf, summed over entries and leaves."""
    shapes = tuple(jax.tree.map(jnp.shape, t) for t in (y, clean))
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"y of shape {shapes[0]} for a clean measurement of shape {shapes[1]}: a noise is of "
            "one example (vmap it over a batch), and y has the shape of A(x)"
        )
    parts = jax.tree.map(law, y, clean, *[fit(value, y) for value in numbers])
    return jnp.sum(jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(parts)]))


def _drawn(law: Any, numbers: Any, key: Array, clean: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(clean)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    keys = jax.tree.unflatten(structure, list(keys))
    return jax.tree.map(law, keys, clean, *[fit(value, clean) for value in numbers])


def _normal(key: Array, like: Array) -> Array:
    return jax.random.normal(key, like.shape, like.dtype)


def _log_normal(gap: Array, var: Array) -> Array:
    return -(gap**2) / (2 * var) - jnp.log(2 * jnp.pi * var) / 2


def _gaussian(y: Array, clean: Array, s: Array) -> Array:
    return _log_normal(y - clean, s**2)


def _add_gaussian(key: Array, clean: Array, s: Array) -> Array:
    return clean + s * _normal(key, clean)


def _poisson(y: Array, clean: Array, rate: Array, low: Array) -> Array:
    counts, mean = rate * (y - low), rate * (clean - low)
    lit = jnp.maximum(mean, DIM)
    log_mean = jnp.log(lit) + (mean - lit) / DIM
    return counts * log_mean - mean - gammaln(counts + 1)


def _counts(key: Array, clean: Array, rate: Array, low: Array) -> Array:
    mean = rate * jnp.maximum(clean - low, 0.0)
    return low + jax.random.poisson(key, mean).astype(clean.dtype) / rate


def _mixed(y: Array, clean: Array, rate: Array, s: Array, low: Array) -> Array:
    return _log_normal(y - clean, jnp.maximum(clean - low, 0.0) / rate + s**2)


def _add_mixed(key: Array, clean: Array, rate: Array, s: Array, low: Array) -> Array:
    first, second = jax.random.split(key)
    return _counts(first, clean, rate, low) + s * _normal(second, clean)


def _speckle(y: Array, clean: Array, s: Array, floor: Array) -> Array:
    return _log_normal(y - clean, (s * jnp.maximum(jnp.abs(clean), floor)) ** 2)


def _multiply(key: Array, clean: Array, s: Array) -> Array:
    return clean * (1 + s * _normal(key, clean))
