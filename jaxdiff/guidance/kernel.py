"""Guides: Denoiser -> Denoiser, on one vector-Jacobian product.

By Tweedie's formula a change of the score by grad_x log p(y | x_t) changes the posterior mean by
sigma^2/alpha times it. If log p(y | x_t) is approximated through x_0(x_t), with cotangent c at x_0,

    x_0' = x_0 + (sigma^2/alpha) J^T c,    J = d x_0 / d x_t,

and J^T c is one backward pass (Chung et al. 2023, arXiv:2209.14687, eq. (10); Song et al. 2023,
PiGDM, eq. (8)). What changes x_0 without the network's Jacobian is an edit.

How guides combine, for log-likelihoods of measurements y_1, y_2 of one x_0:
`chain` conditions the already conditioned denoiser, which is right, at 2^k passes for k pulls;
`add` sums cotangents under one pass, which treats them as if y_1 and y_2 were independent given
x_t: right for stylistic losses, wrong for measurements; stacking the operators is right, in one
pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.denoise import Denoiser
from jaxdiff.process import scales
from jaxdiff.trees import combine
from jaxdiff.types import At, Edit, Estimate, Pull, PyTree

Guide = Callable[[Denoiser], Denoiser]


def as_partial(fn: Callable[..., Any]) -> Partial:
    return fn if isinstance(fn, Partial) else Partial(fn)


def _pulled(fn: Any, pull: Any, process: Any, x: Any, t: Any, now: Any) -> Estimate:
    def ahead(x: PyTree) -> tuple[PyTree, Estimate]:
        est = fn(x, t, now)
        return est.x0, est

    x0, backward, est = jax.vjp(ahead, x, has_aux=True)
    alpha, sigma = scales(process, t)
    at = At(x, t, alpha, sigma, lambda cotangent: backward(cotangent)[0], now)
    gain = tweedie_gain(at)
    return est._replace(x0=combine((1.0, x0), (gain, at.vjp(pull(est, at)))), var=None)


def tweedie_gain(at: At) -> Any:
    """sigma^2 / alpha, and 0 where alpha = 0: there x_t knows nothing of x_0."""
    known = at.alpha > 0
    return jnp.where(known, at.sigma**2 / jnp.where(known, at.alpha, 1.0), 0.0)


def pulled(pull: Pull) -> Guide:
    """Guide by a cotangent at x_0: x_0' = x_0 + (sigma^2/alpha) J^T pull(est, at).

    Args:
      pull: `pull(est, at) -> cotangent` shaped like x_0, the gradient of a log-likelihood with
        respect to x_0; a `Partial` of a module-level function if the guided denoiser is to be an
        argument under `jit`.

    Returns:
      a Guide. Its estimate has no variance.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> uphill = pulled(lambda est, at: jnp.ones_like(est.x0))
    >>> float(uphill(d)(jnp.ones((1, 1)), 1.0).x0[0, 0])   # 1/2 + sigma^2 * 1/2
    1.0
    """
    pull = as_partial(pull)

    def guide(denoise: Denoiser) -> Denoiser:
        fn = Partial(_pulled, denoise.fn, pull, denoise.process)
        return Denoiser(denoise.process, fn, denoise.memory, denoise.span)

    return guide


def _edited(fn: Any, edit: Any, process: Any, x: Any, t: Any, now: Any) -> Estimate:
    est = fn(x, t, now)
    alpha, sigma = scales(process, t)
    at = At(x, t, alpha, sigma, no_jacobian, now)
    return est._replace(x0=edit(est, at), var=None)


def no_jacobian(cotangent: PyTree) -> PyTree:
    raise TypeError("at.vjp is not to be had in an edit: make the guide with `pulled`")


def edited(edit: Edit) -> Guide:
    """Guide by replacing x_0: x_0' = edit(est, at). No Jacobian of the network is taken.

    Args:
      edit: `edit(est, at) -> x_0`; a `Partial` if the guided denoiser is to be a jit argument.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> clip = edited(lambda est, at: jnp.clip(est.x0, -0.25, 0.25))
    >>> float(clip(d)(jnp.ones((1, 1)), 1.0).x0[0, 0])
    0.25
    """
    edit = as_partial(edit)

    def guide(denoise: Denoiser) -> Denoiser:
        fn = Partial(_edited, denoise.fn, edit, denoise.process)
        return Denoiser(denoise.process, fn, denoise.memory, denoise.span)

    return guide


def chain(*guides: Guide) -> Guide:
    """Apply guides in order: chain(g1, g2)(d) = g2(g1(d)).

    Each guide conditions the denoiser that the ones before made, so measurements combine exactly
    where each guide is exact. k pulls cost 2^k passes; stack the operators where you can.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> double, raised = edited(lambda e, at: 2 * e.x0), edited(lambda e, at: e.x0 + 1)
    >>> float(chain(double, raised)(d)(jnp.ones((1, 1)), 1.0).x0[0, 0])
    2.0
    """

    def guide(denoise: Denoiser) -> Denoiser:
        for one in guides:
            denoise = one(denoise)
        return denoise

    return guide


def _added(pulls: Any, est: Estimate, at: At) -> PyTree:
    return combine(*[(1.0, pull(est, at)) for pull in pulls])


def add(*pulls: Pull) -> Pull:
    """The sum of several pulls under ONE pass: a product of experts, for stylistic losses.

    For two measurements of one image it is wrong, since p(y1, y2 | x_t) is no product; use `chain`,
    or stack the operators.

    Raises:
      ValueError: if no pull is given.
    """
    if not pulls:
        raise ValueError("add() of nothing: give at least one pull")
    return Partial(_added, tuple(map(as_partial, pulls)))
