"""Gaussian processes x_t = alpha(t) x_0 + sigma(t) eps: all that follows from two functions of t.

The forward SDE that has these marginals is dx = f(t) x dt + g(t) dw with

    f = d log(alpha) / dt,    g^2 = d(sigma^2)/dt - 2 f sigma^2,

and everything else is written with the log-signal-to-noise ratio lambda = log(alpha^2 / sigma^2),
because differences such as sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2 cancel in single precision
and -sigma_t^2 expm1(lambda_t - lambda_s), which is the same number, does not.

Song et al. 2021, arXiv:2011.13456; Kingma et al. 2021, arXiv:2107.00630; Karras et al. 2022,
arXiv:2206.00364.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from jaxdiff.trees import combine
from jaxdiff.types import PyTree, Scalar, number, record

Time = Num[Array, "*t"] | float | int


@record
class Process:
    """What noise does: x_t = alpha(t) x_0 + sigma(t) eps, t grows with noise.

    `alpha`, `sigma` are functions of t (any shape -> same shape). A network is evaluated on
    [t_min, t_max]; at `t_clean` sigma is exactly 0 and alpha exactly 1: grids end there.
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    t_min: Float[Array, ""]
    t_max: Float[Array, ""]
    t_clean: Float[Array, ""]


def from_scales(
    alpha: Callable[[Array], Array],
    sigma: Callable[[Array], Array],
    t_min: Scalar,
    t_max: Scalar,
    t_clean: Scalar = 0.0,
) -> Process:
    """Build a process from two functions of t.

    Args:
      alpha: signal scale, t -> same shape, decreasing from 1; a module-level function or a
        `jax.tree_util.Partial` of one, so that the process may be an argument under `jit`.
      sigma: noise scale, t -> same shape, increasing.
      t_min: smallest time at which a network is asked.
      t_max: largest time.
      t_clean: the time at which alpha = 1 and sigma = 0.

    Raises:
      ValueError: if t_clean <= t_min < t_max does not hold.

    >>> ve = from_scales(jnp.ones_like, lambda t: t, 0.002, 80.0)
    >>> float(ve.sigma(jnp.float32(3.0)))
    3.0
    """
    ends = [t for t in (t_clean, t_min, t_max) if not isinstance(t, Tracer)]
    if len(ends) == 3 and not float(t_clean) <= float(t_min) < float(t_max):
        raise ValueError(
            f"t_clean={t_clean}, t_min={t_min}, t_max={t_max}: times grow with noise, so "
            "t_clean <= t_min < t_max is needed"
        )
    return Process(
        _callable(alpha), _callable(sigma), number(t_min), number(t_max), number(t_clean)
    )


def _callable(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return fn if isinstance(fn, jax.tree_util.Partial) else jax.tree_util.Partial(fn)


def scales(process: Process, t: Time) -> tuple[Array, Array]:
    """(alpha(t), sigma(t)), each shaped like t.

    >>> from jaxdiff.process import rectified_flow
    >>> [float(a) for a in scales(rectified_flow(), 0.25)]
    [0.75, 0.25]
    """
    t = number(t)
    return process.alpha(t), process.sigma(t)


def _derivative(fn: Callable[[Array], Array], t: Array) -> tuple[Array, Array]:
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))


def drift(process: Process, t: Time) -> Array:
    """f(t) = d log(alpha) / dt of the forward SDE dx = f x dt + g dw, on the open interval.

    Args:
      process: what noise does.
      t: times of any shape, with alpha(t) > 0.

    Returns:
      f, shaped like t, per unit of t.

    >>> from jaxdiff.process import vp_linear
    >>> f = drift(vp_linear(), 0.5)   # -beta(t)/2, beta = .1 + 19.9 t
    >>> round(float(f), 4)
    -5.025
    """
    alpha, slope = _derivative(process.alpha, number(t))
    return slope / alpha


def diffusion2(process: Process, t: Time) -> Array:
    """g(t)^2 = -sigma^2 d lambda/dt = d(sigma^2)/dt - 2 f sigma^2, on the open interval.

    Args:
      process: what noise does.
      t: times of any shape, with alpha(t) > 0.

    Returns:
      g^2, shaped like t, not negative.

    >>> from jaxdiff.process import edm
    >>> float(diffusion2(edm(), 3.0))   # 2 t
    6.0
    """
    t = number(t)
    sigma, slope = _derivative(process.sigma, t)
    return 2 * sigma * (slope - sigma * drift(process, t))


def log_snr(process: Process, t: Time) -> Array:
    """lambda(t) = log(alpha^2 / sigma^2) in nats; +inf where sigma = 0, -inf where alpha = 0.

    >>> from jaxdiff.process import rectified_flow
    >>> [float(lam) for lam in log_snr(rectified_flow(), jnp.array([0.0, 0.5, 1.0]))]
    [inf, 0.0, -inf]
    """
    alpha, sigma = scales(process, t)
    return 2 * (jnp.log(alpha) - jnp.log(sigma))


