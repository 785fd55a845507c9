"""Distributions whose denoisers are known in closed form: the truth that everything is tested on.

For p(x_0) = sum_k w_k N(m_k, C_k) and x_t = alpha x_0 + sigma eps, with C_k = U_k diag(c_k) U_k^T,

    p_t(x) = sum_k w_k N(x; alpha m_k, alpha^2 C_k + sigma^2 I),
    E[x_0 | x_t, k] = m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^-1 (x - alpha m_k).

A Gaussian is a mixture of one; a finite set of points has C_k = 0. All hold at alpha = 0, and at
sigma = 0 where no C_k is singular. Conditioning on y = A x_0 + s n stays inside the family.
"""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.special import logsumexp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, scales
from jaxdiff.process.gaussian import Time
from jaxdiff.trees import fit
from jaxdiff.types import Estimate, number, record


@record
class Mixture:
    """sum_k w_k N(means_k, U_k diag(values_k) U_k^T), U_k the `vectors`, log w_k the `logits`."""

    logits: Float[Array, " k"]
    means: Float[Array, "k d"]
    values: Float[Array, "k d"]
    vectors: Float[Array, "k d d"]


@record
class Points:
    """sum_k w_k delta(points_k), log w_k the `logits`."""

    logits: Float[Array, " k"]
    points: Float[Array, "k d"]


Distribution = Mixture | Points


def mixture(weights: Array, means: Array, covs: Array) -> Mixture:
    """A Gaussian mixture.

    Args:
      weights: [k] positive; they are normalised.
      means: [k, d].
      covs: [k, d, d] symmetric, positive semi-definite.

    Raises:
      ValueError: if the shapes do not agree.

    >>> m = mixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.full((2, 1, 1), 0.01))
    >>> mean(m).tolist()
    [0.0]
    """
    weights, means, covs = number(weights), number(means), number(covs)
    k, d = means.shape if means.ndim == 2 else (-1, -1)
    if weights.shape != (k,) or covs.shape != (k, d, d):
        raise ValueError(
            f"weights {weights.shape}, means {means.shape}, covs {covs.shape}: shapes [k], [k, d], "
            "[k, d, d] are needed"
        )
    values, vectors = jnp.linalg.eigh(covs)
    logits = jax.nn.log_softmax(jnp.log(weights))
    return Mixture(logits, means, jnp.maximum(values, 0.0), vectors)


def gaussian(mean: Array, cov: Array) -> Mixture:
    """N(mean [d], cov [d, d]).

    >>> gaussian(jnp.zeros(2), jnp.eye(2)).means.shape
    (1, 2)
    """
    return mixture(jnp.ones(1), number(mean)[None], number(cov)[None])


def points(points: Array, weights: Array | None = None) -> Points:
    """A finite set of points [k, d] with weights [k] (equal by default).

    Raises:
      ValueError: if points is not a matrix, or there is not one weight a point.
    """
    points = number(points)
    if points.ndim != 2:
        raise ValueError(f"points of shape {points.shape}: flatten them to [k, d]")
    weights = jnp.ones(len(points)) if weights is None else number(weights)
    if weights.shape != points.shape[:1]:
        raise ValueError(f"weights {weights.shape} for points {points.shape}: one weight a point")
    return Points(jax.nn.log_softmax(jnp.log(weights)), points)


def _centre(dist: Distribution) -> Array:
    return dist.means if isinstance(dist, Mixture) else dist.points


def _spectrum(dist: Distribution, alpha: Array, sigma: Array) -> Array:
    """Eigenvalues alpha^2 c_k + sigma^2 of the components of p_t; [b, k, d] or [b, k, 1]."""
    if isinstance(dist, Points):
        return (sigma**2)[:, None, None]
    return (alpha**2)[:, None, None] * dist.values[None] + (sigma**2)[:, None, None]


