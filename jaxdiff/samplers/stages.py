"""What staged solvers share: where a step begins and aims, and how a point on its way is reached.

With r = sigma/alpha, l = -log r, and x_0, eps the estimates at t, the point at l_m = l_t + g is

    x_m = alpha_m (x_0 + r_m eps) + alpha_m w(g) (g/g') (V' - V),

where V is what the solver holds for slow (eps in DPM-Solver, x_0 in DPM-Solver++) and V' its value
at a stage seen before, at l_t + g'. The weight is that of a slope, integrated, or halved:

    DPM-Solver:     w = r_m - (r_t - r_m)/g    or   (r_m - r_t)/2,
    DPM-Solver++:   w = 1 - (1 - e^-g)/g       or   (1 - e^-g)/2.

From alpha = 0 every stage is x_t itself: there V' = V, and the step is Euler's.

Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2, and arXiv:2211.01095, algorithm 1.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import log_snr, scales, time_of
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, PyTree, Scalar


class Leg(NamedTuple):
    """A step from l at t to (alpha_s, alpha_s r), h away, and what was estimated at t."""

    now: Any
    level: Array
    alpha: Array
    ratio: Array
    est: Estimate
    eps: PyTree

    @property
    def h(self) -> Array:
        """The length of the step in l; infinite to sigma = 0 and from alpha = 0."""
        return -jnp.log(self.ratio) - self.level


class Seen(NamedTuple):
    """What a stage showed: how V has changed since t, and g', where it lies."""

    change: PyTree
    g: Array


def begin(denoise: Denoiser, x: PyTree, t: Array, s: Array, now: Any) -> Leg:
    """Ask at t, and aim at s."""
    est = denoise(x, t, now)
    alpha, sigma = scales(denoise.process, s)
    eps = noise_of(denoise, x, t, est.x0)
    return Leg(now, log_snr(denoise.process, t) / 2, alpha, sigma / alpha, est, eps)


def lowered(leg: Leg, eta: Array, floor: Scalar = 0.0) -> tuple[Leg, Array]:
    """Aim at r_down, and r_up, the ratio of the noise that leads back up to s.

    r_up^2 = eta^2 r_s^2 (1 - r_s^2/r_t^2), r_down^2 = r_s^2 - r_up^2, but r_down >= floor.
    """
    share = leg.ratio * jnp.exp(leg.level)  # r_s/r_t, 0 from alpha = 0
    up = eta * leg.ratio * jnp.sqrt(jnp.maximum(1 - share**2, 0.0))
    # never the root of a rounding error
    down = leg.ratio * jnp.sqrt((1 - eta**2) + (eta * share) ** 2)
    least = jnp.minimum(floor, leg.ratio)
    held = jnp.sqrt((leg.ratio - least) * (leg.ratio + least))
    return leg._replace(ratio=jnp.maximum(down, least)), jnp.where(down < least, held, up)


def land(leg: Leg, data: bool = True, seen: Seen | None = None, *, halved: bool = False) -> PyTree:
    """x at the end of the leg."""
    return _reach(leg, leg.alpha, leg.alpha * leg.ratio, leg.h, data, seen, halved)


def stage(
    denoise: Denoiser,
    leg: Leg,
    share: Array,
    data: bool,
    seen: Seen | None = None,
    *,
    halved: bool = False,
) -> Seen:
    """Go to l + share h, and ask there.

    The process may end before, at t_min: then the stage lies there.
    """
    t = time_of(denoise.process, 2 * ((1 - share) * leg.level - share * jnp.log(leg.ratio)))
    alpha, sigma = scales(denoise.process, t)
    g = jnp.where(jnp.isfinite(leg.level), jnp.log(alpha / sigma) - leg.level, jnp.inf)
    x = _reach(leg, alpha, sigma, g, data, seen, halved)
    x0 = denoise(x, t, leg.now).x0
    new, old = (x0, leg.est.x0) if data else (noise_of(denoise, x, t, x0), leg.eps)
    return Seen(combine((1.0, new), (-1.0, old)), g)


def _reach(
    leg: Leg, alpha: Array, sigma: Array, g: Array, data: bool, seen: Seen | None, halved: bool
) -> PyTree:
    straight = (alpha, leg.est.x0), (sigma, leg.eps)
    if seen is None:
        return combine(*straight)
    from_zero = jnp.isinf(g)
    g, reach = jnp.where(from_zero, 1.0, g), jnp.where(from_zero, 1.0, seen.g)
    fallen = alpha * jnp.exp(-jnp.where(from_zero, 0.0, leg.level))  # alpha_m r_t
    if data:
        weight = -0.5 * jnp.expm1(-g) if halved else 1 + jnp.expm1(-g) / g
        weight = alpha * weight
    else:
        weight = (sigma - fallen) / 2 if halved else sigma - (fallen - sigma) / g
    weight = jnp.where(from_zero, 0.0, weight * g / reach)
    return combine(*straight, (weight, seen.change))
