"""How far one set of samples is from another: distances of sets of feature vectors.

Each is given features [n, d] (of pixels, of a classifier) and knows nothing of images. The
Frechet and sliced distances are biased upwards at small n: compare equal n only. The kernel
distance is unbiased, and so may be negative.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


class Moments(NamedTuple):
    """The mean [d] and the covariance [d, d] of a set of features."""

    mean: Float[Array, " d"]
    cov: Float[Array, "d d"]


def moments(features: Float[Array, "n d"]) -> Moments:
    """The mean and the unbiased covariance of a set of features.

    mu = mean_i f_i,  C = sum_i (f_i - mu)(f_i - mu)^T / (n - 1).

    Args:
        features: one row for each sample, [n, d], n >= 2.

    Returns:
        The `Moments`.

    Raises:
        ValueError: fewer than two samples.

    Example:
        >>> moments(jnp.asarray([[0.0], [2.0]])).cov.tolist()
        [[2.0]]
    """
    _check_count("features", features)
    mean = jnp.mean(features, axis=0)
    centred = features - mean[None]
    cov = jnp.matmul(centred.T, centred, precision="highest") / (features.shape[0] - 1)
    return Moments(mean, cov)


def frechet(a: Moments, b: Moments) -> Float[Array, ""]:
    """The squared Frechet distance of two Gaussians with these moments.

    d^2 = ||mu_a - mu_b||^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2).

    The last trace is the nuclear norm of S_a^T S_b for any S S^T = C (Dowson and Landau's polar
    form): singular values of a product of roots keep the precision that the square root of a
    product of covariances loses, and no root of a matrix that is not symmetric is needed.

    Args:
        a, b: moments of the two sets, of one dimension d. A singular covariance is fine.

    Returns:
        A scalar, >= 0 up to rounding, in squared units of the features.

    Raises:
        ValueError: the dimensions differ.

    Example:
        >>> one = Moments(jnp.zeros(2), jnp.eye(2))
        >>> float(frechet(one, Moments(jnp.asarray([3.0, 0.0]), 4 * jnp.eye(2)))).__round__(4)
        11.0

    Reference:
        Heusel et al. 2017, arXiv:1706.08500, equation 6; Dowson and Landau 1982.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {a.mean.shape[0]} and {b.mean.shape[0]} features; give one")
    product = jnp.matmul(_root(a.cov).T, _root(b.cov), precision="highest")
    cross = jnp.sum(jnp.linalg.svd(product, compute_uv=False))
    return jnp.sum((a.mean - b.mean) ** 2) + jnp.trace(a.cov) + jnp.trace(b.cov) - 2 * cross


def kernel_distance(
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    *,
    degree: int = 3,
    offset: float = 1.0,
    scale: float | None = None,
) -> Float[Array, ""]:
    """The unbiased squared maximum mean discrepancy under a polynomial kernel (KID).

    k(x, y) = (scale x.y + offset)^degree, scale = 1/d;
    MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j).

    Args:
        a, b: features of the two sets, [n, d] and [m, d], at least two of each. The kernel
            matrices are held whole: 10,000 by 10,000 take 400 MB.
        degree: the power of the kernel.
        offset: what is added to the inner product.
        scale: the factor of the inner product; None: 1/d.

    Returns:
        A scalar; zero on average for equal distributions, hence sometimes negative.

    Raises:
        ValueError: fewer than two samples in a set.

    Example:
        >>> a = jnp.asarray([[0.0], [2.0]])
        >>> float(kernel_distance(a, a, degree=1, offset=0.0))
        -2.0

    Reference:
        Binkowski, Sutherland, Arbel, Gretton 2018, arXiv:1801.01401, section 4.
    """
    _check_count("a", a)
    _check_count("b", b)
    scale = 1 / a.shape[1] if scale is None else scale

    def kernel(x: Array, y: Array) -> Array:
        return (scale * jnp.matmul(x, y.T, precision="highest") + offset) ** degree

    def within(x: Array) -> Array:
        k, n = kernel(x, x), x.shape[0]
        return (jnp.sum(k) - jnp.trace(k)) / (n * (n - 1))

    return within(a) + within(b) - 2 * jnp.mean(kernel(a, b))


def sliced_wasserstein(
    key: Key[Array, ""],
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    *,
    directions: int = 256,
) -> Float[Array, ""]:
    """The sliced 2-Wasserstein distance of two sets of points.

    SW_2 = sqrt(mean_u W_2^2(u.a, u.b)), u uniform on the sphere; each W_2 in one dimension is
    exact, from the quantile functions of both sets, whatever their sizes.

    Args:
        key: one key, for the directions.
        a, b: the sets, [n, d] and [m, d].
        directions: how many u are drawn.

    Returns:
        A scalar >= 0, in the units of the points.

    Raises:
        ValueError: no direction.

    Example:
        >>> a = jnp.asarray([[0.0], [1.0]])
        >>> float(sliced_wasserstein(jax.random.key(0), a, a + 3, directions=4))
        3.0

    Reference:
        Bonneel, Rabin, Peyre, Pfister 2015, Sliced and Radon Wasserstein barycenters.
    """
    if directions < 1:
        raise ValueError(f"directions: {directions}; give 1 or more")
    u = jax.random.normal(key, (a.shape[1], directions), a.dtype)
    u = u / jnp.linalg.norm(u, axis=0, keepdims=True)
    sorted_a, sorted_b = (jnp.sort(jnp.matmul(x, u, precision="highest"), axis=0) for x in (a, b))
    of_a, of_b, mass = _couple(a.shape[0], b.shape[0])
    squared = (sorted_a[of_a] - sorted_b[of_b]) ** 2
    return jnp.sqrt(jnp.sum(jnp.asarray(mass, a.dtype)[:, None] * squared) / directions)


def _couple(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The monotone coupling of n and m equal masses: which meets which, and the mass that moves."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    mass = np.diff(ends, prepend=0) / (n * m)
    return (ends - 1) // m, (ends - 1) // n, mass


def _root(cov: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """S with S S^T = cov; eigenvalues that rounding made negative are zero."""
    values, vectors = jnp.linalg.eigh(cov)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[None]


def _check_count(name: str, features: Array) -> None:
    if features.shape[0] < 2:
        raise ValueError(f"{name}: {features.shape[0]} sample(s); a spread needs 2 or more")
