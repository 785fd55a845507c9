"""MCGDiff: in the coordinates of A's singular vectors a noisy measurement is a noised sample.

With A = U diag(s_i) V^T and z = V^T x, each y_i / s_i = z_i + (s / s_i) n is what z_i would look
like at the level sigma/alpha = tau_i = s / s_i. So p(x_0 | y) is the law of x_0 given that
coordinate i of x_tau_i / alpha_tau_i IS y~_i = (U^T y)_i / s_i: no likelihood is approximated. With
u = z / alpha and rho = sigma / alpha, particles that step from rho_t to rho_s treat coordinate i

    rho_s > tau_i   as drawn to a target: u_s ~ N(u_s; mean, var) N(y~; u_s, rho_s^2 - tau_i^2),
    rho_t > tau_i >= rho_s   as passing through it: u_tau = y~, then u_s from the bridge tau -> s,
    tau_i >= rho_t  as unobserved,

(mean, var) being the unguided step in that coordinate. They are weighted by the mass of the product
(in the second case that of the step to tau_i, at y~), over that of the step before.

Cardoso, Janati El Idrissi, Le Corff & Moulines 2023, arXiv:2308.07983, the case
with noise.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_linear, check_noise, spectrum
from jaxdiff.inverse.operators import Measurement, Svd, check_measurement
from jaxdiff.inverse.particles import at_the_end, check_particles, for_each, resample, start
from jaxdiff.process import scales
from jaxdiff.trees import fit, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, Sampler, Scalar, State, number


def _log_normal(u: Array, mean: Array, var: Array) -> Array:
    """log N(u; mean, var) without the constant; 0 where var is 0."""
    safe = jnp.where(var > 0, var, 1.0)
    return jnp.where(var > 0, -0.5 * ((u - mean) ** 2 / safe + jnp.log(safe)), 0.0)


def _bridge(rho2_s: Array, share: Array, u_t: Array, z0: Array) -> tuple[Array, Array]:
    """Mean and variance of u_s given u_t and z_0; share = rho_s^2 / rho_t^2."""
    return z0 + share * (u_t - z0), rho2_s * (1 - share)


def _moments(rho2: Array, back: tuple[Array, Array], z: Array, z0: Array) -> tuple[Array, Array]:
    """Of u at rho given z_t and z_0, with back = alpha_t / sigma_t^2: regular at alpha_t = 0."""
    share = rho2 * back[1]
    return z0 * (1 - share) + rho2 * back[0] * z, rho2 * (1 - share)


def _product(mean: Any, var: Any, target: Any, room: Any) -> tuple[Array, Array]:
    """N(u; mean, var) N(target; u, room), normalised in u."""
    gain = var / jnp.where(var + room > 0, var + room, 1.0)
    return mean + gain * (target - mean), gain * room


def mcgdiff(
    operator: Measurement,
    y: Array,
    *,
    noise: Scalar,
    particles: int,
    threshold: Scalar = 0.5,
) -> Sampler:
    """MCGDiff: a sampler of p(x_0 | y) by groups of particles, exact as their number grows.

    Rows [b g] are b groups of g particles; what comes out is resampled, hence not weighted. One
    evaluation a step, no network Jacobian. Coordinates with s / s_i above the first level of the
    grid are taken for unobserved.

    Args:
      operator: A, of one example, with a real singular value decomposition.
      y: one measurement for each group, [b, ...].
      noise: s >= 0, standard deviation of the measurement noise.
      particles: g >= 2, static.
      threshold: a group is resampled when its effective size falls below this share of g.

    Raises:
      ValueError: if the operator has no `svd` or a complex one, an argument is outside its range,
        rows do not make whole groups, or y or x do not have the shapes that the operator says.

    Cardoso et al. 2023, arXiv:2308.07983.

    >>> from jaxdiff import inverse
    >>> mcg = mcgdiff(inverse.matrix(jnp.eye(1, 2)), jnp.zeros((1, 1)), noise=0.1, particles=4)
    >>> [leaf.shape for leaf in mcg.init(jnp.zeros((4, 2))).hist]
    [(4,), (4,)]
    """
    check_particles(particles, threshold)
    check_noise(noise)
    svd = _real_spectrum(operator)
    known = svd.values > 0
    scale = jnp.where(known, svd.values, 1.0)
    tau2 = jnp.where(known, (number(noise) / scale) ** 2, jnp.inf)[None]

    def init(x: Array) -> State:
        return State(x, (start(x, particles), start(x, particles)))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        logw, before = state.hist
        rows = for_each(y, state.x, particles)
        check_measurement(operator, rows, state.x)
        target = jax.vmap(svd.ut)(rows) / scale[None]
        est = denoise(state.x, now.t, now)
        z, z0 = jax.vmap(svd.vt)(state.x), jax.vmap(svd.vt)(est.x0)
        levels = [(fit(a, z), fit(b, z)) for a, b in (scales(denoise.process, t) for t in now[:2])]
        mean, var, mass = _guided(levels, tau2, target, z, z0)
        weights = logw + _sum(mass) - before
        logw, (mean, var, target) = resample(
            now, weights, (mean, var, target), particles=particles, below=threshold
        )
        u = mean + jnp.sqrt(var) * normal(fold(now.key, SOLVER), mean)
        (_, _), (alpha_s, sigma_s) = levels
        room = (sigma_s / alpha_s) ** 2 - tau2
        before = _sum(jnp.where(room > 0, _log_normal(target, u, room), 0.0))
        x = jax.vmap(svd.v)(alpha_s * u)
        end = at_the_end(now)
        logw, (x, before) = resample(now, logw, (x, before), particles=particles, below=end, draw=1)
        aux = {**est.aux, "log_weights": weights}
        return State(x, (logw, before)), est._replace(aux=aux)

    return Sampler(init, step)


def _sum(values: Array) -> Array:
    return jnp.sum(values.reshape(values.shape[0], -1), axis=1)


def _guided(levels: Any, tau2: Array, target: Array, z: Array, z0: Array) -> Any:
    """Mean and variance of u_s and the log mass, by coordinates, for the three cases."""
    (alpha, sigma), (alpha_s, sigma_s) = levels
    back = alpha / sigma**2, (alpha / sigma) ** 2
    rho2_s = (sigma_s / alpha_s) ** 2
    mean, var = _moments(rho2_s, back, z, z0)
    drawn = tau2 < rho2_s
    passing = ~drawn & (tau2 * back[1] < 1)  # tau < rho_t
    room = jnp.where(drawn, rho2_s - tau2, 1.0)
    drawn_mean, drawn_var = _product(mean, var, target, room)
    level = jnp.where(passing, tau2, 1.0)
    at_tau = _moments(level, back, z, z0)
    share = rho2_s / jnp.where(level > 0, level, 1.0)
    through = _bridge(rho2_s, jnp.where(level > 0, share, 1.0), target, z0)
    mass = jnp.where(drawn, _log_normal(target, mean, var + room), 0.0)
    mass = jnp.where(passing, _log_normal(target, *at_tau), mass)
    mean = jnp.where(drawn, drawn_mean, jnp.where(passing, through[0], mean))
    var = jnp.where(drawn, drawn_var, jnp.where(passing, through[1], var))
    return mean, jnp.maximum(var, 0.0), mass


def _real_spectrum(operator: Any) -> Svd:
    check_linear(operator, "mcgdiff", "steered")
    svd = spectrum(operator, "mcgdiff")
    z = jax.eval_shape(svd.vt, jnp.zeros(operator.shape))
    if jnp.issubdtype(z.dtype, jnp.complexfloating):
        raise ValueError(
            "mcgdiff needs real singular vectors, and this operator's are complex (Fourier): use "
            "twisted"
        )
    return svd
