"""Langevin dynamics at one level of noise: correctors, and annealing through the levels.

At a fixed t the dynamics dx = score dtau + sqrt(2) dw keep p_t. A step of size h, counted in units
of sigma^2, so that it means the same at every level, is

    x <- x - h sigma eps + sqrt(2 h) sigma z,    eps = -sigma score.

What the papers call the step size is, in x,

    NCSN v1    h = epsilon / (2 sigma_L^2)
    NCSN v2    h = epsilon / sigma_L^2
    PC         h = 2 (alpha_t/alpha_s)^2 r^2 |z|^2 / |eps|^2

with sigma_L the smallest level and r the signal-to-noise ratio. The published predictor-corrector
code takes the norms' means over the batch; here they are those of each sample, so that no sample
sees another.

Song & Ermon 2019, arXiv:1907.05600, and 2020, arXiv:2006.09011; Song et al. 2021, arXiv:2011.13456.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from jaxdiff import trees
from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.heun import frame_at, frame_of
from jaxdiff.trees import combine, dots, fold, normal
from jaxdiff.types import CHURN, Estimate, Now, PyTree, Rows, Sampler, Scalar, State, number

Corrector = Callable[[Now, Denoiser, PyTree], tuple[PyTree, Estimate]]
"""corrector(now, denoise, x_t) -> (x_t, the first estimate): it acts at the level now.t."""

Move = Callable[[Now, Denoiser, PyTree, PyTree, PyTree], PyTree]
"""move(now, denoise, x, x_0, z) -> x."""


def langevin(size: Scalar | None = None, *, snr: Scalar | None = None, steps: int = 1) -> Corrector:
    """Steps of Langevin dynamics at one level: x <- x - h sigma eps + sqrt(2 h) sigma z.

    Args:
      size: h itself, in (0, 2), in units of sigma^2. On N(0, S) the steps have the variance
        S / (1 - h sigma^2/(2 S)).
      snr: r > 0, the ratio of the norms of step and noise, in place of `size`:
        h = 2 (alpha_t/alpha_s)^2 r^2 |z|^2 / |eps|^2, norms per sample, and at most 1, so that in
        few dimensions a small score makes no wild jump. Published: 0.16 (VE), 0.01 (VP, sub-VP).
      steps: how many, at least 1, one evaluation each.

    Raises:
      ValueError: if not exactly one of size and snr is given, or one is out of its range.

    Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5.

    >>> from jaxdiff import samplers
    >>> pc = samplers.corrected(langevin(snr=0.16))(samplers.ddpm())
    """
    if (size is None) == (snr is None):
        raise ValueError("langevin: give exactly one of size and snr")
    _check("size", size, "(0, 2)", lambda h: 0 < h < 2)
    _check("snr", snr, "(0, inf)", lambda r: 0 < r < math.inf)

    def move(now: Now, denoise: Denoiser, x: PyTree, x0: PyTree, z: PyTree) -> PyTree:
        eps = noise_of(denoise, x, now.t, x0)
        h = number(size) if snr is None else _by_snr(number(snr), now, denoise.process, eps, z)
        _, sigma = scales(denoise.process, now.t)
        return combine((1.0, x), (sigma, combine((-h, eps), (jnp.sqrt(2 * h), z))))

    return _repeated(move, steps)


def renewal(share: Scalar = 0.01, *, steps: int = 1) -> Corrector:
    """Renew a share of the noise: x <- alpha x_0 + sqrt(1 - share) sigma eps + sqrt(share) sigma z.

    Langevin's steps with x_0 held, solved exactly: share = 1 - exp(-2 h), stable at any size.

    Args:
      share: in (0, 1], of the variance of the noise.
      steps: how many, at least 1, one evaluation each.

    Raises:
      ValueError: if one is out of its range.
    """
    _check("share", share, "(0, 1]", lambda d: 0 < d <= 1)

    def move(now: Now, denoise: Denoiser, x: PyTree, x0: PyTree, z: PyTree) -> PyTree:
        alpha, sigma = scales(denoise.process, now.t)
        kept, new = jnp.sqrt(1 - number(share)), jnp.sqrt(number(share))
        return combine(((1 - kept) * alpha, x0), (kept, x), (new * sigma, z))

    return _repeated(move, steps)


def _check(name: str, value: Any, span: str, inside: Callable[[float], bool]) -> None:
    if isinstance(value, int | float) and not inside(value):
        raise ValueError(f"{name}={value}: give a number in {span}")


def _by_snr(r: Array, now: Now, process: Process, eps: PyTree, z: PyTree) -> Array:
    (alpha, _), (alpha_s, _) = scales(process, now.t), scales(process, now.s)
    share = (alpha / alpha_s) ** 2
    bottom = dots(eps, eps)
    norms = dots(z, z) / jnp.where(bottom == 0, 1.0, bottom)
    norms = norms.reshape(norms.shape + (1,) * (share.ndim - 1))
    return jnp.minimum(2 * share * r**2 * norms, 1.0)


def _repeated(move: Move, steps: int) -> Corrector:
    if steps < 1:
        raise ValueError(f"steps={steps}: a corrector takes at least 1")

    def correct(now: Now, denoise: Denoiser, x: PyTree) -> tuple[PyTree, Estimate]:
        def once(x: PyTree, j: Any) -> tuple[PyTree, Estimate]:
            est = denoise(x, now.t, now)
            z = normal(fold(fold(now.key, CHURN), j), x)
            return move(now, denoise, x, est.x0, z), est

        x, first = once(x, 0)
        if steps > 1:
            x, _ = scan(lambda x, j: (once(x, j)[0], None), x, jnp.arange(1, steps))
        return x, first

    return correct


def annealed(corrector: Corrector) -> Sampler:
    """Annealed Langevin dynamics: correct at t, then take the sample as one of the level s.

    At sigma_s = 0 comes the denoising step of NCSN v2, x_0(x_t). On rows that `stay` at their
    levels there is none, and the noise of the last level remains, as in NCSN v1.

    Args:
      corrector: `langevin(size, steps=T)`; T = 100 in NCSN v1, 3 to 5 in v2, see `ncsn_size`.

    Song & Ermon 2019, arXiv:1907.05600, algorithm 1; 2020, arXiv:2006.09011, algorithm 1.

    >>> annealed(langevin(0.1, steps=5)).init(jnp.zeros((2, 3))).hist
    ()
    """

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        x, est = corrector(now, denoise, state.x)
        c = frame_of(denoise.process)  # x / scale is what stays: x itself where alpha is 1
        (scale, _), (scale_s, tau_s) = (frame_at(denoise.process, c, t) for t in (now.t, now.s))

        def clean() -> PyTree:
            return denoise(x, now.t, now).x0

        def carried() -> PyTree:
            return combine((scale_s / scale, x))

        if jnp.ndim(tau_s) == 0:
            return State(jax.lax.cond(tau_s == 0, clean, carried)), est
        return State(trees.where(tau_s == 0, clean(), carried())), est

    return Sampler(State, step)


def stay(ts: Num[Array, "n *b"]) -> Rows:
    """Rows that walk nowhere: a step at each of the times, t -> t.

    `stay(jnp.full(n, t))` is Langevin dynamics at one level, with `annealed`.

    >>> stay(jnp.full(3, 0.5)).s.tolist()
    [0.5, 0.5, 0.5]
    """
    count = jnp.arange(ts.shape[0])
    return Rows(ts, ts, None, count, count)


def ncsn_size(ratio: float, steps: int) -> float:
    """NCSN v2's step size for geometric levels: the h whose steps fit the next level best.

    A point with noise gamma sigma has, after T steps at the level sigma, the variance sigma^2 times

        (1 - h)^(2T) (gamma^2 - q) + q,    q = 1 / (1 - h/2),

    never below 1; h makes it least.

    Args:
      ratio: gamma > 1, of one level to the next.
      steps: T, at least 1.

    Returns:
      h in units of sigma^2; the papers' epsilon is h sigma_L^2.

    Raises:
      ValueError: if the ratio is not above 1, or steps < 1.

    Song & Ermon 2020, arXiv:2006.09011, proposition 3 and technique 4.

    >>> round(ncsn_size((50 / 0.01) ** (1 / 231), 5) * 0.01**2, 7)   # CIFAR-10
    6.2e-06
    """
    if not ratio > 1 or steps < 1:
        raise ValueError(f"ratio={ratio}, steps={steps}: levels fall, and steps >= 1 are needed")

    def left(log_h: float) -> float:
        h = math.exp(log_h)
        q = 1 / (1 - h / 2)
        return (1 - h) ** (2 * steps) * (ratio**2 - q) + q

    low, high = math.log(1e-9), 0.0
    for _ in range(100):
        third = (high - low) / 3
        if left(low + third) < left(high - third):
            high -= third
        else:
            low += third
    return math.exp((low + high) / 2)
