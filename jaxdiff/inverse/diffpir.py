"""DiffPIR: half-quadratic splitting, whose data step is a closed form.

    x_0' = argmin_x ||y - A x||^2 / (2 s^2) + lambda alpha^2/(2 sigma^2) ||x - x_0||^2
         = x_0 + sigma^2 A^T (sigma^2 A A^T + lambda alpha^2 s^2 I)^-1 (y - A x_0),

the second written so that alpha = 0 and s = 0 are ordinary. The noise of the step is mixed from
what x_0' implies and a fresh draw, which is a sampler of its own, `remix`; DDIM serves as well.

Zhu et al. 2023, arXiv:2305.08995, algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Number, numeric, value_at
from jaxdiff.guidance import Guide, edited
from jaxdiff.inverse.doors import check_linear, check_noise, check_positive, check_share
from jaxdiff.inverse.gaussian import misfit, per_sample
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import in_range
from jaxdiff.process import scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, At, Estimate, Now, PyTree, Sampler, State, number


def _diffpir(operator: Any, y: Any, noise: Any, lam: Any, est: Estimate, at: At) -> PyTree:
    r2 = per_sample(at.sigma**2, est.x0)
    s2 = per_sample(value_at(lam, at) * (at.alpha * value_at(noise, at)) ** 2, est.x0)
    solved = jax.vmap(operator.gram_solve)(r2, s2, misfit(operator, y, est.x0))
    return combine((1.0, est.x0), (r2, jax.vmap(operator.At)(solved)))


def diffpir(operator: Measurement, y: PyTree, *, noise: Number, lam: Number = 1.0) -> Guide:
    """DiffPIR: the data step of half-quadratic splitting; no network Jacobian.

    x_0' = x_0 + sigma^2 A^T (sigma^2 A A^T + lambda alpha^2 s^2 I)^-1 (y - A x_0).

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      noise: s >= 0, a number, [b], or At -> scalar; at 0 the step is a projection on A x = y.
      lam: lambda > 0, the weight of the prior.

    Raises:
      ValueError: if the operator is not linear, noise < 0, lam <= 0, or y or x do not have the
        shapes that the operator says.

    Zhu et al. 2023, arXiv:2305.08995, algorithm 1.
    """
    check_linear(operator, "diffpir", "hard_consistency")
    check_noise(noise)
    check_positive("lam", lam)
    edit = Partial(_diffpir, operator, y, numeric(noise), numeric(lam))
    return in_range(edited(edit), operator, y, noise)


def _plain(x: PyTree) -> State:
    return State(x)


def remix(zeta: float | Array) -> Sampler:
    """x_s = alpha_s x_0 + sigma_s (sqrt(1 - zeta) eps + sqrt(zeta) z), eps from x_t and x_0.

    At 0 it is DDIM without noise; at 1 every step renews its noise, as SITCOM and others do. Unlike
    DDIM's eta, zeta does not depend on how long the step is.

    Args:
      zeta: share of fresh noise in [0, 1], a number or [b].

    Raises:
      ValueError: if zeta is outside [0, 1].

    Zhu et al. 2023, arXiv:2305.08995, algorithm 1.
    """
    check_share("zeta", zeta)
    share = number(zeta)

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        alpha, sigma = scales(denoise.process, now.s)
        z = normal(fold(now.key, SOLVER), state.x)
        old, new = sigma * jnp.sqrt(1 - share), sigma * jnp.sqrt(share)
        return State(combine((alpha, est.x0), (old, eps), (new, z))), est

    return Sampler(_plain, step)
