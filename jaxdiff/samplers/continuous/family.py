"""The probability flow, the reverse SDE, and the whole family between and beyond.

For any s(t) >= 0 the reverse-time equation

    dx = (f x - (g^2 + s^2)/2 score) dt + s dw

has the marginals of the process: s = 0 is the probability-flow ODE, s = g the reverse SDE. With
score = -eps/sigma and f, g^2 written by alpha and sigma it reads

    dx = (alpha' x_0 + (sigma' + s^2/(2 sigma)) eps) dt + s dw,

x_0 and eps the posterior means, so the drift is regular wherever s is. It is run from t_start down
to t_end and finished by one exact step to clean data, x = E[x_0 | x_{t_end}].

Song et al. 2021, arXiv:2011.13456, eq. (6) and (13); Huang et al. 2021, arXiv:2106.02808;
Karras et al. 2022, arXiv:2206.00364, eq. (6).
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jax.core import Tracer
from jaxtyping import Array, Num

from jaxdiff import trees
from jaxdiff.canonical import canonical
from jaxdiff.denoise import Denoiser, velocity
from jaxdiff.process import Process, diffusion2
from jaxdiff.process.gaussian import _derivative
from jaxdiff.samplers.continuous.paths import PerSample, brownian
from jaxdiff.samplers.continuous.solve import (
    check,
    check_keys,
    ends,
    last,
    solve,
    stepping,
)
from jaxdiff.types import PyTree, Scalar, number

Spread = Callable[[Process, Array], Array]


def integrate(
    denoise: Any,
    x: PyTree,
    *,
    keys: Array | None = None,
    eta: Scalar | Spread | None = None,
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
    """Integrate the probability flow, or with `keys` an SDE of the same marginals, to data.

    dx = (f x - (g^2 + s^2)/2 score) dt + s dw,  s = eta g.

    The adjoint. The default checkpoints recursively: gradients with respect to x and the parameters
    are exact for the steps taken, in memory that grows like the root of their number. Where nobody
    differentiates, it runs the same loop as any other adjoint: there is nothing to gain by another.
    For `jax.jvp`, which it does not take, give `diffrax.ForwardMode()`.

    The path. On given `times` each increment is drawn afresh, per sample: exact, and the cheapest
    there is. Without `times` Brownian motion is a virtual tree, correct for steps that are refused
    and an order of magnitude dearer; in single precision it wants a narrow range of t, so `rebase`
    a denoiser of edm (t up to 80) to a rectified flow.

    The clock is the process's. A table of betas has a kink at each of its times, which costs
    solvers their order and leaves errors of about 1e-3: `rebase` to `trig_flow` is smooth.

    An adaptive step size is shared by the batch, and is that of the sample which needs the
    smallest: samples agree across batch sizes to the tolerance only. Implicit solvers (Kvaerno5)
    solve for the whole batch at once; by default with a dense Jacobian of (b d)^2 numbers. For more
    than a few hundred give a root finder without matrices, e.g. `optimistix.Newton(rtol=1e-5,
    atol=1e-6, linear_solver=lineax.GMRES(rtol=1e-6, atol=1e-7))`; the chord methods keep their
    Jacobian and need it dense.

    Args:
      denoise: the Denoiser; guides that need steps raise GridOnly.
      x: x at t_start, leaves [b, ...].
      keys: None for the ODE; one key per sample [b] for the SDE.
      eta: with keys, how much noise: a number >= 0, the multiple of g (0 the probability flow, 1,
        the default, the reverse SDE), or s itself, a function (process, t) -> s.
      solver: any Diffrax solver; Tsit5 for the ODE, ShARK for the SDE (its noise is additive).
      controller: step-size controller; PID at 1e-5 for the ODE unless `times` are given.
      times: decreasing times to step on, instead of a controller. The first and last are moved to
        t_start and t_end, and times outside are spread over the step next to that end.
      t_start: t_max by default; for the SDE, where alpha(t_max) = 0, the time of log-SNR -12.
      t_end: t_min by default, or where the log-SNR is 12 if the process may be asked at sigma = 0.
      adjoint: how to differentiate, `diffrax.RecursiveCheckpointAdjoint()` by default.
      saveat: what to keep, in r = -t; then the whole `diffrax.Solution` is returned, unfinished.
      max_steps: bound on the number of steps.
      progress: a Diffrax progress meter, e.g. `diffrax.TextProgressMeter()`.

    Returns:
      E[x_0 | x] at the end of the path, like x; with `saveat` the `diffrax.Solution`.

    Raises:
      TypeError: if denoise or solver is a Sampler or a correction, or keys are not typed, [b].
      ValueError: if `times` do not decrease; if the SDE has neither times nor a controller; if
        eta < 0, or eta without keys.

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> x = integrate(d, 80.0 * jnp.ones((1, 1)))
    >>> round(float(x[0, 0]), 3)   # 80 / sqrt(1 + 80^2)
    1.0
    """
    _check_eta(eta, keys)
    ode = keys is None
    check(denoise, solver)
    if not ode:
        check_keys(keys, x)
    high, low = ends(denoise, t_start, t_end, ode)
    control = stepping(controller, times, -high, -low, 1e-5 if ode else None)
    if ode:
        solver = solver or diffrax.Tsit5()
        terms: Any = diffrax.ODETerm(_flow(denoise))
    else:
        solver = solver or diffrax.ShARK()
        path = brownian(keys, x, -high, -low, solver, times is None)
        terms = _noisy(denoise, _spread(1.0 if eta is None else eta), path)
    solution = solve(
        terms, solver, (-high, -low), x, control,
        adjoint=adjoint, saveat=saveat, max_steps=max_steps, progress=progress,
    )  # fmt: skip
    if saveat is not None:
        return solution
    return canonical(lambda x: denoise(x, low).x0)(last(solution))


def _check_eta(eta: Any, keys: Any) -> None:
    if eta is None:
        return
    if keys is None:
        raise ValueError("eta says how much noise the SDE has: give keys= too, or leave it out")
    if not callable(eta) and not isinstance(eta, Tracer) and not float(eta) >= 0:
        raise ValueError(f"eta={float(eta)}: a multiple of g, 0 (the ODE) or more")


def _spread(eta: Any) -> Spread:
    def multiple(process: Process, t: Array) -> Array:
        return number(eta) * jnp.sqrt(diffusion2(process, t))

    return eta if callable(eta) else multiple  # pyright: ignore[reportReturnType]


def _flow(denoise: Denoiser) -> Any:
    field = canonical(lambda x, t: velocity(denoise, x, t))
    return lambda r, x, args: jax.tree.map(jnp.negative, field(x, -r))


def _noisy(denoise: Denoiser, spread: Spread, path: PerSample) -> diffrax.MultiTerm:
    process = denoise.process

    def uphill(x: PyTree, t: Array) -> PyTree:
        (alpha, alpha_slope), (sigma, sigma_slope) = (
            _derivative(fn, t) for fn in (process.alpha, process.sigma)
        )
        on_x = (sigma_slope + spread(process, t) ** 2 / (2 * sigma)) / sigma
        return trees.combine((-on_x, x), (alpha * on_x - alpha_slope, denoise(x, t).x0))

    def noise(r: Any, x: PyTree, args: Any) -> Any:
        s = spread(process, -r)
        return lineax.DiagonalLinearOperator(jax.tree.map(lambda leaf: jnp.full_like(leaf, s), x))

    field = canonical(uphill)
    drift = diffrax.ODETerm(lambda r, x, args: field(x, -r))
    return diffrax.MultiTerm(drift, diffrax.ControlTerm(noise, path))
