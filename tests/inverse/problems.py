"""Operators of every kind, and what is needed to look at one."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxdiff import inverse
from jaxdiff.inverse.operators import struct
from tests.problems import vector

SHAPE = (4, 4, 2)


def _mask():
    return (vector(3, 4, 4, 1) > 0).astype(float)


def _frequencies(h, w):
    return vector(13, h, w, 1) > 0


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
    "mask of ones": lambda: inverse.inpainting(jnp.ones((4, 4, 1)), SHAPE),
    "mask of zeros": lambda: inverse.inpainting(jnp.zeros((4, 4, 1)), SHAPE),
    "average_pool by 3": lambda: inverse.average_pool(3, (6, 3, 1)),
    "bicubic": lambda: inverse.bicubic(2, (6, 4, 2)),
    "blur": lambda: inverse.blur(vector(9, 3, 2), (4, 5, 2)),
    "blur that loses frequencies": lambda: inverse.blur(jnp.full((1, 2), 0.5), (4, 4, 1)),
    "blur along a line": lambda: inverse.blur(inverse.motion_kernel(2.0, 30.0, 3), SHAPE),
    "varying_blur": lambda: inverse.varying_blur(
        vector(10, 2, 3, 3), vector(11, 2, 4, 4), (4, 4, 1)
    ),
    "colourisation": lambda: inverse.colourisation((3, 2, 3)),
    "luminance": lambda: inverse.colourisation((3, 2, 3), (-0.2, 0.0, 0.9)),
    "hadamard": lambda: inverse.hadamard(5, SHAPE),
    "hadamard at random": lambda: inverse.hadamard(6, SHAPE, key=jax.random.key(2)),
    "gaussian_sensing": lambda: inverse.gaussian_sensing(7, SHAPE, key=jax.random.key(1)),
    "fourier of real images": lambda: inverse.fourier(_frequencies(4, 6), (4, 6, 1)),
    "fourier of complex images": lambda: inverse.fourier(_frequencies(5, 4), (5, 4, 2)),
    "coils": lambda: inverse.coils(_frequencies(4, 4), vector(12, 2, 4, 4, 2), (4, 4, 2)),
    "radon": lambda: inverse.radon((0.0, 35.0, 90.0), (4, 3, 1)),
    "compose": lambda: inverse.compose(
        inverse.average_pool(2, (4, 4, 2)), inverse.blur(vector(9, 3, 3), SHAPE)
    ),
    "matrix on images": lambda: inverse.matrix(vector(5, 3, 8), (2, 2, 2)),
    "matrix on a tree": lambda: inverse.matrix(vector(5, 3, 8), {"a": (2,), "b": (2, 3)}),
    "matrix wide": lambda: inverse.matrix(vector(5, 3, 6)),
    "matrix tall": lambda: inverse.matrix(vector(6, 6, 3)),
    "matrix of low rank": lambda: inverse.matrix(vector(7, 4, 2) @ vector(8, 2, 5)),
    "stack": lambda: inverse.stack(
        inverse.average_pool(2, SHAPE), inverse.linear(lambda x: x[:1, :, 0], SHAPE)
    ),
}

BY_CG = {
    "varying_blur", "coils", "radon", "compose", "linear", "linear of a partial",
    "linear on a tree", "stack",
}  # fmt: skip


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


def gap(x, y):
    """The largest difference of two like trees."""
    parts = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), x, y)
    return jnp.max(jnp.stack(jax.tree.leaves(parts)))


def dense(operator, scales):
    """Every function of an operator as a matrix, gram_solve at several (r2, s2), in one trace.

    What takes complex coordinates is real-linear: its columns are for 1 and for i.
    """
    x = jax.tree.map(lambda s: jnp.zeros(s.shape), struct(operator.shape))
    y = jax.eval_shape(operator.A, x)
    y = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), y)

    def columns(fn, like):
        flat, unravel = ravel_pytree(like)
        basis = jnp.eye(flat.size, dtype=flat.dtype)
        if jnp.iscomplexobj(flat):
            basis = jnp.concatenate([basis, 1j * basis])
        return jax.vmap(lambda e: ravel_pytree(fn(unravel(e)))[0], out_axes=1)(basis)

    found = {
        "A": columns(operator.A, x),
        "At": columns(operator.At, y),
        "pinv": columns(operator.pinv, y),
    }
    point = example(operator)
    found |= {"x": ravel_pytree(point)[0], "y": ravel_pytree(operator.A(point))[0]}
    # of all y, and of those in the range: without noise there is a solution for these alone
    sides = jnp.concatenate([jnp.eye(len(found["A"])), found["A"]], axis=1)
    unravel = ravel_pytree(y)[1]
    solve = lambda r2, s2, v: ravel_pytree(operator.gram_solve(r2, s2, unravel(v)))[0]  # noqa: E731
    many = jax.vmap(jax.vmap(solve, (None, None, 1), 1), (0, 0, None))
    found["gram"] = many(scales[0], scales[1], sides)
    if operator.svd is not None:
        svd, z = operator.svd, jax.eval_shape(operator.svd.vt, x)
        z = jnp.zeros(z.shape, z.dtype)
        found |= {"values": svd.values, "vt": columns(svd.vt, x), "v": columns(svd.v, z)}
        found |= {"ut": columns(svd.ut, y), "u": columns(svd.u, z)}
    return found
