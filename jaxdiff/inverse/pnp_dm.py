"""PnP-DM: a split Gibbs sampler whose prior step is a diffusion model's reverse process.

The posterior is relaxed to pi(x, z | y) ~ p(x) p(y | z) N(z; x, rho^2 I), whose parts are drawn in
turns, while rho is annealed:

    z ~ p(y | z) N(z; x, rho^2 I),     no network,
    x ~ p(x) N(z; x, rho^2 I),         a clean sample given the noisy z: the reverse process from
                                       x_t = alpha_t z at the level sigma_t / alpha_t = rho.

At a fixed rho the law of x is p(x) times the likelihood of y with the noise s^2 I + rho^2 A A^T,
for any prior: the error is known and goes with rho. The reverse process has to draw (`ddpm`, not
the flow).

Wu, Sun, Chen, Zhang, Yue & Bouman 2024, arXiv:2405.18782, section 3 and algorithm 1.
"""

from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Key, Num

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.daps import check_levels, to_clean
from jaxdiff.inverse.gaussian import per_sample
from jaxdiff.inverse.moves import Move
from jaxdiff.process import scales
from jaxdiff.samplers import ddpm, grid, run
from jaxdiff.trees import combine, fold
from jaxdiff.types import GUIDE, SOLVER, PyTree, Sampler


def pnp_dm(
    keys: Key[Array, " b"],
    denoise: Denoiser,
    ts: Num[Array, " m"],
    x: PyTree,
    *,
    move: Move,
    sampler: Sampler | None = None,
    steps: int = 20,
) -> PyTree:
    """PnP-DM: turns between a draw that fits y and a draw of the prior, at levels ts.

    Args:
      keys: [b], one per sample.
      denoise: of the prior.
      ts: [n] levels rho = sigma/alpha of the turns, not increasing (a constant tail is a chain at
        the last rho); alpha(t) > 0.
      x: clean samples to start from, leaves [b, ...].
      move: draws from p(y | z) N(z; c, v I): `conjugate`, `langevin`, `hmc` or `metropolis`.
      sampler: the reverse process, `ddpm` by default.
      steps: of the reverse process at each level.

    Returns:
      x, like x.

    Raises:
      ValueError: if ts increase or hold a time with alpha = 0 or sigma = 0, or steps < 1.

    Wu et al. 2024, arXiv:2405.18782, algorithm 1.
    """
    check_levels(ts, steps)
    process, solver = denoise.process, sampler or ddpm()
    _check_rho(ts, *scales(process, ts))

    def turn(carry: tuple[PyTree, PyTree], row: Any) -> tuple[tuple[PyTree, PyTree], None]:
        (x, z), (t, k) = carry, row
        own = fold(keys, k)
        alpha, sigma = scales(process, t)
        z = move(fold(own, GUIDE), x, per_sample((sigma / alpha) ** 2, x), z)
        rows = grid(to_clean(process, t, steps))
        x = run(fold(own, SOLVER), denoise, solver, rows, combine((alpha, z)))
        return (x, z), None

    return scan(turn, (x, x), (ts, jnp.arange(ts.shape[0])))[0][0]


def _check_rho(ts: Any, alpha: Any, sigma: Any) -> None:
    if isinstance(ts, Tracer) or isinstance(alpha, Tracer):
        return
    if not (bool(jnp.all(alpha > 0)) and bool(jnp.all(sigma > 0))):
        raise ValueError("ts holds a time with alpha = 0 or sigma = 0: rho has to be in (0, inf)")
    if bool(jnp.any(jnp.diff(ts) > 0)):
        raise ValueError("ts increase: give levels from noisy to clean")
