"""The exact log-likelihood of the probability flow, by the change of variables.

Along the flow dx/dt = v(x, t) a density changes as d log p_t(x(t))/dt = -div v. With

    v = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) E[x_0 | x],

the first term's divergence, d sigma'/sigma, integrates to d log(sigma_T/sigma_e) without error, and
from the clean end e to the noisy end T

    log p_e(x_e) = log p_T(x_T) + d log(sigma_T/sigma_e)
                   + int_e^T (alpha' - alpha sigma'/sigma) tr (d E[x_0 | x]/dx) dt.

Which number it is. x_e = alpha_e x, and d log alpha_e is added: what is returned is the density at
x of x_e/alpha_e, which is the model's data blurred by N(0, (sigma_e/alpha_e)^2 I). It does not
depend on the frame of the process. For a smooth density the blur costs O((sigma_e/alpha_e)^2);
data of no density (points, bytes) have none without it. The last step of `integrate`,
E[x_0 | x_e], is not part of it.

Song et al. 2021, arXiv:2011.13456, eq. (39); Grathwohl et al. 2019, arXiv:1810.01367.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxdiff import trees
from jaxdiff.canonical import canonical
from jaxdiff.denoise import Denoiser
from jaxdiff.process import scales
from jaxdiff.process.gaussian import _derivative
from jaxdiff.samplers.continuous.solve import (
    check,
    check_keys,
    ends,
    last,
    solve,
    stepping,
    upward,
)
from jaxdiff.samplers.continuous.trace import Directions, Probe, basis, drawn, traced
from jaxdiff.types import PyTree


def log_likelihood(
    denoise: Any,
    x: PyTree,
    *,
    keys: Array | None = None,
    probes: int = 1,
    probe: Probe = jax.random.rademacher,
    chunk: int = 16,
    prior: Callable[[PyTree], Array] | None = None,
    solver: Any = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    times: Num[Array, " m"] | None = None,
    t_start: float | Array | None = None,
    t_end: float | Array | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int = 4096,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> Float[Array, " b"]:
    """log p(x) in nats, p the data of the model blurred by (sigma/alpha)(t_end).

    log p(x) = log p_T(x_T) + d log(alpha_e sigma_T/sigma_e)
               + int_e^T (alpha' - alpha sigma'/sigma) tr J dt,   J the Jacobian of the denoiser.

    Without keys the trace is exact: d products with J at each evaluation. With keys it is
    Hutchinson's, with the same probes all along the path: log p is then without bias (but not p),
    and for Rademacher probes exact where J is diagonal.

    The prior. The default, N(0, sigma(t_max)^2 I), is what samplers draw x_T from, so that p is the
    density of what the flow makes of it: that of the model. It is the data's own law at t_max only
    where alpha(t_max) = 0; else they differ by about alpha x_0 x_T/sigma^2 nats, 1e-2 for data of
    size 1 at sigma = 80. To ask for the data's density give `prior`, the log-density at t_start.

    Args:
      denoise: the Denoiser, its samples independent of one another; guides that need steps raise
        GridOnly.
      x: clean data, leaves [b, ...].
      keys: None for the exact trace; one key per sample [b] for Hutchinson's.
      probes: with keys, how many an evaluation, >= 1.
      probe: with keys, their law: `jax.random.rademacher` (the least variance) or
        `jax.random.normal`, or any (key, shape, dtype) -> mean 0, variance 1.
      chunk: how many directions are differentiated at a time, >= 1.
      prior: x at t_start -> log-density [b] there, in nats.
      solver: any Diffrax solver; Tsit5.
      controller: step-size controller; PID at 1e-6 unless `times` are given.
      times: decreasing times to step on, as in `integrate`; they are walked upwards.
      t_start: the noisy end, t_max by default.
      t_end: the clean end, by default as in `integrate`.
      adjoint: as in `integrate`.
      max_steps: bound on the number of steps.
      progress: a Diffrax progress meter.

    Returns:
      log p(x) [b].

    Raises:
      TypeError: if denoise or solver is a Sampler or a correction, or keys are not typed, [b].
      ValueError: if probes < 1 or chunk < 1, or `times` do not decrease.

    Song et al. 2021, arXiv:2011.13456, eq. (39).

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(2), jnp.eye(2)), process.rectified_flow())
    >>> round(float(log_likelihood(d, jnp.zeros((1, 2)))[0]), 3)   # -log(2 pi)
    -1.838
    """
    check(denoise, solver)
    _check_counts(probes, chunk)
    high, low = ends(denoise, t_start, t_end, ode=True)
    control = upward(stepping(controller, times, -high, -low, 1e-6))
    if keys is None:
        directions = basis(x, chunk)
    else:
        check_keys(keys, x)
        directions = drawn(keys, x, probes, probe, chunk)
    alpha, _ = scales(denoise.process, low)
    first = (trees.combine((alpha, x)), jnp.zeros(trees.size(x), jax.tree.leaves(x)[0].dtype))
    solution = solve(
        diffrax.ODETerm(_field(denoise, directions)), solver or diffrax.Tsit5(), (low, high),
        first, control, adjoint=adjoint, max_steps=max_steps, progress=progress,
    )  # fmt: skip
    noisy, shrunk = last(solution)
    end = _standard(noisy, scales(denoise.process, high)[1]) if prior is None else prior(noisy)
    return end + shrunk + _scale(denoise, x, high, low)


def _check_counts(probes: int, chunk: int) -> None:
    for name, value in (("probes", probes), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name}={value}: at least one direction")


def _field(denoise: Denoiser, directions: Directions) -> Any:
    """(x, l) -> (v, (alpha' - alpha sigma'/sigma) tr J)."""
    process = denoise.process

    def field(x: PyTree, t: Array) -> tuple[PyTree, Array]:
        (alpha, alpha_slope), (sigma, sigma_slope) = (
            _derivative(fn, t) for fn in (process.alpha, process.sigma)
        )
        on_x = sigma_slope / sigma
        on_x0 = alpha_slope - alpha * on_x
        x0, trace = traced(lambda x: denoise(x, t).x0, x, directions)
        return trees.combine((on_x, x), (on_x0, x0)), on_x0 * trace

    whole = canonical(field)
    return lambda t, y, args: whole(y[0], t)


def _dimensions(x: PyTree) -> int:
    return sum(leaf[0].size for leaf in jax.tree.leaves(x))


def _standard(x: PyTree, sigma: Array) -> Array:
    """log N(x; 0, sigma^2 I), [b]."""
    whole = _dimensions(x) * jnp.log(2 * jnp.pi * sigma**2)
    return -(trees.dots(x, x) / sigma**2 + whole) / 2


def _scale(denoise: Denoiser, x: PyTree, high: Array, low: Array) -> Array:
    (_, sigma_high), (alpha, sigma) = scales(denoise.process, high), scales(denoise.process, low)
    return _dimensions(x) * (jnp.log(sigma_high / sigma) + jnp.log(alpha))
