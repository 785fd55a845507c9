"""The optimal variance of a reverse step, from the variance of x_0 given x_t.

DDIM's step draws from q(x_s | x_t, x_0) = N(alpha_s x_0 + k eps, lam^2), k^2 = sigma_s^2 - lam^2,
with the estimate in the place of x_0. What x_0 still hides given x_t belongs to the step too:

    Var[x_s | x_t] = lam^2 + c^2 Var[x_0 | x_t],    c = alpha_s - k alpha_t/sigma_t.

With it, Gaussian data keep their marginals on any grid, however coarse. Var[x_0 | x_t] is
`Estimate.var`: exact denoisers know it, and wrappers give it to others, with
r^2 = sigma_t^2/alpha_t^2,

    analytic_variance    r^2 (1 - Gamma_t),  Gamma_t = E |eps_hat|^2 / d    one number a time
    sn_variance          r^2 (E[eps^2 | x_t] - eps_hat^2)                   a second head
    npr_variance         r^2 E[(eps - eps_hat)^2 | x_t]                     a second head

the last being right for an imperfect mean as well. All lie in [0, ((high - low)/2)^2] for data in
[low, high], the denoiser's `span`.

Bao et al. 2022, arXiv:2201.06503 (Analytic-DPM) and arXiv:2206.07309 (SN-DPM, NPR-DPM).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Key, Num

from jaxdiff import trees
from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.process import perturb, posterior, scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.trees import combine, dots, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, Scalar, State, number

Head = Callable[[PyTree, Any], PyTree]
"""head(x_t [b, ...], t) -> like x."""


def analytic(eta: Scalar = 1.0, *, last: bool = False, calm: Scalar | None = None) -> Sampler:
    """DDIM(eta) with the optimal variance; eta = 1 is Analytic-DDPM, 0 Analytic-DDIM.

    Args:
      eta: in [0, 1].
      last: draw in the step to clean data too, x_0 + sqrt(Var[x_0 | x_t]) z; published: no.
      calm: largest mean |noise| of the step before the last, in units of the data. Published: two
        pixels, 4/255 of data in [-1, 1].

    Raises:
      ValueError: if eta is outside [0, 1]; at the first step, if the denoiser gives no variance.

    Bao et al. 2022, arXiv:2201.06503, theorem 1; arXiv:2206.07309, theorem 1.

    >>> analytic().init(jnp.zeros((2, 3))).hist
    ()
    """
    if isinstance(eta, int | float) and not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: 0 is DDIM, 1 DDPM; give eta in [0, 1]")

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        if est.var is None:
            raise ValueError(
                "analytic: this denoiser gives no Var[x_0 | x_t]; wrap it in analytic_variance, "
                "sn_variance or npr_variance"
            )
        (alpha, sigma), (alpha_s, sigma_s) = (scales(denoise.process, t) for t in (now.t, now.s))
        lam2 = number(eta) ** 2 * posterior(denoise.process, now.s, now.t).var
        share = (alpha * sigma_s / (alpha_s * sigma)) ** 2  # SNR_t/SNR_s
        k = sigma_s * jnp.sqrt((1 - number(eta) ** 2) + number(eta) ** 2 * share)
        c = alpha_s - k * alpha / sigma
        ones = jax.tree.map(jnp.ones_like, state.x)
        var = combine((lam2, ones), (c**2, est.var))
        std = jax.tree.map(lambda leaf: jnp.sqrt(jnp.maximum(leaf, 0.0)), var)
        if calm is not None:
            most = number(calm) * math.sqrt(math.pi / 2)  # of a deviation s, E|s z| = s sqrt(2/pi)
            most = jnp.where(now.i == now.n - 2, most, jnp.inf)
            std = jax.tree.map(lambda leaf: jnp.minimum(leaf, most), std)
        drawn = jnp.where(sigma_s == 0, float(last), 1.0)
        z = jax.tree.map(jnp.multiply, std, normal(fold(now.key, SOLVER), state.x))
        eps = noise_of(denoise, state.x, now.t, est.x0)
        return State(combine((alpha_s, est.x0), (k, eps), (drawn, z))), est

    return Sampler(State, step)


def noise_power(
    keys: Key[Array, " b"], denoise: Denoiser, x0: PyTree, times: Num[Array, " m"]
) -> Array:
    """Gamma_t = E |eps_hat(x_t, t)|^2 / d, estimated from data.

    It multiplies sigma^2/alpha^2 (1 - Gamma): take many samples, more where alpha is small. Means
    of several batches are means of what this returns.

    Args:
      keys: [b], one per sample.
      denoise: the denoiser.
      x0: data [b, ...].
      times: [m], with sigma > 0.

    Returns:
      [m], for `analytic_variance`.

    Bao et al. 2022, arXiv:2201.06503, eq. (8), with Gamma here = sigma^2 Gamma there.

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> keys, x0 = trees.keys_for(jax.random.key(0), jnp.arange(9)), jnp.zeros((9, 1))
    >>> noise_power(keys, d, x0, jnp.array([1.0, 2.0])).shape
    (2,)
    """
    count = sum(leaf[0].size for leaf in jax.tree.leaves(x0))

    def at(time: tuple[Array, Array]) -> Array:
        t, number_of = time
        x = perturb(denoise.process, t, x0, normal(fold(keys, number_of), x0))
        eps = noise_of(denoise, x, t, denoise(x, t).x0)
        return jnp.mean(dots(eps, eps)) / count

    everywhere = (times, jnp.arange(times.shape[0]))
    return scan(lambda none, time: (none, at(time)), None, everywhere)[1]


def analytic_variance(
    times: Num[Array, " m"], power: Num[Array, " m"]
) -> Callable[[Denoiser], Denoiser]:
    """Give a denoiser one variance a time, r^2 (1 - Gamma_t), Gamma linear between the times.

    Args:
      times: [m], in any order.
      power: Gamma at the times, of `noise_power`.

    Where alpha = 0 the variance is its bound, or 0 if the denoiser has no span.

    Bao et al. 2022, arXiv:2201.06503, theorem 1 and 2.
    """
    order = jnp.argsort(times)
    return _with(Partial(_unexplained, number(times)[order], number(power)[order]))


def sn_variance(head: Head) -> Callable[[Denoiser], Denoiser]:
    """Give a denoiser the variance r^2 (E[eps^2 | x_t] - eps_hat^2).

    Args:
      head: `head(x, t) -> E[eps^2 | x_t]` like x, a module-level function or a `Partial`.

    Bao et al. 2022, arXiv:2206.07309, theorem 1 (SN-DPM).
    """
    return _with(Partial(_beyond_the_mean, as_partial(head)))


def npr_variance(head: Head) -> Callable[[Denoiser], Denoiser]:
    """Give a denoiser the variance r^2 E[(eps - eps_hat)^2 | x_t], right for an imperfect mean.

    Args:
      head: `head(x, t) -> E[(eps - eps_hat)^2 | x_t]` like x, a module-level function or a
        `Partial`.

    Bao et al. 2022, arXiv:2206.07309, theorem 3 (NPR-DPM).
    """
    return _with(Partial(_residual, as_partial(head)))


def as_partial(fn: Any) -> Partial:
    return fn if isinstance(fn, Partial) else Partial(fn)


def _with(unknown: Partial) -> Callable[[Denoiser], Denoiser]:
    def wrapped(denoise: Denoiser) -> Denoiser:
        fn = Partial(_varied, unknown, denoise)
        return Denoiser(denoise.process, fn, denoise.memory, denoise.span)

    return wrapped


def _unexplained(times: Array, power: Array, x: PyTree, t: Any, eps: PyTree) -> PyTree:
    ones = jax.tree.map(jnp.ones_like, x)
    return combine((1 - jnp.interp(number(t), times, power), ones))


def _beyond_the_mean(head: Head, x: PyTree, t: Any, eps: PyTree) -> PyTree:
    return jax.tree.map(lambda square, mean: square - mean**2, head(x, t), eps)


def _residual(head: Head, x: PyTree, t: Any, eps: PyTree) -> PyTree:
    return head(x, t)


def _varied(unknown: Any, denoise: Denoiser, x: PyTree, t: Any, now: Any) -> Estimate:
    """The estimate of `denoise` with the variance of the noise, turned into that of x_0."""
    est = denoise(x, t, now)
    alpha, sigma = scales(denoise.process, t)
    span = denoise.span
    most = jnp.inf if span is None else ((span[1] - span[0]) / 2) ** 2
    noise = unknown(x, t, noise_of(denoise, x, t, est.x0))
    var = combine(((sigma / jnp.where(alpha == 0, 1.0, alpha)) ** 2, noise))
    blind = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.0 if span is None else most), var)
    var = trees.where(alpha == 0, blind, var)
    return Estimate(est.x0, jax.tree.map(lambda leaf: jnp.clip(leaf, 0.0, most), var), est.aux)
