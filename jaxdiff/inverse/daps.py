"""DAPS: decoupled annealing. Each level begins anew from a clean sample that fits the measurement.

    x_0  <- the probability flow from x_t to clean data,
    x_0' ~  p(y | x_0') N(x_0'; x_0, r_t^2 I),
    x_s  <- alpha_s x_0' + sigma_s z.

The law of x_s given x_t is not that of a diffusion, only its marginals are (nearly) those of the
posterior, so a sample may move far at each level. r_t^2 stands for Var[x_0 | x_t]; the paper takes
r_t = sigma_t/alpha_t, here 1/r_t^2 = alpha_t^2/sigma_t^2 + 1/v0, which is bounded where alpha is 0
and exact for data N(m, v0 I) if x_0 is the posterior mean (one step of the flow). The official code
divides the squared misfit by s^2 instead of 2 s^2; here the likelihood is the true one.

Zhang, Chu, Berner, Meng, Anandkumar & Song 2024, arXiv:2407.01521, algorithm 1.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key, Num

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.gaussian import per_sample
from jaxdiff.inverse.moves import Move
from jaxdiff.process import Process, check_grid, perturb, scales, time_of
from jaxdiff.samplers import ddim, grid, run
from jaxdiff.trees import fold, normal
from jaxdiff.types import GUIDE, RENOISE, SOLVER, PyTree, Sampler, Scalar, number


def to_clean(process: Process, t: Array, steps: int) -> Array:
    """steps + 1 times from t to clean data, even in the angle atan(sigma/alpha).

    >>> from jaxdiff.process import edm
    >>> [round(t, 3) for t in to_clean(edm(), jnp.array(1.0), 2).tolist()]   # 45 degrees, halved
    [1.0, 0.414, 0.0]
    """
    alpha, sigma = scales(process, t)
    angles = jnp.arctan2(sigma, alpha) * (1 - jnp.arange(1, steps) / steps)
    between = time_of(process, -2 * jnp.log(jnp.tan(angles)))
    ends = [jnp.reshape(number(end), (1,)) for end in (t, process.t_clean)]
    return jnp.concatenate([ends[0], jnp.minimum(between, t), ends[1]])


def check_levels(ts: Any, steps: int) -> None:
    """Refuse times that differ per sample, and fewer than one step.

    Raises:
      ValueError: naming the argument.
    """
    if ts.ndim != 1:
        raise ValueError(
            f"ts of shape {ts.shape}: the levels are those of the whole batch, [n + 1]"
        )
    if steps < 1:
        raise ValueError(f"steps={steps}: the way to clean data takes at least 1")


def daps(
    keys: Key[Array, " b"],
    denoise: Denoiser,
    ts: Num[Array, " m"],
    x: PyTree,
    *,
    move: Move,
    sampler: Sampler | None = None,
    steps: int = 5,
    v0: Scalar = 1.0,
) -> PyTree:
    """DAPS: anneal p(x_t | y) down the levels by clean samples and fresh noise.

    Args:
      keys: [b], one per sample.
      denoise: of the prior.
      ts: [n + 1] decreasing levels, from t_max to t_clean.
      x: x at the first level, leaves [b, ...].
      move: draws from p(y | x) N(x; c, v I): `conjugate`, `langevin`, `hmc` or `metropolis`.
      sampler: solves the flow at each level, Euler by default.
      steps: of the flow at each level; 1 is the posterior mean.
      v0: variance of the data in r_t; inf as published (not where alpha(t_max) = 0). Of images a
        tenth of theirs and less does better: a pixel's neighbours tell of it.

    Returns:
      clean samples, like x.

    Raises:
      ValueError: if ts do not decrease, or steps < 1.

    Zhang et al. 2024, arXiv:2407.01521, algorithm 1.
    """
    check_grid(ts, denoise.process)
    check_levels(ts, steps)
    process, solver = denoise.process, sampler or ddim()

    def level(x: PyTree, row: Any) -> tuple[PyTree, None]:
        t, s, k = row
        own = fold(keys, k)
        rows = grid(to_clean(process, t, steps))
        clean = run(fold(own, SOLVER), denoise, solver, rows, x)
        alpha, sigma = scales(process, t)
        var = per_sample(1 / ((alpha / sigma) ** 2 + 1 / number(v0)), x)
        clean = move(fold(own, GUIDE), clean, var, clean)
        return perturb(process, s, clean, normal(fold(own, RENOISE), clean)), None

    return scan(level, x, (ts[:-1], ts[1:], jnp.arange(ts.shape[0] - 1)))[0]
