"""DDRM and DDNM+: restoration in the spectral space of A, where noise is known per singular value.

With A = U S V^T and bars for V^T x, y is seen as ybar = S^+ U^T y = xbar + (s/s_i) n. What x_s may
take from it depends on whether its own noise is larger. In the paper's variance-exploding frame
(x_t/alpha_t, sigma_t for sigma_t/alpha_t) DDRM draws

    s_i = 0:           N(xbar_0 + sqrt(1 - eta^2) sigma_s eps, eta^2 sigma_s^2)
    sigma_s < s/s_i:   N(xbar_0 + sqrt(1 - eta^2) sigma_s (ybar - xbar_0) s_i/s, eta^2 sigma_s^2)
    sigma_s >= s/s_i:  N((1 - eta_b) xbar_0 + eta_b ybar, sigma_s^2 - eta_b^2 s^2/s_i^2)

which keeps the marginal N(x_0, sigma_s^2). DDNM+ corrects x_0 by lambda_i (ybar - xbar_0), and
takes the noise that comes with it out of the step's own: with a the share of x_0 in x_s and v the
step's variance, lambda_i = min(1, sqrt(v)/(a s/s_i)), and the draw has v - (a lambda_i s/s_i)^2.

Kawar et al. 2022, arXiv:2201.11793, eq. (7)-(8). Wang et al. 2023, arXiv:2212.00490, section 3.3
and its appendix on the general form.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_noise, check_share, spectrum
from jaxdiff.inverse.operators import Measurement, Svd, check_measurement
from jaxdiff.process import Process, posterior, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine, fit, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, Sampler, State, number


class _Seen(NamedTuple):
    """What y says in spectral space: ybar and s/s_i (1 where s_i = 0), and where s_i > 0."""

    ybar: Array
    width: Array
    known: Array


def _seen(svd: Svd, y: Array, noise: Array) -> _Seen:
    known = svd.values[None] > 0
    values = jnp.where(known, svd.values[None], 1.0)
    z = jax.vmap(svd.ut)(y)
    return _Seen(jnp.where(known, z / values, 0.0), fit(noise, z) / values, known)


def _plain(x: Array) -> State:
    return State(x)


def ddrm(
    operator: Measurement,
    y: Array,
    *,
    noise: float | Array,
    eta: float | Array = 0.85,
    eta_b: float | Array = 1.0,
) -> Sampler:
    """DDRM: a sampler of its own, one evaluation a step, at any noise level of the measurement.

    Args:
      operator: A with an svd, of one example.
      y: measurements [b, ...].
      noise: s >= 0, a number or [b].
      eta: share of fresh noise where y says little, in [0, 1].
      eta_b: share of y where y says more than x_s, in [0, 1].

    Raises:
      ValueError: if the operator is not linear or has no svd, noise < 0, eta or eta_b is outside
        [0, 1], or y or x do not have the shapes that the operator says.

    Kawar et al. 2022, arXiv:2201.11793, eq. (8).
    """
    svd = spectrum(operator, "ddrm")
    check_noise(noise)
    check_share("eta", eta)
    check_share("eta_b", eta_b)
    shares = number(eta), number(eta_b)

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        check_measurement(operator, y, state.x)
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        z = normal(fold(now.key, SOLVER), state.x)
        bars = tuple(jax.vmap(svd.vt)(part) for part in (est.x0, eps, z))
        level = scales(denoise.process, now.s)
        drawn = _ddrm(_seen(svd, y, number(noise)), bars, level, shares)
        return State(jax.vmap(svd.v)(drawn)), est

    return Sampler(_plain, step)


def _ddrm(seen: _Seen, bars: Any, level: Any, shares: Any) -> Array:
    x0, eps, z = bars
    alpha, sigma, eta, eta_b = (fit(value, x0) for value in (*level, *shares))
    width = alpha * seen.width
    gap = alpha * (seen.ybar - x0) / jnp.where(width > 0, width, 1.0)
    kept = jnp.where(seen.known, gap, eps)  # what stands for the noise of x_t
    unsure = alpha * x0 + sigma * (jnp.sqrt(1 - eta**2) * kept + eta * z)
    left = jnp.sqrt(jnp.maximum(sigma**2 - (eta_b * width) ** 2, 0.0))
    sure = alpha * ((1 - eta_b) * x0 + eta_b * seen.ybar) + left * z
    return jnp.where(seen.known & (sigma >= width), sure, unsure)


def ddrm_start(
    operator: Measurement, y: Array, x: Array, process: Process, t: Any, *, noise: float | Array
) -> Array:
    """x_T of DDRM from x_T of the prior: what is seen is centred on y at the noise level of t.

    xbar_T ~ N(alpha ybar, sigma^2 - alpha^2 s^2/s_i^2) where s_i > 0. It matters where alpha(t) is
    far from 0; give the result to `sample` as `start`.

    Args:
      operator: A with an svd, of one example.
      y: measurements [b, ...].
      x: sigma(t) times standard normal noise, [b, ...].
      process: what noise does.
      t: the first time of the grid.
      noise: s >= 0, a number or [b].

    Raises:
      ValueError: if the operator is not linear or has no svd, noise < 0, or y or x do not have the
        shapes that the operator says.

    Kawar et al. 2022, arXiv:2201.11793, eq. (7).
    """
    svd = spectrum(operator, "ddrm_start")
    check_noise(noise)
    check_measurement(operator, y, x)
    seen, z = _seen(svd, y, number(noise)), jax.vmap(svd.vt)(x)
    alpha, sigma = (fit(a, z) for a in scales(process, t))
    share = jnp.maximum(1 - (alpha * seen.width / sigma) ** 2, 0.0)
    centred = alpha * seen.ybar + jnp.sqrt(share) * z
    return jax.vmap(svd.v)(jnp.where(seen.known, centred, z))


def ddnm_plus(
    operator: Measurement, y: Array, *, noise: float | Array, eta: float | Array = 1.0
) -> Sampler:
    """DDNM+: DDNM for noisy measurements, a sampler that accounts for the noise it lets in.

    Without noise it is `ddnm` with `ddim(eta)`. Time travel is the loop's: `rows=travel`.

    Args:
      operator: A with an svd, of one example.
      y: measurements [b, ...].
      noise: s >= 0, a number or [b].
      eta: of the step, in [0, 1]; with noise it must leave room, 1 as published: at 0 a noisy
        measurement is not used at all.

    Raises:
      ValueError: if the operator is not linear or has no svd, noise < 0, eta is outside [0, 1], or
        y or x do not have the shapes that the operator says.

    Wang et al. 2023, arXiv:2212.00490, section 3.3 and algorithm 3.
    """
    svd = spectrum(operator, "ddnm_plus")
    check_noise(noise)
    check_share("eta", eta)

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        check_measurement(operator, y, state.x)
        est, proc = denoise(state.x, now.t, now), denoise.process
        (alpha, sigma), (a_t, s_t) = scales(proc, now.s), scales(proc, now.t)
        var = number(eta) ** 2 * posterior(proc, now.s, now.t).var
        kept = jnp.sqrt(jnp.maximum(sigma**2 - var, 0.0))
        seen, x0 = _seen(svd, y, number(noise)), jax.vmap(svd.vt)(est.x0)
        z = jax.vmap(svd.vt)(normal(fold(now.key, SOLVER), state.x))
        width = jnp.abs(fit(alpha - kept * a_t / s_t, x0)) * seen.width
        change, z = _ddnm_plus(seen, width, fit(jnp.sqrt(var), x0), x0, z)
        edited = combine((1.0, est.x0), (1.0, jax.vmap(svd.v)(change)))
        eps = noise_of(denoise, state.x, now.t, edited)
        x = combine((alpha, edited), (kept, eps), (1.0, jax.vmap(svd.v)(z)))
        return State(x), est._replace(x0=edited, var=None)

    return Sampler(_plain, step)


def _ddnm_plus(seen: _Seen, width: Array, std: Array, x0: Array, z: Array) -> tuple[Array, Array]:
    """Sigma A^+ (y - A x_0) and the draw of covariance Phi, both in spectral space."""
    fits = width <= std
    lam = jnp.where(fits, 1.0, std / jnp.where(fits, 1.0, width))
    left = jnp.sqrt(jnp.maximum(std**2 - (lam * width) ** 2, 0.0))
    change = jnp.where(seen.known, lam * (seen.ybar - x0), 0.0)
    return change, jnp.where(seen.known, left, std) * z
