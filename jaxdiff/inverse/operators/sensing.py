"""Compressed sensing: fewer numbers than pixels, each of the whole image.

Hadamard: y = S H D P x of each channel, with P a permutation of the n pixels, D signs, H the
orthonormal Walsh-Hadamard matrix (n a power of two, n log n additions) and S a choice of m rows.
Rows of an orthonormal matrix: z = H D P x, values 1 where a row is chosen, else 0.

Gaussian: y = G x with independent entries N(0, 1/m), for sizes whose matrix fits into memory.

Candes & Tao 2006, arXiv:math/0410542; Do et al. 2012, arXiv:1106.5037 (signs and permutations).
"""

import math

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxdiff.inverse.operators.kernel import Operator, Static, Svd, image_shape
from jaxdiff.inverse.operators.linear import matrix
from jaxdiff.inverse.operators.solve import spectral


def walsh_hadamard(x: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """The orthonormal Walsh-Hadamard transform over the first axis, its own inverse.

    Rows in natural order: H_2n = [[H_n, H_n], [H_n, -H_n]] / sqrt 2.

    Raises:
      ValueError: if n is no power of two.

    >>> walsh_hadamard(jnp.eye(2) * 2**0.5).round(4).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    n, c = x.shape
    if n < 1 or n & (n - 1):
        raise ValueError(f"{n} entries: a Walsh-Hadamard transform needs a power of two")
    half = 1
    while half < n:
        pairs = x.reshape(-1, 2, half, c)
        first, second = pairs[:, 0], pairs[:, 1]
        x = jnp.stack([first + second, first - second], axis=1).reshape(n, c)
        half *= 2
    return x / math.sqrt(n)


def _mixed(order: Array, signs: Array, x: Array) -> Array:
    flat = x.reshape(-1, x.shape[-1])
    return walsh_hadamard(signs[:, None] * flat[order])


class _Unmixed(Static):
    """The inverse, which is given the shape of x."""

    def __call__(self, order: Array, signs: Array, z: Array) -> Array:
        flat = signs[:, None] * walsh_hadamard(z)
        return jnp.zeros_like(flat).at[order].set(flat).reshape(self.value)


def _chosen(rows: Array, z: Array) -> Array:
    return z[rows]


class _Put(Static):
    """Measurements as coordinates of n, zeros elsewhere."""

    def __call__(self, rows: Array, y: Array) -> Array:
        return jnp.zeros((self.value, y.shape[1]), y.dtype).at[rows].set(y)


def hadamard(m: int, shape: tuple[int, ...], *, key: Array | None = None) -> Operator:
    """m numbers of each channel, by a Walsh-Hadamard transform: y [m, c].

    Args:
      m: how many, 1 ... h w.
      shape: (h, w, c) of one image, h w a power of two.
      key: draws the rows, and the order and signs of the pixels; without it the first m rows of
        the plain transform are taken.

    Raises:
      ValueError: if h w is no power of two, or m is not in 1 ... h w.

    >>> hadamard(2, (2, 2, 1)).A(jnp.ones((2, 2, 1)))[:, 0].tolist()
    [2.0, 0.0]
    """
    h, w, c = image_shape(shape)
    n = h * w
    if n & (n - 1):
        raise ValueError(f"shape={tuple(shape)}: h w = {n} is no power of two, as `hadamard` needs")
    _check_count(m, n)
    rows, order, signs = jnp.arange(m), jnp.arange(n), jnp.ones(n)
    if key is not None:
        keys = jax.random.split(key, 3)
        rows, order = jax.random.permutation(keys[0], n)[:m], jax.random.permutation(keys[1], n)
        signs = jax.random.rademacher(keys[2], (n,), float)
    ut = Partial(_Put(n), rows)
    vt, v = Partial(_mixed, order, signs), Partial(_Unmixed((h, w, c)), order, signs)
    svd = Svd(ut(jnp.ones((m, c))), vt, v, ut, Partial(_chosen, rows))
    return spectral(svd, (h, w, c), onto=True)


def gaussian_sensing(m: int, shape: tuple[int, ...], *, key: Array) -> Operator:
    """m numbers of the whole image, by a matrix of independent N(0, 1/m): y [m].

    Args:
      m: how many, 1 ... the entries of x.
      shape: that of x.
      key: draws the matrix [m, d]; its singular values are computed, so d is to be some thousand.

    Raises:
      ValueError: if m is not in 1 ... d.
    """
    d = math.prod(shape)
    _check_count(m, d)
    return matrix(jax.random.normal(key, (m, d)) / math.sqrt(m), tuple(shape))


def _check_count(m: int, n: int) -> None:
    if not 1 <= m <= n:
        raise ValueError(f"m={m}: of {n} numbers, 1 to {n} can be measured")