def time_of(process: Process, lam: Time) -> Array:
    """The time t in [t_min, t_max] at which log_snr(process, t) = lam; the inverse of `log_snr`.

    Bisection (lambda falls with t) and one Newton step, which also carries the derivative
    dt/dlambda. Values outside the range of the process give the nearer end.

    Args:
      process: what noise does.
      lam: log-signal-to-noise ratios in nats, of any shape, infinities included.

    Returns:
      times, shaped like lam: exact to the float's grain in t.

    >>> from jaxdiff.process import edm
    >>> t = time_of(edm(), -2 * jnp.log(5.0))   # lambda = -2 log(sigma)
    >>> round(float(t), 4)
    5.0
    """
    lam = number(lam)
    low, high = (jnp.full_like(lam, end) for end in (process.t_min, process.t_max))

    rounds = jnp.finfo(lam.dtype).nmant + 12
    start = jax.lax.stop_gradient((low, high, process, lam))
    low, high, *_ = jax.lax.fori_loop(0, rounds, _halve, start)
    guess = low + (high - low) / 2
    value, slope = _derivative(lambda t: log_snr(process, t), guess)
    newton = guess - (value - lam) / slope
    usable = jnp.isfinite(newton) & (newton >= process.t_min) & (newton <= process.t_max)
    return jnp.where(usable, newton, guess)


def _halve(_: Any, carry: tuple[Array, Array, Process, Array]) -> Any:
    # a function of the module, not a closure: outside of jit too it is compiled only once
    low, high, process, lam = carry
    middle = low + (high - low) / 2
    noisier = log_snr(process, middle) < lam
    return jnp.where(noisier, low, middle), jnp.where(noisier, middle, high), process, lam


class Kernel(NamedTuple):
    """A Gaussian x_to = shrink * x_from + sqrt(var) z."""

    shrink: Array
    var: Array


def transition(process: Process, s: Time, t: Time) -> Kernel:
    """The forward kernel q(x_t | x_s), s <= t.

    x_t = (alpha_t/alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2) z, the variance
    written as -sigma_t^2 expm1(lambda_t - lambda_s).

    Args:
      process: what noise does.
      s: the earlier times, alpha(s) > 0.
      t: the later times, of the same shape or broadcastable.

    Returns:
      (shrink, var), each shaped like the times.

    >>> from jaxdiff.process import edm
    >>> [float(a) for a in transition(edm(), 3.0, 5.0)]   # 5^2 - 3^2
    [1.0, 16.0]
    """
    (alpha_s, _), (alpha_t, sigma_t) = scales(process, s), scales(process, t)
    return Kernel(alpha_t / alpha_s, sigma_t**2 * _gone(process, s, t))


def _gone(process: Process, s: Time, t: Time) -> Array:
    """1 - SNR_t/SNR_s in [0, 1]: the share of what s knew that is lost at t; 1 from clean data."""
    s, t = number(s), number(t)
    ratio = log_snr(process, t) - log_snr(process, s)
    lost = -jnp.expm1(jnp.minimum(ratio, 0.0))
    return jnp.where(s == t, 0.0, lost)


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(on_x0 x_0 + on_xt x_t, var)."""

    on_x0: Array
    on_xt: Array
    var: Array


def posterior(process: Process, s: Time, t: Time) -> Posterior:
    """The bridge q(x_s | x_t, x_0) for s <= t, exact for every Gaussian process.

    With r = 1 - SNR_t/SNR_s: mean alpha_s r x_0 + (alpha_t/alpha_s)(sigma_s/sigma_t)^2 x_t,
    variance sigma_s^2 r. At s = t_clean it is x_0, with no variance.

    Args:
      process: what noise does.
      s: the earlier times, alpha(s) > 0.
      t: the later times, of the same shape or broadcastable.

    Returns:
      (on_x0, on_xt, var), each shaped like the times.

    Ho et al. 2020, arXiv:2006.11239, eq. (7), in continuous time.

    >>> from jaxdiff.process import rectified_flow
    >>> p = posterior(rectified_flow(), 0.0, 1.0)
    >>> [float(v) for v in p]
    [1.0, 0.0, 0.0]
    """
    (alpha_s, sigma_s), (alpha_t, sigma_t) = scales(process, s), scales(process, t)
    gone = _gone(process, s, t)
    on_xt = jnp.where(gone == 0, 1.0, (alpha_t / alpha_s) * (sigma_s / sigma_t) ** 2)
    return Posterior(alpha_s * gone, on_xt, sigma_s**2 * gone)


def perturb(process: Process, t: Time, x0: PyTree, eps: PyTree) -> PyTree:
    """x_t = alpha(t) x_0 + sigma(t) eps.

    Args:
      process: what noise does.
      t: times, (), [b] or [b, n].
      x0: clean samples [b, ...], an array or a tree of them.
      eps: standard normal noise, like x0.

    Returns:
      noisy samples, like x0.

    Raises:
      ValueError: if the shape of t is no prefix of that of a leaf.

    >>> from jaxdiff.process import rectified_flow
    >>> perturb(rectified_flow(), 0.25, jnp.ones(2), -jnp.ones(2)).tolist()
    [0.5, 0.5]
    """
    alpha, sigma = scales(process, t)
    return combine((alpha, x0), (sigma, eps))
