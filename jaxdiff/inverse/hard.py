"""Hard consistency: x_0 is fitted to the measurement before it is noised again.

    x_0(y) = argmin_x ||y - A(x)||^2, by a few steps from x_0.

ReSample then draws x_s from what x_0(y) and the unconditional step x'_s say together. With v_s the
variance that x'_s is trusted to,

    x_s ~ N(w alpha_s x_0(y) + (1 - w) x'_s, w sigma_s^2),    w = v_s / (v_s + sigma_s^2),
    v_s = gamma (sigma_s/sigma_t)^2 (1 - alpha_t^2/alpha_s^2)

in variance-preserving units: gamma times the variance of an ancestral step, for any process
gamma sigma_s^2 (1 - SNR_t/SNR_s). FlowDPS
moves only part of the way, x_0 + c_t (x_0(y) - x_0), and renews part of the noise,

    x_s = alpha_s x_0' + sigma_s (sqrt(sigma_s) eps + sqrt(1 - sigma_s) z),  c_t = sigma_t.

Song et al. 2023, arXiv:2307.08123, section 3 and algorithm 1. Kim et al. 2025, arXiv:2503.08136,
algorithm 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.guidance import Guide, edited
from jaxdiff.inverse.descent import check_fit, fitted
from jaxdiff.inverse.doors import check_positive
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import correction_in_range, in_range, sampler_in_range
from jaxdiff.process import posterior, scales
from jaxdiff.samplers import after
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine, fold, normal, where
from jaxdiff.types import GUIDE, SOLVER, At, Estimate, Now, PyTree, Sampler, State, number


class _Fit:
    """The edit with a static number of steps; equal by it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fit) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash((_Fit, self.steps))

    def __call__(self, operator: Any, y: Any, rate: Any, est: Estimate, at: At) -> PyTree:
        return fitted(operator, y, est.x0, self.steps, rate)


def hard_consistency(
    operator: Measurement, y: PyTree, *, steps: int, rate: float | Array | None = None
) -> Guide:
    """x_0' = argmin ||y - A(x)||^2 from x_0, by a few steps; no network Jacobian.

    Args:
      operator: A, of one example, linear or not (`latent` for a decoder).
      y: measurements, leaves [b, ...].
      steps: inner steps, static.
      rate: step size of gradient descent, a number or [b]; None for conjugate gradient, which
        needs a linear operator and comes to x_0 + A^+ (y - A x_0), or, for a Nonlinear that has
        one, for its `project`.

    Raises:
      ValueError: if steps < 1, rate <= 0, rate is None for a Nonlinear without `project`, or
        y or x do not have the shapes that the operator says.

    Song et al. 2023, arXiv:2307.08123, section 3.
    """
    check_fit(operator, steps, rate)
    size = None if rate is None else number(rate)
    return in_range(edited(Partial(_Fit(steps), operator, y, size)), operator, y)


def _resampled(
    fit_to: Any, gamma: Any, every: int, now: Now, process: Any, x: PyTree, est: Estimate
) -> PyTree:
    alpha, sigma = scales(process, now.s)
    trusted = gamma * posterior(process, now.s, now.t).var
    total = trusted + sigma**2
    share = jnp.where(total > 0, trusted / jnp.where(total > 0, total, 1.0), 1.0)
    z = normal(fold(now.key, GUIDE), x)
    parts = (share * alpha, fit_to(est.x0)), (1 - share, x), (jnp.sqrt(share) * sigma, z)
    return where((now.i + 1) % every == 0, combine(*parts), x)


def resample(
    operator: Measurement,
    y: PyTree,
    *,
    steps: int,
    rate: float | Array | None = None,
    gamma: float | Array = 40.0,
    every: int = 1,
) -> Callable[[Sampler], Sampler]:
    """ReSample: after a step, x_s is drawn again about the x_0 that fits the measurement.

    A correction: it wraps a sampler, whose own step is unconditional.

    Args:
      operator: A, of one example, linear or not (`latent` for a decoder).
      y: measurements, leaves [b, ...].
      steps: inner steps, static.
      rate: as in `hard_consistency`.
      gamma: > 0, how far the draw forgets x'_s.
      every: act on every so many-th step, static; on all by default.

    Raises:
      ValueError: if steps < 1, rate <= 0, rate is None for a Nonlinear without `project`,
        gamma <= 0, every < 1, or y or x do not have the shapes that the operator says.

    Song et al. 2023, arXiv:2307.08123, section 3 and algorithm 1.
    """
    check_fit(operator, steps, rate)
    check_positive("gamma", gamma)
    check_positive("every", every)

    def fit_to(x0: PyTree) -> PyTree:
        return fitted(operator, y, x0, steps, rate)

    fix = partial(_resampled, fit_to, number(gamma), every)
    return correction_in_range(after(fix), operator, y)


def _plain(x: PyTree) -> State:
    return State(x)


def flowdps(
    operator: Measurement, y: PyTree, *, steps: int = 3, rate: float | Array | None = None
) -> Sampler:
    """FlowDPS: a sampler that fits x_0 in part and renews part of the noise; made for flows.

    The last step is x_0 + sigma_t (x_0(y) - x_0): with few steps it ends short of the measurement.

    Args:
      operator: A, of one example, linear or not (`latent` for a decoder).
      y: measurements, leaves [b, ...].
      steps: inner steps, static.
      rate: as in `hard_consistency`.

    Raises:
      ValueError: if steps < 1, rate <= 0, rate is None for a Nonlinear without `project`, or
        y or x do not have the shapes that the operator says.

    Kim et al. 2025, arXiv:2503.08136, algorithm 1.
    """
    check_fit(operator, steps, rate)

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        (alpha, sigma), (a_t, s_t) = (scales(denoise.process, t) for t in (now.s, now.t))
        # sigma of a flow; elsewhere the same share of noise
        part, old = s_t / (a_t + s_t), sigma / (alpha + sigma)
        target = fitted(operator, y, est.x0, steps, rate)
        x0 = combine((1 - part, est.x0), (part, target))
        z = normal(fold(now.key, SOLVER), state.x)
        noise = (sigma * jnp.sqrt(old), eps), (sigma * jnp.sqrt(1 - old), z)
        return State(combine((alpha, x0), *noise)), est._replace(x0=x0, var=None)

    return sampler_in_range(Sampler(_plain, step), operator, y)
