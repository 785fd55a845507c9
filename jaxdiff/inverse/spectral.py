"""DDRM and DDNM+: restoration in the spectral space of A, where noise is known per singular value.

With A = U S V^T and bars for V^T x, y is seen as ybar = S^+ U^T y = xbar + (s/s_i) n. What x_s may
take from it depends on whether its own noise is larger. In the paper's variance-exploding frame
(x_t/alpha_t, sigma_t for sigma_t/alpha_t) DDRM draws

    s_i = 0:           N(xbar_0 + sqrt(1 - eta^2) sigma_s eps, eta^2 sigma_s^2)
    sigma_s < s/s_i:   N(xbar_0 + sqrt(1 - eta^2) sigma_s (ybar - xbar_0) s_i/s, eta^2 sigma_s^2)
    sigma_s >= s/s_i:  N((1 - eta_b) xbar_0 + eta_b ybar, sigma_s^2 - eta_b^2 s^2/s_i^2)

which keeps the marginal N(x_0, sigma_s^2). DDNM+ corrects x_0 by lambda_i (ybar - xbar_0) and draws

    xbar_0 + lambda_i (ybar - xbar_0) + d_i z + e_i eps

    s_i = 0:           e_i = sqrt(1 - eta^2) sigma_s,                     d_i = eta sigma_s
    sigma_s < s/s_i:   lambda_i = sqrt(1 - eta^2) sigma_s / (s/s_i),      d_i = eta sigma_s
    sigma_s >= s/s_i:  lambda_i = 1,                          d_i^2 = sigma_s^2 - (s/s_i)^2

and 0 for what is not named: the noise of y stands for a part of the step's. Where y is seen nothing
of x_t is kept but through x_0: x_t holds the noise of y already, the same at every step, so that
deviations would add, not variances. For eta_b = 1 the two papers come to the same step.

Kawar et al. 2022, arXiv:2201.11793, eq. (7)-(8). Wang et al. 2023, arXiv:2212.00490, eq. (17) and
the appendix on the form by singular values, as in the authors' code.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_noise, check_share, spectrum
from jaxdiff.inverse.operators import Measurement, Svd, check_measurement
from jaxdiff.inverse.ranges import sampler_in_range
from jaxdiff.process import Process, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine, fit, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, State, number


class _Seen(NamedTuple):
    """What y says in spectral space: ybar and s/s_i (1 where s_i = 0), and where s_i > 0."""

    ybar: Array
    width: Array
    known: Array


def _seen(svd: Svd, y: PyTree, noise: Array) -> _Seen:
    known = svd.values[None] > 0
    values = jnp.where(known, svd.values[None], 1.0)
    z = jax.vmap(svd.ut)(y)
    return _Seen(jnp.where(known, z / values, 0.0), fit(noise, z) / values, known)


def _plain(x: PyTree) -> State:
    return State(x)


def ddrm(
    operator: Measurement,
    y: PyTree,
    *,
    noise: float | Array,
    eta: float | Array = 0.85,
    eta_b: float | Array = 1.0,
) -> Sampler:
    """DDRM: a sampler of its own, one evaluation a step, at any noise level of the measurement.

    Args:
      operator: A with an svd, of one example.
      y: measurements, leaves [b, ...].
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
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        z = normal(fold(now.key, SOLVER), state.x)
        bars = tuple(jax.vmap(svd.vt)(part) for part in (est.x0, eps, z))
        level = scales(denoise.process, now.s)
        drawn = _ddrm(_seen(svd, y, number(noise)), bars, level, shares)
        return State(jax.vmap(svd.v)(drawn)), est

    return sampler_in_range(Sampler(_plain, step), operator, y, noise)


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
    operator: Measurement, y: PyTree, x: PyTree, process: Process, t: Any, *, noise: float | Array
) -> PyTree:
    """x_T of DDRM from x_T of the prior: what is seen is centred on y at the noise level of t.

    xbar_T ~ N(alpha ybar, sigma^2 - alpha^2 s^2/s_i^2) where s_i > 0. It matters where alpha(t) is
    far from 0; give the result to `sample` as `start`.

    Args:
      operator: A with an svd, of one example.
      y: measurements, leaves [b, ...].
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
    operator: Measurement, y: PyTree, *, noise: float | Array, eta: float | Array = 0.85
) -> Sampler:
    """DDNM+: DDNM for noisy measurements, a sampler that accounts for the noise it lets in.

    Without noise and with eta = 1 it is `ddnm` with `remix(1)`. Time travel is the loop's:
    `rows=travel`.

    Args:
      operator: A with an svd, of one example.
      y: measurements, leaves [b, ...].
      noise: s >= 0, a number or [b].
      eta: share of fresh noise where y says little, in [0, 1]; at 1 what is seen in more noise
        than the step's own is not used at all.

    Raises:
      ValueError: if the operator is not linear or has no svd, noise < 0, eta is outside [0, 1], or
        y or x do not have the shapes that the operator says.

    Wang et al. 2023, arXiv:2212.00490, section 3.3 and the appendix's form by singular values.
    """
    svd = spectrum(operator, "ddnm_plus")
    check_noise(noise)
    check_share("eta", eta)

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        z = normal(fold(now.key, SOLVER), state.x)
        bars = tuple(jax.vmap(svd.vt)(part) for part in (est.x0, eps, z))
        level = scales(denoise.process, now.s)
        change, drawn = _ddnm_plus(_seen(svd, y, number(noise)), bars, level, number(eta))
        edited = combine((1.0, est.x0), (1.0, jax.vmap(svd.v)(change)))
        x = combine((level[0], edited), (1.0, jax.vmap(svd.v)(drawn)))
        return State(x), est._replace(x0=edited, var=None)

    return sampler_in_range(Sampler(_plain, step), operator, y, noise)


def _ddnm_plus(seen: _Seen, bars: Any, level: Any, eta: Any) -> tuple[Array, Array]:
    """Sigma A^+ (y - A x_0) and the noise of covariance Phi, both in spectral space."""
    x0, eps, z = bars
    alpha, sigma, eta = (fit(value, x0) for value in (*level, eta))
    width, kept = alpha * seen.width, jnp.sqrt(1 - eta**2) * sigma
    sure = sigma >= width
    lam = jnp.where(sure, 1.0, kept / jnp.where(sure, 1.0, width))
    left = jnp.sqrt(jnp.maximum(sigma**2 - width**2, 0.0))
    fresh = jnp.where(seen.known & sure, left, eta * sigma)
    change = jnp.where(seen.known, lam * (seen.ybar - x0), 0.0)
    return change, fresh * z + jnp.where(seen.known, 0.0, kept) * eps
