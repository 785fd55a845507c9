"""The reverse SDE by an exponential Euler-Maruyama step, at any stochasticity and temperature.

With r = sigma/alpha and the Ito SDE whose marginals are those of the process at temperature 1,

    dx = [f x - (1 + eta^2)/(2 tau) g^2 score] dt + eta g dw,

the linear part is solved exactly and eps is held over the step:

    x_s/alpha_s = x_t/alpha_t + (1 + eta^2)/tau (r_s - r_t) eps + eta sqrt(r_t^2 - r_s^2) z.

eta = 0, tau = 1 is DDIM. Of first order; `ddim(1)` and `dpmpp_2m(1)` also solve the SDE of eta = 1,
with x_0 held in the place of eps, and keep the marginals better in long steps.

Song et al. 2021, arXiv:2011.13456, eq. (6); Zhang & Chen 2022, arXiv:2204.13902, eq. (3).
"""

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, Sampler, State, number


def ito(eta: float | Array = 1.0, *, temperature: float | Array = 1.0) -> Sampler:
    """Euler-Maruyama for the reverse SDE: eta = 1 the SDE of the process, 0 its probability flow.

    A step from alpha = 0 or to sigma = 0 is DDIM's: the SDE's is infinite, or leaves noise.

    Args:
      eta: >= 0; a Python 0 draws no noise at all.
      temperature: tau > 0, divides the score; below 1 samples keep closer to the modes.

    Raises:
      ValueError: if eta is negative, or the temperature not positive.

    Song et al. 2021, arXiv:2011.13456, eq. (6); Zhang & Chen 2022, arXiv:2204.13902, eq. (3).

    >>> import jax.numpy as jnp
    >>> ito(0.5).init(jnp.zeros((2, 3))).hist
    ()
    """
    still = isinstance(eta, int | float) and eta == 0
    if isinstance(eta, int | float) and eta < 0:
        raise ValueError(f"eta={eta}: 0 is deterministic, 1 the reverse SDE; give eta >= 0")
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature={temperature}: 1 is exact, less is cooler; give one > 0")

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        alpha, sigma = scales(denoise.process, now.s)
        more, spread = _excess(denoise.process, now, number(eta), number(temperature))
        x = combine((alpha, est.x0), (sigma + more, eps))
        if not still:
            x = combine((1.0, x), (spread, normal(fold(now.key, SOLVER), state.x)))
        return State(x), est

    return Sampler(State, step)


def _excess(process: Process, now: Now, eta: Array, tau: Array) -> tuple[Array, Array]:
    """What the step has more than DDIM's of eps, and the scale of z."""
    (alpha_t, sigma_t), (alpha, sigma) = scales(process, now.t), scales(process, now.s)
    inside = (alpha_t > 0) & (sigma > 0)
    r_t = jnp.where(inside, sigma_t / jnp.where(inside, alpha_t, 1.0), 0.0)
    r_s = jnp.where(inside, sigma / alpha, 0.0)
    spread = eta * jnp.sqrt(jnp.maximum((r_t - r_s) * (r_t + r_s), 0.0))
    return alpha * ((1 + eta**2) / tau - 1) * (r_s - r_t), alpha * spread
