"""What multistep solvers remember: the last values of something, where they were, and how many."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.types import PyTree


class Past(NamedTuple):
    """Values before this step, newest first, their places [b], and how many there are [b]."""

    values: tuple[PyTree, ...]
    places: tuple[Array, ...]
    known: Array


def empty(x: PyTree, length: int) -> Past:
    """Room for `length` values like x, none of them known.

    >>> empty(jnp.zeros((2, 3)), 1).known.tolist()
    [0, 0]
    """
    b, zero = trees.size(x), jax.tree.map(jnp.zeros_like, x)
    return Past((zero,) * length, (jnp.zeros(b),) * length, jnp.zeros(b, int))


def remember(past: Past, value: PyTree, place: Array) -> Past:
    """The past with one value more; the oldest is forgotten.

    >>> remember(empty(jnp.zeros((1, 3)), 2), jnp.ones((1, 3)), jnp.ones(1)).places[0].tolist()
    [1.0]
    """
    length = len(past.values)
    known = jnp.minimum(past.known + 1, length)
    return Past((value, *past.values)[:length], (place, *past.places)[:length], known)
