"""Diffrax: the probability-flow ODE and the reverse SDE with any of its solvers.

    dx = (f x - g^2/2 score) dt,                 dx = (f x - g^2 score) dt + g dw,

run from t_start down to t_end and finished by one exact step to clean data, x = E[x_0 | x_{t_end}].
Time runs as r = -t, an exact negation: Diffrax integrates forward and no digit is lost at small t.

Song et al. 2021, arXiv:2011.13456, eq. (6) and (13). Diffrax: Kidger 2021, arXiv:2202.02435.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Key, Num

from jaxdiff import trees
from jaxdiff.canonical import canonical
from jaxdiff.denoise import Denoiser, score, velocity
from jaxdiff.process import check_grid, diffusion2, drift, log_snr, scales, time_of
from jaxdiff.process.predictions import SMALLEST_ALPHA
from jaxdiff.types import PyTree, number

CLEAN_ENOUGH = 12.0
"""log-SNR at which to stop where a process may be asked at sigma = 0 (and, negative, to start the
SDE where it has alpha = 0)."""


class _PerSample(diffrax.AbstractBrownianPath):
    """Brownian motion [b, ...], each sample from its own key: no sample sees the batch.

    On given times every increment is drawn by itself, from a key folded with its ends. Only a
    step size that adapts needs the virtual tree, whose single precision does not resolve the
    space-time area of steps 1e5 times shorter than the interval.
    """

    keys: Any
    t0: Any
    t1: Any
    shapes: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)
    levy_area: Any = eqx.field(static=True)
    adaptive: bool = eqx.field(static=True)

    def _path(self, key: Array) -> Any:
        if not self.adaptive:
            return diffrax.UnsafeBrownianPath(self.shapes, key, self.levy_area)
        tol = (self.t1 - self.t0) * 1e-5
        return diffrax.VirtualBrownianTree(self.t0, self.t1, tol, self.shapes, key, self.levy_area)

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        each = lambda key: self._path(key).evaluate(t0, t1, left, use_levy)  # noqa: E731
        found = jax.vmap(each)(self.keys)
        like_x = lambda leaves: jax.tree.unflatten(self.structure, leaves)  # noqa: E731
        return jax.tree.map(like_x, found, is_leaf=lambda node: isinstance(node, tuple))


def _brownian(
    keys: Array, x: PyTree, t0: Array, t1: Array, solver: Any, adaptive: bool
) -> _PerSample:
    leaves, structure = jax.tree.flatten(x)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves)
    area = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    # AbstractBrownianIncrement stands for "any": its concrete form is the cheapest
    area = diffrax.SpaceTimeLevyArea if "SpaceTime" in area.__name__ else diffrax.BrownianIncrement
    return _PerSample(keys, t0, t1, shapes, structure, area, adaptive)


def _start(denoise: Denoiser, ode: bool) -> Array:
    """The SDE, unlike the ODE, is singular where alpha = 0: it starts just short of there."""
    process = denoise.process
    alpha, _ = scales(process, process.t_max)
    nearly = time_of(process, -CLEAN_ENOUGH)
    return process.t_max if ode else jnp.where(alpha < SMALLEST_ALPHA, nearly, process.t_max)


def _end(denoise: Denoiser) -> Array:
    process = denoise.process
    too_clean = log_snr(process, process.t_min) > CLEAN_ENOUGH + 2.0
    return jnp.where(too_clean, time_of(process, CLEAN_ENOUGH), process.t_min)


def integrate(
    denoise: Denoiser,
    x: PyTree,
    *,
    keys: Key[Array, " b"] | None = None,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    times: Num[Array, " m"] | None = None,
    t_start: float | Array | None = None,
    t_end: float | Array | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    saveat: diffrax.SaveAt | None = None,
    max_steps: int = 4096,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> Any:
    """Integrate the probability flow, or with `keys` the reverse SDE, from noise to data.

    The default adjoint checkpoints, so that gradients with respect to x and the parameters are
    exact for the steps taken. Without `times` Brownian motion is a virtual tree, correct for
    adaptive steps; in single precision it wants a narrow range of t, so `rebase` a denoiser of
    edm (t up to 80) to a rectified flow. An adaptive step size is shared by the batch: there,
    samples agree across batch sizes to the tolerance only.

    Args:
      denoise: the denoiser; guides that need steps raise GridOnly.
      x: x at t_start, leaves [b, ...].
      keys: None for the ODE; one key per sample [b] for the SDE.
      solver: any Diffrax solver; Tsit5 for the ODE, ShARK for the SDE (its noise is additive).
      controller: step-size controller; PID at 1e-5 for the ODE unless `times` are given.
      times: decreasing times to step on, instead of a controller. The first and last are moved to
        t_start and t_end, and times outside are spread over the step next to that end.
      t_start: t_max by default; for the SDE, where alpha(t_max) = 0, the time of log-SNR -12.
      t_end: t_min by default, or where the log-SNR is 12 if the process may be asked at sigma = 0.
      adjoint: how to differentiate, `diffrax.RecursiveCheckpointAdjoint()` by default.
      saveat: what to keep, in r = -t; then the whole `diffrax.Solution` is returned, unfinished.
      max_steps: bound on the number of steps.
      progress: a Diffrax progress meter.

    Returns:
      E[x_0 | x] at the end of the path, like x; with `saveat` the `diffrax.Solution`.

    Raises:
      ValueError: if `times` do not decrease; if the SDE has neither times nor a controller.

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> x = integrate(d, 80.0 * jnp.ones((1, 1)))
    >>> round(float(x[0, 0]), 3)   # 80 / sqrt(1 + 80^2)
    1.0
    """
    t0 = -number(_start(denoise, keys is None) if t_start is None else t_start)
    t1 = -number(_end(denoise) if t_end is None else t_end)
    stepping = _stepping(controller, times, t0, t1, keys is None)
    if keys is None:
        solver = solver or diffrax.Tsit5()
        terms: Any = diffrax.ODETerm(_flow(denoise))
    else:
        solver = solver or diffrax.ShARK()
        terms = _reverse(denoise, _brownian(keys, x, t0, t1, solver, times is None))
    solution = diffrax.diffeqsolve(
        terms,
        solver,
        t0,
        t1,
        None,
        x,
        stepsize_controller=stepping,
        adjoint=adjoint or diffrax.RecursiveCheckpointAdjoint(),
        saveat=saveat or diffrax.SaveAt(t1=True),
        max_steps=max_steps,
        progress_meter=progress or diffrax.NoProgressMeter(),
    )
    if saveat is not None:
        return solution
    last = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    return canonical(lambda x: denoise(x, -t1).x0)(last)


def _stepping(controller: Any, times: Any, t0: Array, t1: Array, ode: bool) -> Any:
    if times is not None:
        check_grid(times)
        return diffrax.StepTo(_strict(-number(times), t0, t1))
    if controller is None and not ode:
        raise ValueError(
            "the reverse SDE needs times=, e.g. process.karras(denoise.process, 100), or a "
            "controller="
        )
    return controller or diffrax.PIDController(rtol=1e-5, atol=1e-5)


def _strict(rising: Array, t0: Array, t1: Array) -> Array:
    """A rising grid from t0 to t1; entries outside are spread over the step next to that end."""
    late = _spread(rising.at[0].set(t0), t1)
    return -_spread(-late[::-1], -t0)[::-1]


def _spread(rising: Array, end: Array) -> Array:
    over = rising >= end
    last = jnp.max(jnp.where(over, -jnp.inf, rising))
    share = jnp.cumsum(over) / jnp.maximum(jnp.sum(over), 1)
    return jnp.where(over, last + (end - last) * share, rising).at[-1].set(end)


def _flow(denoise: Denoiser) -> Any:
    field = canonical(lambda x, t: velocity(denoise, x, t))
    return lambda r, x, args: jax.tree.map(jnp.negative, field(x, -r))


def _reverse(denoise: Denoiser, path: Any) -> diffrax.MultiTerm:
    process = denoise.process

    def downhill(x: PyTree, t: Array) -> PyTree:
        slope = score(denoise, x, t)
        return trees.combine((-drift(process, t), x), (diffusion2(process, t), slope))

    field = canonical(downhill)

    def spread(r: Any, x: PyTree, args: Any) -> Any:
        g = jnp.sqrt(diffusion2(process, -r))
        return lineax.DiagonalLinearOperator(jax.tree.map(lambda leaf: jnp.full_like(leaf, g), x))

    drift_term = diffrax.ODETerm(lambda r, x, args: field(x, -r))
    return diffrax.MultiTerm(drift_term, diffrax.ControlTerm(spread, path))
