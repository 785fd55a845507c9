"""What every use of Diffrax here shares: the ends of the path, its steps, its checks, the call.

Towards data time runs as r = -t, an exact negation: Diffrax integrates forward and no digit is
lost at small t. Towards noise r = t.

The default step size is that of the sample which needs the smallest: the error is measured as

    max over samples and leaves of rms((error / (atol + rtol |x|)) of one sample),

so that no sample hides behind the mean of its batch, and none is followed less closely in a bigger
one. Diffrax: Kidger 2021, arXiv:2202.02435.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import check_grid, log_snr, scales, time_of
from jaxdiff.process.predictions import SMALLEST_ALPHA
from jaxdiff.types import PyTree, Sampler, number

CLEAN_ENOUGH = 12.0
"""log-SNR at which to stop where a process may be asked at sigma = 0 (and, negative, to start the
SDE where it has alpha = 0)."""


def ends(denoise: Denoiser, t_start: Any, t_end: Any, ode: bool) -> tuple[Array, Array]:
    """(noisy, clean) times: what was given, or the process's own.

    Raises:
      ValueError: if the clean end is not below the noisy one.
    """
    high = _noisy_end(denoise, ode) if t_start is None else number(t_start)
    low = _clean_end(denoise) if t_end is None else number(t_end)
    _check_ends(high, low)
    return high, low


def _noisy_end(denoise: Denoiser, ode: bool) -> Array:
    """The SDE, unlike the ODE, is singular where alpha = 0: it starts just short of there."""
    process = denoise.process
    if ode:
        return process.t_max
    alpha, _ = scales(process, process.t_max)
    return jnp.where(alpha < SMALLEST_ALPHA, time_of(process, -CLEAN_ENOUGH), process.t_max)


def _clean_end(denoise: Denoiser) -> Array:
    process = denoise.process
    too_clean = log_snr(process, process.t_min) > CLEAN_ENOUGH + 2.0
    return jnp.where(too_clean, time_of(process, CLEAN_ENOUGH), process.t_min)


def worst(error: PyTree) -> Array:
    """The largest rms of a sample: max over b and the leaves, [b, ...] -> ()."""

    def rms(leaf: Array) -> Array:
        square = jnp.mean(leaf.reshape(leaf.shape[0], -1) ** 2, axis=1).max()
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    return jnp.max(jnp.stack([rms(leaf) for leaf in jax.tree.leaves(error)]))


def stepping(controller: Any, times: Any, t0: Array, t1: Array, tol: float | None) -> Any:
    """The controller for r from t0 to t1, where `times` decrease; PID at `tol` by default."""
    if times is not None:
        if controller is not None:
            raise ValueError("times= are the steps and controller= chooses them: give one of them")
        check_grid(times)
        return diffrax.StepTo(strict(-number(times), t0, t1))
    if controller is not None:
        return controller
    if tol is None:
        raise ValueError(
            "the reverse SDE needs times=, e.g. process.karras(denoise.process, 100), or a "
            "controller="
        )
    return diffrax.PIDController(rtol=tol, atol=tol, norm=worst)


def upward(control: diffrax.StepTo) -> diffrax.StepTo:
    """The same steps from data to noise, in t."""
    return diffrax.StepTo(-control.ts[::-1])


def strict(rising: Array, t0: Array, t1: Array) -> Array:
    """A rising grid from t0 to t1; entries outside are spread over the step next to that end."""
    late = _spread(rising.at[0].set(t0), t1)
    return -_spread(-late[::-1], -t0)[::-1]


def _spread(rising: Array, end: Array) -> Array:
    over = rising >= end
    last = jnp.max(jnp.where(over, -jnp.inf, rising))
    share = jnp.cumsum(over) / jnp.maximum(jnp.sum(over), 1)
    return jnp.where(over, last + (end - last) * share, rising).at[-1].set(end)


def check(denoise: Any, solver: Any) -> None:
    """Refuse what is for a loop over steps.

    Raises:
      TypeError: for a `Sampler`, a correction, or anything else that is no Denoiser or solver.
    """
    if not isinstance(denoise, Denoiser):
        raise TypeError(f"denoise is {_name(denoise)}: give a Denoiser{_hint(denoise)}")
    if solver is not None and not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(
            f"solver is {_name(solver)}: give a solver of Diffrax, e.g. diffrax.Tsit5()"
            f"{_hint(solver)}"
        )


def _check_ends(high: Array, low: Array) -> None:
    if isinstance(high, Tracer) or isinstance(low, Tracer):
        return
    if not float(low) < float(high):
        raise ValueError(f"t_start={high}, t_end={low}: noise is above data, t_end < t_start")


def _name(value: Any) -> str:
    return "a Sampler" if isinstance(value, Sampler) else f"of type {type(value).__name__}"


def _hint(value: Any) -> str:
    if not isinstance(value, Sampler) and not callable(value):
        return ""
    return "; samplers and corrections (heun, churn, after, ...) go to `sample` or `run`"


def check_keys(keys: Any, x: PyTree) -> None:
    """One typed key per sample.

    Raises:
      TypeError: for raw numbers or another shape than [b].
    """
    typed = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    b = trees.size(x)
    if not typed or keys.shape != (b,):
        what = f"shape {keys.shape}, dtype {keys.dtype}" if hasattr(keys, "dtype") else _name(keys)
        raise TypeError(
            f"keys: {what}; give one typed key per sample, [{b}], e.g. "
            f"trees.keys_for(jax.random.key(0), jnp.arange({b}))"
        )


def solve(
    terms: Any,
    solver: diffrax.AbstractSolver,
    span: tuple[Array, Array],
    y: PyTree,
    control: diffrax.AbstractStepSizeController,
    *,
    adjoint: diffrax.AbstractAdjoint | None,
    saveat: diffrax.SaveAt | None = None,
    max_steps: int,
    progress: diffrax.AbstractProgressMeter | None,
) -> diffrax.Solution:
    """`diffrax.diffeqsolve` with our defaults."""
    return diffrax.diffeqsolve(
        terms,
        solver,
        *span,
        None,
        y,
        stepsize_controller=control,
        adjoint=adjoint or diffrax.RecursiveCheckpointAdjoint(),
        saveat=saveat or diffrax.SaveAt(t1=True),
        max_steps=max_steps,
        progress_meter=progress or diffrax.NoProgressMeter(),
    )


def last(solution: diffrax.Solution) -> PyTree:
    """The state at the end of the path."""
    return jax.tree.map(lambda leaf: leaf[-1], solution.ys)
