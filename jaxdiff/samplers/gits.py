"""A grid made for one's own denoiser: the best n steps of a fine grid, by dynamic programming.

A few samples are walked down a fine grid t_0 > ... > t_N with care. One Euler step from t_i to t_j
misses the fine trajectory by

    c_ij = E |x_0(x_i) + r_j eps(x_i) - x_j / alpha_j|,    r = sigma/alpha,

and the grid of n steps from t_0 to t_N has the least V_n(0), where

    V_1(i) = c_iN,    V_k(i) = min_{j > i} (c_ij + gamma V_{k-1}(j)).

Measured in x/alpha, the costs are those of the same levels of noise in any process.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, check_grid, scales
from jaxdiff.process.grids import check_steps
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.loop import grid, run
from jaxdiff.trees import combine, keys_for
from jaxdiff.types import PyTree, Sampler, Scalar, number


def gits(
    denoise: Denoiser,
    x: PyTree,
    fine: Num[Array, " k"],
    n: int,
    *,
    gamma: Scalar = 1.15,
    teacher: Sampler | None = None,
) -> Float[Array, " m"]:
    """n steps of a fine grid, chosen for a denoiser (GITS); for the solvers of any order.

    V_k(i) = min_{j > i} (c_ij + gamma V_{k-1}(j)), c_ij the miss of one Euler step from t_i to t_j.

    It costs one walk down the fine grid, and no gradients. Keep the result: the grid is a property
    of the denoiser (with its guidance), not of x.

    Args:
      denoise: the denoiser to be sampled, guided or not.
      x: some tens of samples at the first time of the fine grid, leaves [b, ...].
      fine: [N + 1] decreasing times; 60 steps of `karras` or `linspace`, say.
      n: number of steps, at most N.
      gamma: > 0, how much a miss late in the walk counts; above 1 it moves steps there.
      teacher: the deterministic solver for the fine grid, Heun's by default.

    Returns:
      [n + 1] of the fine times, the first and the last among them: give them to `sample` as
      `times`.

    Raises:
      ValueError: if n < 1 or n > N, gamma <= 0, or the fine grid does not decrease or leaves the
        process.

    Chen et al. 2024, arXiv:2405.11326, section 5.

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(2), 0.1 * jnp.eye(2)), process.edm())
    >>> x = 80.0 * jax.random.normal(jax.random.key(0), (8, 2))
    >>> gits(d, x, process.karras(process.edm(), 12), 4).shape
    (5,)
    """
    check_steps(n)
    check_grid(fine, denoise.process)
    if n > fine.shape[0] - 1:
        raise ValueError(f"steps={n} of a fine grid of {fine.shape[0] - 1}: give a finer one")
    if isinstance(gamma, int | float) and gamma <= 0:
        raise ValueError(f"gamma={gamma}: the misses of later steps count by it; give gamma > 0")
    walked = _walk(denoise, x, fine, teacher or heun())
    return fine[_best(_costs(denoise.process, fine, *walked), n, number(gamma))]


def _walk(denoise: Denoiser, x: PyTree, ts: Array, teacher: Sampler) -> tuple[PyTree, PyTree]:
    """x_i, i = 0 ... N, and E[x_0 | x_i], i = 0 ... N - 1, along a first axis."""
    keys = keys_for(jax.random.key(0), jnp.arange(trees.size(x)))  # the teacher draws nothing

    def look(now: Any, x: PyTree, est: Any) -> tuple[PyTree, PyTree]:
        return x, est.x0

    _, (after, x0) = run(keys, denoise, teacher, grid(ts), x, look=look)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), x, after), x0


def _costs(process: Process, ts: Array, x: PyTree, x0: PyTree) -> Array:
    """c_ij, [N, N + 1]; infinite unless j > i."""
    alpha, sigma = scales(process, ts)
    count = jnp.arange(ts.shape[0])
    safe = jnp.where(alpha == 0, 1.0, alpha)  # at t_0, where no step ends

    def row(start: tuple[Array, PyTree, PyTree, Array, Array]) -> Array:
        i, x_i, x0_i, alpha_i, sigma_i = start
        eps = combine((1 / sigma_i, x_i), (-alpha_i / sigma_i, x0_i))

        def miss(x_j: PyTree, alpha_j: Array, sigma_j: Array) -> Array:
            off = combine((1.0, x0_i), (sigma_j / alpha_j, eps), (-1 / alpha_j, x_j))
            return jnp.mean(_norms(off))

        return jnp.where(count > i, jax.vmap(miss)(x, safe, sigma), jnp.inf)

    starts = jax.tree.map(lambda leaf: leaf[:-1], (count, x, alpha, sigma))
    i, x_i, alpha_i, sigma_i = starts
    return jax.lax.map(row, (i, x_i, x0, alpha_i, sigma_i))


def _norms(x: PyTree) -> Array:
    """The Euclidean length of each sample of a tree, [b]."""
    squares = [jnp.sum(a.reshape(len(a), -1) ** 2, axis=1) for a in jax.tree.leaves(x)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares), axis=0))


def _best(costs: Array, n: int, gamma: Array) -> Array:
    """The numbers of the n + 1 times of the cheapest walk of exactly n steps."""
    end = jnp.full((1,), jnp.inf)  # from t_N there is no step
    value, choices = jnp.concatenate([costs[:, -1], end]), []
    for _ in range(n - 1):
        total = costs + gamma * value[None]
        choices.append(jnp.argmin(total, axis=1))
        value = jnp.concatenate([jnp.min(total, axis=1), end])
    path = [jnp.array(0)]
    for choice in reversed(choices):
        path.append(choice[path[-1]])
    return jnp.stack([*path, jnp.array(costs.shape[0])])
