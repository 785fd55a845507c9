"""DPM-Solver++ (stochastic), "DPM++ SDE": a stage half-way, and noise in both parts of the step.

With r = sigma/alpha and l = -log r, the stage lies at l_m = l_t + share h. To u = m, and then to s,

    x_u = alpha_u [(r_down/r_t) x_t/alpha_t + (1 - r_down/r_t) D + r_up z],
    r_up^2 = eta^2 r_u^2 (1 - r_u^2/r_t^2),    r_down^2 = r_u^2 - r_up^2,

with D = D_t, the estimate of x_0 at t, on the way to m, and D = D_t + (D_m - D_t)/(2 share) on that
to s. The noise that has come in up to m is part of the noise that has come in up to s, weakened as
x is from m to s: z_s = c z_m + sqrt(1 - c^2) z, c = (r_down/r_m) r_up(m)/r_up(s).

Lu et al. 2022, arXiv:2211.01095, section 5; with this stage by K. Crowson.
"""

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import scales, time_of
from jaxdiff.samplers.heun import unless_clean
from jaxdiff.samplers.stages import Leg, begin, land, lowered
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, STAGE, Estimate, Now, PyTree, Sampler, Scalar, State, number


def dpmpp_sde(eta: Scalar = 1.0, *, r: Scalar = 0.5, paired: bool = True) -> Sampler:
    """DPM-Solver++ (stochastic), known as DPM++ SDE. 2n - 1 evaluations, two draws a step.

    Args:
      eta: in [0, 1]; 0 is deterministic, 1 the reverse SDE.
      r: in (0, 1), where the stage lies in log(alpha/sigma).
      paired: let the noise of the step contain that of its stage, as one Brownian motion has it:
        weak order 2. With independent noises it is of weak order 1, no better than `ddim(1.0)`.

    Raises:
      ValueError: if eta is not in [0, 1], or r not in (0, 1).

    Lu et al. 2022, arXiv:2211.01095, section 5; as a sampler by K. Crowson.

    >>> dpmpp_sde().init(jnp.zeros((2, 3))).hist
    ()
    """
    if isinstance(eta, int | float) and not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: 0 is deterministic, 1 the reverse SDE; give eta in [0, 1]")
    if isinstance(r, int | float) and not 0 < r < 1:
        raise ValueError(f"r={r}: a stage lies inside the step; give r in (0, 1)")
    share, spread = number(r), number(eta)

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        leg = begin(denoise, state.x, now.t, now.s, now)
        low, up = lowered(leg, spread)
        first, second = (normal(fold(now.key, who), state.x) for who in (STAGE, SOLVER))

        def staged() -> PyTree:
            t, middle = _middle(denoise, leg, now.s, share)
            down, noise = lowered(middle, spread)
            x = combine((1.0, land(down)), (middle.alpha * noise, first))
            change = combine((1.0, denoise(x, t, now).x0), (-1.0, leg.est.x0))
            # from alpha = 0 there is no half-way: D = D_t
            half = jnp.where(jnp.isfinite(leg.level), 0.5 / share, 0.0)
            gain = leg.alpha * (1 - low.ratio * jnp.exp(leg.level)) * half
            c = _common(leg, middle, spread) if paired else number(0.0)
            noises = (c, first), (jnp.sqrt(1 - c**2), second)
            return combine((1.0, land(low)), (gain, change), (leg.alpha * up, combine(*noises)))

        return State(unless_clean(leg.ratio, staged, land(leg))), leg.est

    return Sampler(State, step)


def _middle(denoise: Denoiser, leg: Leg, s: Array, share: Array) -> tuple[Array, Leg]:
    """The time of the stage, and the leg to there; from alpha = 0 that to s."""
    t = time_of(denoise.process, 2 * ((1 - share) * leg.level - share * jnp.log(leg.ratio)))
    t = jnp.where(jnp.isfinite(leg.level), t, s)
    alpha, sigma = scales(denoise.process, t)
    return t, leg._replace(alpha=alpha, ratio=sigma / alpha)


def _common(leg: Leg, middle: Leg, eta: Array) -> Array:
    """c, the correlation of the noises of the stage and of the step."""
    gone_m, gone_s = (1 - (to.ratio * jnp.exp(leg.level)) ** 2 for to in (middle, leg))
    after = 1 - eta**2 * (1 - (leg.ratio / middle.ratio) ** 2)
    return jnp.sqrt(jnp.minimum(after * gone_m / gone_s, 1.0))  # 1 may come as 1 + a rounding error
