"""The exact log-likelihood of the probability flow, by the change of variables.

The clock is the angle a of (alpha, sigma): y = x/|(alpha, sigma)| = cos(a) x_0 + sin(a) eps. So
every process is smooth up to both of its ends; by its own time a table of betas has a kink at each
of its steps, where solvers of high order lose 1e-3 nats at any tolerance. The flow is

    dy/da = (cos(a) y - E[x_0 | y]) / sin(a) = v,    d log q_a(y(a))/da = -div v,

and the first term's divergence, d cos/sin, integrates without error. From the clean end e to the
noisy end T, J the Jacobian of E[x_0 | y],

    log q_e(y_e) = log q_T(y_T) + d log(sin_T/sin_e) - int_e^T tr(J)/sin da.

Which number it is. y_e = cos_e x, and d log cos_e is added: what is returned is the density at x of
y_e/cos_e, which is the model's data blurred by N(0, (sigma/alpha)^2 I) of the clean end. For a
smooth density the blur costs O((sigma/alpha)^2); data of no density (points, bytes) have none
without it. The last step of `integrate`, E[x_0 | x_e], is not part of it.

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
from jaxdiff.denoise import Denoiser, rebase
from jaxdiff.process import Process, scales, trig_flow
from jaxdiff.samplers.continuous.solve import (
    check,
    check_keys,
    ends,
    last,
    solve,
    stepping,
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

    log p(x) = log p_T(x_T) + d log(alpha_e sigma_T/sigma_e) - int_e^T tr(J)/sin da,

    a = atan(sigma/alpha), J the Jacobian of the denoiser for x/|(alpha, sigma)|.

    Without keys the trace is exact: d products with J at each evaluation. With keys it is
    Hutchinson's, with the same probes all along the path: log p is then without bias beyond
    the solver's error (p is not), and for Rademacher probes exact where J is diagonal.

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
      solver: any Diffrax solver; Tsit5. It walks the angle.
      controller: step-size controller; PID at 1e-6 unless `times` are given.
      times: decreasing times to step on, as in `integrate`; they are walked upwards.
      t_start: the noisy end, t_max by default.
      t_end: the clean end, sigma > 0, by default as in `integrate`.
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
    angles = _angle(denoise.process, low), _angle(denoise.process, high)
    control = stepping(controller, times, -high, -low, 1e-6)
    if times is not None:
        control = _by_angle(denoise.process, control, angles)
    if keys is None:
        directions = basis(x, chunk)
    else:
        check_keys(keys, x)
        directions = drawn(keys, x, probes, probe, chunk)
    first = (trees.combine((jnp.cos(angles[0]), x)), jnp.zeros_like(trees.dots(x, x)))
    solution = solve(
        diffrax.ODETerm(_field(rebase(denoise, trig_flow()), directions)),
        solver or diffrax.Tsit5(), angles, first, control,
        adjoint=adjoint, max_steps=max_steps, progress=progress,
    )  # fmt: skip
    alpha, sigma = scales(denoise.process, high)
    y, shrunk = last(solution)
    noisy = trees.combine((jnp.hypot(alpha, sigma), y))
    end = _standard(noisy, sigma) if prior is None else prior(noisy)
    return end + shrunk + _dimensions(x) * jnp.log(sigma / jnp.tan(angles[0]))


def _check_counts(probes: int, chunk: int) -> None:
    for name, value in (("probes", probes), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name}={value}: at least one direction")


def _angle(process: Process, t: Array) -> Array:
    alpha, sigma = scales(process, t)
    return jnp.arctan2(sigma, alpha)


def _by_angle(
    process: Process, control: diffrax.StepTo, span: tuple[Array, Array]
) -> diffrax.StepTo:
    """The same steps from data to noise: given times turned round, and said as angles."""
    angles = _angle(process, -control.ts[::-1])
    return diffrax.StepTo(angles.at[0].set(span[0]).at[-1].set(span[1]))


def _field(denoise: Denoiser, directions: Directions) -> Any:
    """(y, l) -> (cos y - x_0, -tr J)/sin: dy/da, and the part of its divergence that x_0 makes."""

    def field(y: PyTree, angle: Array) -> tuple[PyTree, Array]:
        x0, trace = traced(lambda y: denoise(y, angle).x0, y, directions)
        sin = jnp.sin(angle)
        return trees.combine((jnp.cos(angle) / sin, y), (-1 / sin, x0)), -trace / sin

    whole = canonical(field)
    return lambda angle, state, args: whole(state[0], angle)


def _dimensions(x: PyTree) -> int:
    return sum(leaf[0].size for leaf in jax.tree.leaves(x))


def _standard(x: PyTree, sigma: Array) -> Array:
    """log N(x; 0, sigma^2 I), [b]."""
    whole = _dimensions(x) * jnp.log(2 * jnp.pi * sigma**2)
    return -(trees.dots(x, x) / sigma**2 + whole) / 2
