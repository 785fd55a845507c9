"""Operators of every kind, and the table of every guide of the folder."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff import inverse
from tests.problems import vector

SHAPE = (4, 4, 2)


def _mask():
    return (vector(3, 4, 4, 1) > 0).astype(float)


def _blur(kernel, x):
    return jnp.stack([kernel[0] * x[i] + kernel[1] * x[i - 1] for i in range(x.shape[0])])


def _differences(weight, x):
    return {"d": x["a"][1:] - weight * x["a"][:-1], "s": x["b"].sum(axis=0)}


OPERATORS = {
    "inpainting": lambda: inverse.inpainting(_mask(), SHAPE),
    "inpainting by channel": lambda: inverse.inpainting(vector(4, *SHAPE) > 0, SHAPE),
    "average_pool": lambda: inverse.average_pool(2, SHAPE),
    "linear": lambda: inverse.linear(lambda x: 2 * x[::2] - x[1::2], SHAPE),
    "linear of a partial": lambda: inverse.linear(
        Partial(_blur, jnp.array([0.7, 0.4])), (3, 2), steps=12
    ),
    "linear on a tree": lambda: inverse.linear(
        Partial(_differences, jnp.array(0.5)), {"a": (5,), "b": (2, 3)}
    ),
    "matrix wide": lambda: inverse.matrix(vector(5, 3, 6)),
    "matrix tall": lambda: inverse.matrix(vector(6, 6, 3)),
    "matrix of low rank": lambda: inverse.matrix(vector(7, 4, 2) @ vector(8, 2, 5)),
    "stack": lambda: inverse.stack(
        inverse.average_pool(2, SHAPE), inverse.linear(lambda x: x[:1, :, 0], SHAPE)
    ),
}


def example(operator, seed=0):
    """A random x of the shape that the operator says."""
    leaves, structure = jax.tree.flatten(
        operator.shape, is_leaf=lambda n: isinstance(n, tuple) and all(map(_is_int, n))
    )
    return jax.tree.unflatten(
        structure, [vector(seed + i, *shape) for i, shape in enumerate(leaves)]
    )


def _is_int(n):
    return isinstance(n, int)


def measured(operator, seed=0):
    return operator.A(example(operator, seed))


def inner(x, y):
    parts = jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)
    return sum(jax.tree.leaves(parts))


def gap(x, y):
    """The largest difference of two like trees."""
    parts = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), x, y)
    return jnp.max(jnp.stack(jax.tree.leaves(parts)))
