"""The order of every sampler, measured: of its end point, or (with noise) of its law.

On data N(m, v) on the line the denoiser is affine, and so is every step of every sampler here:

    x_end = b + a x_T + sum_k c_k z_k.

One walk of many samples finds b, a and all c_k: sample 0 starts from 0 without noise, sample 1
from 1, and sample 2 + k draws z_k = 1. Then a and b are compared with the flow that is known, or
the mean b + a E x_T and the variance a^2 Var x_T + sum c_k^2 with those of x_t. No sampling error
is left.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import exact, process, samplers
from jaxdiff.types import Sampler

MEAN, VARS = 0.7, (0.6, 0.1)
TOP, BOTTOM = 4.0, 0.4
COUNTS = (48, 96, 192)


class Solver(NamedTuple):
    """A sampler, its nominal order, the grid it is made for, and who draws noise in its step.

    `finer` multiplies the numbers of steps, where the asymptote comes late.
    """

    make: Callable[[], Sampler]
    order: int
    grid: str = "log"
    draws: tuple[str, ...] = ()
    finer: int = 1


def places(grid: str, n: int, tiny: int = 6) -> jax.Array:
    """n + tiny + 1 levels from TOP to BOTTOM; tiny first steps let multistep methods warm up."""
    ends = {"log": (jnp.log, jnp.exp), "sigma": (lambda s: s, lambda s: s)}[grid]
    row = jnp.linspace(ends[0](TOP), ends[0](BOTTOM), n + 1)
    step = (row[1] - row[0]) * jnp.abs(row[1] - row[0])
    return ends[1](jnp.concatenate([row[0] + step * jnp.arange(tiny + 1), row[1:]]))


def affine(
    sampler: Sampler, ts: jax.Array, draws: tuple[str, ...], var: float
) -> tuple[float, float, float]:
    """b, a and sum c_k^2 of a walk down the levels ts, on N(m, var)."""
    n = len(ts) - 1
    b = 2 + n * len(draws)
    noise = {
        name: jnp.eye(n, b, 2 + i * n)[..., None] for i, name in enumerate(draws or ("solver",))
    }
    start = jnp.zeros((b, 1)).at[1].set(1.0)
    data = exact.gaussian(jnp.full(1, MEAN), jnp.full((1, 1), var))
    denoise = exact.denoiser(data, process.edm())
    rows, tape = samplers.grid(ts), samplers.tape(**noise)
    end = jax.jit(lambda x: samplers.run(tape, denoise, sampler, rows, x))(start)[:, 0]
    slopes = end[1:] - end[0]
    return float(end[0]), float(slopes[0]), float(jnp.sum(slopes[1:] ** 2))


def error(solver: Solver, n: int) -> float:
    """Of the flow at the end, or of the law; the worst of the variances."""
    return max(_error(solver, n, var) for var in VARS)


def _error(solver: Solver, n: int, var: float) -> float:
    # Tiny steps divide the noise of the values by their length: only the flow begins with them.
    ts = places(solver.grid, n, tiny=0 if solver.draws else 6)
    b, a, noise = affine(solver.make(), ts, solver.draws, var)
    begun, ended = var + float(ts[0]) ** 2, var + float(ts[-1]) ** 2
    if solver.draws:
        return max(abs(b + a * MEAN - MEAN), abs(a**2 * begun + noise - ended))
    kept = np.sqrt(ended / begun)
    return max(abs(a - kept), abs(b - MEAN * (1 - kept)))


def measured(solver: Solver) -> tuple[float, list[float]]:
    """The slope of log error over log n, and the errors."""
    errors = [error(solver, solver.finer * n) for n in COUNTS]
    return float(-np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]), errors


S = samplers
SOLVERS = {
    "euler = ddim(0)": Solver(S.euler, 1),
    "heun": Solver(lambda: S.heun(0.0), 2),
    "heun, a flow's frame": Solver(lambda: S.heun(1.0), 2),
    "adams 2": Solver(lambda: S.adams(2, c=0.0), 2, "sigma"),
    "adams 3": Solver(lambda: S.adams(3, c=0.0), 3, "sigma", finer=2),
    "adams 4": Solver(lambda: S.adams(4, c=0.0), 4, "sigma", finer=3),
    "dpm_2": Solver(S.dpm_2, 2),
    "dpm_3": Solver(S.dpm_3, 3),
    "dpmpp_2s": Solver(S.dpmpp_2s, 2),
    "dpmpp_3s": Solver(S.dpmpp_3s, 3),
    "dpmpp_2m": Solver(S.dpmpp_2m, 2),
    "dpmpp_3m": Solver(S.dpmpp_3m, 3),
    "dpm_solver_m 2": Solver(lambda: S.dpm_solver_m(2), 2),
    "dpm_solver_m 3": Solver(lambda: S.dpm_solver_m(3), 3),
    "deis 2": Solver(lambda: S.deis(2, taper=0), 2),
    "deis 3": Solver(lambda: S.deis(3, taper=0), 3),
    "unipc 2": Solver(lambda: S.unipc(2, taper=0), 3),
    "unipc 3": Solver(lambda: S.unipc(3, taper=0), 4),
    "ddim 1": Solver(lambda: S.ddim(1.0), 1, "log", ("solver",)),
    "ddpm": Solver(S.ddpm, 1, "log", ("solver",)),
    "dpm_2 1": Solver(lambda: S.dpm_2(1.0), 2, "log", ("solver",)),
    "dpmpp_2s 1": Solver(lambda: S.dpmpp_2s(1.0), 2, "log", ("solver",)),
    "dpmpp_sde": Solver(S.dpmpp_sde, 2, "log", ("solver", "stage")),
    "dpmpp_2m 1": Solver(lambda: S.dpmpp_2m(1.0), 2, "log", ("solver",)),
    "dpmpp_3m 1": Solver(lambda: S.dpmpp_3m(1.0), 2, "log", ("solver",), finer=4),
    "sa_solver": Solver(lambda: S.sa_solver(taper=0), 2, "log", ("solver",)),
    "er_sde 2": Solver(lambda: S.er_sde(2), 2, "log", ("solver",)),
    "er_sde 3": Solver(lambda: S.er_sde(3), 2, "log", ("solver",)),
}


def check() -> bool:
    """Print the table; True if every order is its nominal one within 0.25."""
    print("| sampler | order | measured | error, n doubling |\n|---|---|---|---|")
    good = True
    for name, solver in SOLVERS.items():
        order, errors = measured(solver)
        holds = abs(order - solver.order) < 0.25
        good &= holds
        kind = "weak, " if solver.draws else ""
        spelled = " / ".join(f"{e:.1e}" for e in errors)
        print(f"| {name} | {kind}{solver.order} | {order:.2f}{'' if holds else ' !'} | {spelled} |")
    return good
