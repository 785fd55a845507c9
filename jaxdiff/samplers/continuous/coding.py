"""Data to latents and back by the probability flow, and from one kind of data to another.

The flow is an ODE: run upwards it takes a clean x to the noise x_T that it would be sampled from.

    encode: x -> x_e -> x_T,     x_e = alpha_e x + sigma_e E[eps | x_e] at the clean end,

the equation for x_e being the inverse of the last step of `integrate`, x = E[x_0 | x_e]; a round of
its fixed-point iteration shrinks the error by (sigma_e/alpha_e)^2 / Var[x_0]. Two models that share
the law of x_T translate: encode with one, decode with the other (DDIB).

Song et al. 2021, arXiv:2011.13456, section 4.3; Su et al. 2023, arXiv:2203.08382.
"""

from typing import Any

import diffrax
from jaxtyping import Array, Num

from jaxdiff import trees
from jaxdiff.canonical import canonical
from jaxdiff.denoise import Denoiser, velocity
from jaxdiff.process import scales
from jaxdiff.samplers.continuous.family import integrate
from jaxdiff.samplers.continuous.solve import check, ends, last, solve, stepping, upward
from jaxdiff.types import PyTree


def encode(
    denoise: Any,
    x: PyTree,
    *,
    rounds: int = 1,
    solver: Any = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    times: Num[Array, " m"] | None = None,
    t_start: float | Array | None = None,
    t_end: float | Array | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    saveat: diffrax.SaveAt | None = None,
    max_steps: int = 4096,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> Any:
    """The latent x_T of clean data: the probability flow from t_end up to t_start.

    dx = (f x - g^2/2 score) dt. `integrate` with the same ends takes it back to x.

    Args:
      denoise: the Denoiser; guides that need steps raise GridOnly.
      x: clean data, leaves [b, ...].
      rounds: of the iteration for x at t_end, >= 0; 0 takes alpha x, one is enough for smooth data.
      solver: any Diffrax solver; Tsit5.
      controller: step-size controller; PID at 1e-5 unless `times` are given.
      times: decreasing times to step on, as in `integrate`; they are walked upwards.
      t_start: the noisy end, t_max by default.
      t_end: the clean end, by default as in `integrate`.
      adjoint: as in `integrate`.
      saveat: what to keep, in t; then the whole `diffrax.Solution` is returned.
      max_steps: bound on the number of steps.
      progress: a Diffrax progress meter.

    Returns:
      x at t_start, like x; with `saveat` the `diffrax.Solution`.

    Raises:
      TypeError: if denoise or solver is a Sampler or a correction.
      ValueError: if rounds < 0, or `times` do not decrease.

    Song et al. 2021, arXiv:2011.13456, section 4.3.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), 4 * jnp.eye(1)), process.rectified_flow())
    >>> round(float(encode(d, jnp.ones((1, 1)))[0, 0]), 3)
    0.5
    """
    check(denoise, solver)
    if rounds < 0:
        raise ValueError(f"rounds={rounds}: 0 or more")
    high, low = ends(denoise, t_start, t_end, ode=True)
    control = stepping(controller, times, -high, -low, 1e-5)
    control = control if times is None else upward(control)
    field = canonical(lambda x, t: velocity(denoise, x, t))
    solution = solve(
        diffrax.ODETerm(lambda t, x, args: field(x, t)), solver or diffrax.Tsit5(), (low, high),
        _unfinished(denoise, x, low, rounds), control,
        adjoint=adjoint, saveat=saveat, max_steps=max_steps, progress=progress,
    )  # fmt: skip
    return last(solution) if saveat is None else solution


def _unfinished(denoise: Denoiser, x: PyTree, t: Array, rounds: int) -> PyTree:
    """The x_t of which x is the posterior mean."""
    alpha, _ = scales(denoise.process, t)
    found = trees.combine((alpha, x))
    for _ in range(rounds):
        found = trees.combine((1.0, found), (alpha, x), (-alpha, denoise(found, t).x0))
    return found


def ddib(
    source: Any,
    target: Any,
    x: PyTree,
    *,
    rounds: int = 1,
    solver: Any = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    times: Num[Array, " m"] | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int = 4096,
) -> PyTree:
    """Dual diffusion implicit bridge: encode with one model, decode with another.

    x_T = encode(source, x),  x' = integrate(target, (sigma'_T/sigma_T) x_T).

    It is cycle consistent: ddib(target, source) takes x' back to x. Conditions are bound in the
    denoisers, so that one network may serve as both.

    Args:
      source: the Denoiser of what x is.
      target: the Denoiser of what it becomes.
      x: clean data of the source, leaves [b, ...].
      rounds: see `encode`.
      solver: any Diffrax solver; Tsit5.
      controller: step-size controller; PID at 1e-5 unless `times` are given.
      times: decreasing times to step on, in the time of both processes.
      adjoint: as in `integrate`.
      max_steps: bound on the number of steps each way.

    Returns:
      clean data of the target, like x.

    Raises:
      TypeError: if source, target or solver is a Sampler or a correction.
      ValueError: if `times` do not decrease.

    Su et al. 2023, arXiv:2203.08382, algorithm 1.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import exact, process
    >>> flow = process.rectified_flow()
    >>> a = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), flow)
    >>> b = exact.denoiser(exact.gaussian(jnp.full(1, 5.0), 4 * jnp.eye(1)), flow)
    >>> round(float(ddib(a, b, jnp.ones((1, 1)))[0, 0]), 2)   # 5 + 2 x
    7.0
    """
    check(target, solver)
    how = dict(
        solver=solver, controller=controller, times=times, adjoint=adjoint, max_steps=max_steps
    )
    latent = encode(source, x, rounds=rounds, **how)
    (_, wide), (_, wide_there) = (scales(d.process, d.process.t_max) for d in (source, target))
    return integrate(target, trees.combine((wide_there / wide, latent)), **how)