def _rotated(dist: Distribution, x: Array, alpha: Array) -> Array:
    """U_k^T (x - alpha m_k), [b, k, d]."""
    offset = x[:, None, :] - alpha[:, None, None] * _centre(dist)[None]
    if isinstance(dist, Points):
        return offset
    return jnp.einsum("kij,bki->bkj", dist.vectors, offset, precision="highest")


def _batched(process: Process, x: Array, t: Time) -> tuple[Array, Array]:
    if x.ndim != 2:
        raise ValueError(f"x of shape {x.shape}: exact distributions are over vectors [b, d]")
    alpha, sigma = scales(process, t)
    return jnp.broadcast_to(alpha, x.shape[:1]), jnp.broadcast_to(sigma, x.shape[:1])


def _log_weights(dist: Distribution, x: Array, alpha: Array, sigma: Array) -> Array:
    """log w_k + log N(x; alpha m_k, alpha^2 C_k + sigma^2 I), [b, k]."""
    spectrum = _spectrum(dist, alpha, sigma)
    offset = _rotated(dist, x, alpha)
    logs = jnp.broadcast_to(jnp.log(2 * jnp.pi * spectrum), offset.shape)
    return dist.logits[None] - 0.5 * jnp.sum(offset**2 / spectrum + logs, axis=-1)


def log_density(
    dist: Distribution, process: Process, x: Float[Array, "b d"], t: Time
) -> Float[Array, " b"]:
    """log p_t(x), exact, in nats.

    >>> from jaxdiff.process import edm
    >>> unit = gaussian(jnp.zeros(1), jnp.eye(1))
    >>> round(float(log_density(unit, edm(), jnp.zeros((1, 1)), 0.0)[0]), 4)
    -0.9189
    """
    alpha, sigma = _batched(process, x, t)
    return logsumexp(_log_weights(dist, x, alpha, sigma), axis=-1)


def _denoise(dist: Distribution, process: Process, x: Array, t: Time, now: object) -> Estimate:
    alpha, sigma = _batched(process, x, t)
    share = jax.nn.softmax(_log_weights(dist, x, alpha, sigma), axis=-1)
    if isinstance(dist, Points):
        x0 = jnp.einsum("bk,kd->bd", share, dist.points, precision="highest")
        second = jnp.einsum("bk,kd->bd", share, dist.points**2, precision="highest")
        return Estimate(x0, jnp.maximum(second - x0**2, 0.0))
    spectrum = _spectrum(dist, alpha, sigma)
    gain = fit(alpha, spectrum) * dist.values[None] / spectrum
    each = dist.means[None] + jnp.einsum(
        "kij,bkj->bki", dist.vectors, gain * _rotated(dist, x, alpha), precision="highest"
    )
    x0 = jnp.einsum("bk,bkd->bd", share, each, precision="highest")
    left = dist.values[None] * fit(sigma**2, spectrum) / spectrum
    inner = jnp.einsum("kij,bkj->bki", dist.vectors**2, left, precision="highest")
    var = jnp.einsum("bk,bkd->bd", share, inner + (each - x0[:, None]) ** 2, precision="highest")
    return Estimate(x0, var)


def denoiser(dist: Distribution, process: Process) -> Denoiser:
    """The exact E[x_0 | x_t] and Var[x_0 | x_t] of a distribution under a process.

    Args:
      dist: a mixture (or Gaussian), or points, over vectors [d].
      process: what noise does.

    >>> from jaxdiff.process import edm
    >>> d = denoiser(gaussian(jnp.zeros(1), jnp.eye(1)), edm())
    >>> float(d(jnp.ones((1, 1)), 1.0).x0[0, 0])   # x / (1 + sigma^2)
    0.5
    """
    return Denoiser(process, Partial(_denoise, dist, process))


