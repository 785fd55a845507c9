"""One denoiser in other words: for samples of another process, as noise, score or velocity."""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.denoise.door import Denoiser
from jaxdiff.process import Process, log_snr, scales, time_of
from jaxdiff.process.gaussian import Time, _derivative
from jaxdiff.trees import combine
from jaxdiff.types import NOWHERE, Estimate, PyTree, number


def _rebased(fn: Any, old: Any, new: Any, x: Any, t: Any, now: Any) -> Estimate:
    there = time_of(old, log_snr(new, t))
    (a, s), (a_new, s_new) = scales(old, there), scales(new, t)
    # at equal signal-to-noise (alpha, sigma) are parallel, so their lengths give the scale
    return fn(combine((jnp.hypot(a, s) / jnp.hypot(a_new, s_new), x)), there, now)


def rebase(denoise: Denoiser, process: Process) -> Denoiser:
    """The same denoiser for samples of another process: the frame changes, the knowledge does not.

    E[x_0 | x'_t'] = denoise(c x', t), SNR(t) = SNR'(t'), c = |(alpha, sigma)|/|(alpha', sigma')|.
    Where the new process leaves the noise range of the old one, the nearer end is used.

    Args:
      denoise: a denoiser for samples of the old process.
      process: the new one, whose samples x' and times t' the result takes.

    Returns:
      Denoiser, carrying the new process.

    >>> from jaxdiff import exact
    >>> from jaxdiff.process import edm, rectified_flow
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), edm())
    >>> x0 = rebase(d, rectified_flow())(jnp.ones((1, 1)), 0.5).x0   # x / 2 / (1/4 + 1/4)
    >>> round(float(x0[0, 0]), 4)
    1.0

    Karras et al. 2022, arXiv:2206.00364, section 2 and appendix C.
    """
    fn = Partial(_rebased, denoise.fn, denoise.process, process)
    return Denoiser(process, fn, denoise.memory, denoise.span)


def noise(denoise: Denoiser, x: PyTree, t: Time, now: Any = NOWHERE) -> PyTree:
    """E[eps | x_t] = (x - alpha E[x_0 | x_t]) / sigma.

    Args:
      denoise: the denoiser, guided or not.
      x: samples x_t [b, ...], or a tree of them.
      t: their times, (), [b] or [b, n]; sigma(t) > 0.
      now: the step that this is part of, where the denoiser keeps a memory.

    Returns:
      the tree of x.

    >>> from jaxdiff import exact
    >>> from jaxdiff.process import edm
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), edm())
    >>> float(noise(d, jnp.ones((1, 1)), 1.0)[0, 0])   # sigma x / (1 + sigma^2)
    0.5
    """
    alpha, sigma = scales(denoise.process, t)
    return combine((1 / sigma, x), (-alpha / sigma, denoise(x, t, now).x0))


def score(denoise: Denoiser, x: PyTree, t: Time, now: Any = NOWHERE) -> PyTree:
    """grad log p_t(x) = -(x - alpha E[x_0 | x_t]) / sigma^2.

    Args:
      denoise: the denoiser, guided or not.
      x: samples x_t [b, ...], or a tree of them.
      t: their times, (), [b] or [b, n]; sigma(t) > 0.
      now: the step that this is part of, where the denoiser keeps a memory.

    Returns:
      the tree of x.

    >>> from jaxdiff import exact
    >>> from jaxdiff.process import edm
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), edm())
    >>> float(score(d, jnp.ones((1, 1)), 1.0)[0, 0])   # -x / (1 + sigma^2)
    -0.5

    Efron 2011, doi:10.1198/jasa.2011.tm11181.
    """
    alpha, sigma = scales(denoise.process, t)
    return combine((-1 / sigma**2, x), (alpha / sigma**2, denoise(x, t, now).x0))


def velocity(denoise: Denoiser, x: PyTree, t: Time, now: Any = NOWHERE) -> PyTree:
    """dx/dt of the probability flow: alpha' E[x_0 | x_t] + sigma' E[eps | x_t].

    It equals f x - g^2/2 score.

    Args:
      denoise: the denoiser, guided or not.
      x: samples x_t [b, ...], or a tree of them.
      t: their times, (), [b] or [b, n]; sigma(t) > 0.
      now: the step that this is part of, where the denoiser keeps a memory.

    Returns:
      the tree of x.

    >>> from jaxdiff import exact
    >>> from jaxdiff.process import edm
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), edm())
    >>> float(velocity(d, jnp.ones((1, 1)), 1.0)[0, 0])   # sigma x / (1 + sigma^2), as t = sigma
    0.5

    Song et al. 2021, arXiv:2011.13456, eq. (13).
    """
    process = denoise.process
    _, slope = _derivative(process.sigma, number(t))
    alpha, sigma = scales(process, t)
    x0 = denoise(x, t, now).x0
    on_x = slope / sigma
    on_x0 = _derivative(process.alpha, number(t))[1] - on_x * alpha
    return combine((on_x, x), (on_x0, x0))
