"""The mixture problem of MCGDiff with its exact posterior, at any dimension.

The prior is a mixture of 25 unit Gaussians whose means are (8i, 8j, 8i, 8j, ...), i, j in -2 ... 2,
with weights drawn as squares of normals. A = U diag(s) V^T with s sorted uniforms; the noise is a
uniform share of the largest s. Cardoso et al. 2023, arXiv:2308.07983, section 4.

Posterior components share one covariance I - V diag(k) V^T, k = s^2/(s^2 + noise^2): denoisers and
draws cost O(d) a component. Measurements of 1, 2 and 4 numbers all have 4, the last ones of them
0 = 0 x + noise n, so that one program serves them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff import process
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate, record

SPREAD, ROWS = 8.0, 4
V0 = 1 + SPREAD**2 * 2  # variance of a coordinate if all modes weigh the same
SIGMA_MIN, RHO = 0.03, 7.0


@record
class Modes:
    """sum_k w_k N(means_k, I - V diag(shrink) V^T): log w [k], [k, d], V [d, m], [m]."""

    logits: Any
    means: Any
    basis: Any
    shrink: Any


@record
class Problem:
    """A prior, a measurement and the posterior."""

    prior: Modes
    posterior: Modes
    matrix: Any
    y: Any
    noise: Any


def ve(d: int) -> process.Process:
    """sigma from 0.03 to ten times the length of the longest mean."""
    return process.edm(SIGMA_MIN, 10 * 2 * SPREAD * d**0.5)


def grid(proc: process.Process, n: int) -> Any:
    """Karras's grid; `process.karras` ends at sigma = 1000, and here it goes on."""
    high, low = proc.t_max ** (1 / RHO), proc.t_min ** (1 / RHO)
    return jnp.append((high + jnp.linspace(0, 1, n) * (low - high)) ** RHO, proc.t_clean)


def make(seed: int, d: int, dy: int) -> Problem:
    """One problem: weights, measurement and data all drawn from the seed."""
    rng = np.random.default_rng([seed, d, dy])
    weights = rng.standard_normal(25) ** 2
    corners = [(SPREAD * i, SPREAD * j) for i in range(-2, 3) for j in range(-2, 3)]
    means = np.tile(np.array(corners), (1, d // 2))
    left, _ = np.linalg.qr(rng.standard_normal((dy, dy)))
    basis, _ = np.linalg.qr(rng.standard_normal((d, dy)))
    s = np.sort(rng.uniform(size=dy))[::-1]
    noise = rng.uniform() * s[0]
    matrix = np.zeros((ROWS, d))
    matrix[:dy] = (left * s) @ basis.T
    x = means[rng.choice(25, p=weights / weights.sum())] + rng.standard_normal(d)
    y = matrix @ x + noise * rng.standard_normal(ROWS) * (np.arange(ROWS) < dy)
    log_prior = np.log(weights / weights.sum())
    return _solved(log_prior, means, matrix, y, noise, dy)


def _solved(
    log_prior: np.ndarray, means: np.ndarray, matrix: np.ndarray, y: np.ndarray, noise: Any, dy: int
) -> Problem:
    left, s, basis = np.linalg.svd(matrix[:dy], full_matrices=False)
    k = s**2 / (s**2 + noise**2)
    misfit = (y[:dy] - means @ matrix[:dy].T) @ left  # in the coordinates of U, [25, dy]
    log_post = log_prior - 0.5 * np.sum(misfit**2 / (s**2 + noise**2), axis=1)
    log_post = log_post - np.logaddexp.reduce(log_post)
    moved = means + (misfit * s / (s**2 + noise**2)) @ basis
    pad = ((0, 0), (0, ROWS - dy))
    basis = np.pad(basis.T, pad)
    arrays = [
        (log_prior, means, basis, np.zeros(ROWS)),
        (log_post, moved, basis, np.pad(k, pad[1])),
    ]
    prior, posterior = (Modes(*[jnp.asarray(a, float) for a in row]) for row in arrays)
    return Problem(prior, posterior, *[jnp.asarray(a, float) for a in (matrix, y, noise)])


def _denoise(modes: Modes, proc: process.Process, x: Any, t: Any, now: Any) -> Estimate:
    alpha, sigma = process.scales(proc, t)
    plain = alpha**2 + sigma**2
    seen = alpha**2 * (1 - modes.shrink) + sigma**2
    inner = _times(x, modes.basis)[:, None] - alpha * _times(modes.means, modes.basis)[None]
    extra = jnp.sum(inner**2 * (1 / seen - 1 / plain)[None, None], axis=-1)
    # |x - alpha m|^2 without |x|^2, which is the same for all modes; plain >= alpha^2, so what
    # cancels in single precision is far below 1
    length = jnp.sum(modes.means**2, axis=1)[None]
    square = (alpha**2 * length - 2 * alpha * _times(x, modes.means.T)) / plain
    share = jax.nn.softmax(modes.logits[None] - 0.5 * (square + extra), axis=1)
    centre = _times(share, modes.means)
    rest = x - alpha * centre
    along = alpha * (1 - modes.shrink) / seen - alpha / plain
    within = _times(_times(rest, modes.basis) * along[None], modes.basis.T)
    return Estimate(centre + alpha / plain * rest + within)


def _times(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, precision="highest")


def denoiser(modes: Modes, proc: process.Process) -> Denoiser:
    """The exact E[x_0 | x_t]; t a scalar."""
    return Denoiser(proc, Partial(_denoise, modes, proc))


def draw(key: Any, modes: Modes, n: int) -> Any:
    """n exact samples."""
    which, inside = jax.random.split(key)
    k = jax.random.categorical(which, modes.logits, shape=(n,))
    z = jax.random.normal(inside, (n, modes.means.shape[1]))
    less = (1 - jnp.sqrt(1 - modes.shrink))[None]
    return modes.means[k] + z - _times(_times(z, modes.basis) * less, modes.basis.T)


def sliced_wasserstein(key: Any, a: Any, b: Any, slices: int) -> Any:
    """Mean of the 1-Wasserstein distances of equally many points along random directions."""
    u = jax.random.normal(key, (a.shape[1], slices))
    u = u / jnp.linalg.norm(u, axis=0, keepdims=True)
    a, b = (jnp.sort(_times(x, u), axis=0) for x in (a, b))
    return jnp.mean(jnp.abs(a - b))


def weight_error(x: Any, modes: Modes) -> Any:
    """Total variation between the shares of the modes in x and the weights; nearest mean counts."""
    square = jnp.sum((x[:, None] - modes.means[None]) ** 2, axis=-1)
    found = jnp.mean(jax.nn.one_hot(jnp.argmin(square, axis=1), len(modes.means)), axis=0)
    return 0.5 * jnp.sum(jnp.abs(found - jnp.exp(modes.logits)))