def condition(
    dist: Distribution, matrix: Float[Array, "m d"], y: Float[Array, " m"], noise: float | Array
) -> Distribution:
    """p(x_0 | y) for y = matrix x_0 + noise n, exact.

    Per component C' = C - C A^T (A C A^T + s^2 I)^-1 A C, m' = m + C A^T (...)^-1 (y - A m), and
    the weights are multiplied by N(y; A m, A C A^T + s^2 I).

    Args:
      dist: the prior, over vectors [d].
      matrix: A [m, d].
      y: [m].
      noise: s; > 0, or 0 for a mixture whose A C A^T is regular.

    Returns:
      Distribution of the same kind.

    Raises:
      ValueError: if noise < 0, or 0 where the prior is points.

    >>> half = condition(gaussian(jnp.zeros(1), jnp.eye(1)), jnp.eye(1), jnp.ones(1), 1.0)
    >>> [round(float(v), 4) for v in (mean(half)[0], covariance(half)[0, 0])]
    [0.5, 0.5]
    """
    matrix, y, noise = number(matrix), number(y), number(noise)
    _check_noise(noise, isinstance(dist, Points))
    variance = noise**2
    if isinstance(dist, Points):
        misfit = y[None] - jnp.einsum("md,kd->km", matrix, dist.points, precision="highest")
        logits = dist.logits - 0.5 * jnp.sum(misfit**2, axis=-1) / variance
        return Points(jax.nn.log_softmax(logits), dist.points)
    moments = jax.vmap(_condition_one, in_axes=(0, 0, 0, None, None, None))
    logw, means, covs = moments(dist.means, dist.values, dist.vectors, matrix, y, variance)
    values, vectors = jnp.linalg.eigh(covs)
    logits = jax.nn.log_softmax(dist.logits + logw)
    return Mixture(logits, means, jnp.maximum(values, 0.0), vectors)


def _check_noise(noise: Array, points: bool) -> None:
    if isinstance(noise, Tracer) or noise > 0 or (noise == 0 and not points):
        return
    why = "points cannot be weighed against y without noise" if noise == 0 else "it is a deviation"
    raise ValueError(f"noise={float(noise)}: {why}; give noise > 0")


def _condition_one(
    mean: Array, values: Array, vectors: Array, matrix: Array, y: Array, variance: Array
) -> tuple[Array, Array, Array]:
    with jax.default_matmul_precision("highest"):
        cov = (vectors * values[None]) @ vectors.T
        cross = matrix @ cov
        inner = cross @ matrix.T + variance * jnp.eye(len(matrix), dtype=cov.dtype)
        factor = jnp.linalg.cholesky(inner)
        white = jax.scipy.linalg.solve_triangular(factor, y - matrix @ mean, lower=True)
        half = jax.scipy.linalg.solve_triangular(factor, cross, lower=True)
        logdet = jnp.sum(jnp.log(jnp.diagonal(factor)))
        logw = -0.5 * jnp.sum(white**2) - logdet
        return logw, mean + half.T @ white, cov - half.T @ half


def draw(key: Key[Array, ""], dist: Distribution, n: int) -> Float[Array, "n d"]:
    """n exact samples of x_0.

    >>> draw(jax.random.key(0), gaussian(jnp.zeros(2), jnp.eye(2)), 5).shape
    (5, 2)
    """
    which, inside = jax.random.split(key)
    k = jax.random.categorical(which, dist.logits, shape=(n,))
    if isinstance(dist, Points):
        return dist.points[k]
    z = jax.random.normal(inside, (n, dist.means.shape[1])) * jnp.sqrt(dist.values[k])
    return dist.means[k] + jnp.einsum("nij,nj->ni", dist.vectors[k], z, precision="highest")


def mean(dist: Distribution) -> Float[Array, " d"]:
    """E[x_0]."""
    return jnp.exp(dist.logits) @ _centre(dist)


def covariance(dist: Distribution) -> Float[Array, "d d"]:
    """Cov[x_0] = sum_k w_k (C_k + m_k m_k^T) - m m^T."""
    w, centre = jnp.exp(dist.logits), _centre(dist) - mean(dist)[None]
    between = jnp.einsum("k,ki,kj->ij", w, centre, centre, precision="highest")
    if isinstance(dist, Points):
        return between
    u = dist.vectors
    return between + jnp.einsum("k,kil,kl,kjl->ij", w, u, dist.values, u, precision="highest")
