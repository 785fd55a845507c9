"""End-point errors on problems whose flow is known: every sampler, by its evaluations."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.sampler_convergence.peers import load, mixture
from jaxdiff import exact, process, samplers
from jaxdiff.types import Sampler

BUDGETS = (5, 10, 20, 40, 80)


def exact_moulton() -> Sampler:
    """The constants that suit a denoiser without error of its own."""
    return samplers.adams_moulton(4, bend=0.0, kappa=0.535, continued=True)


karras, exponential, root = process.karras, process.uniform_lambda, process.root_flow

CURVES: dict[str, tuple[Callable[[], Sampler], Any, int]] = {
    "Adams-Moulton, root_flow": (samplers.adams_moulton, root, 1),
    "Adams-Moulton 4 for exact denoisers": (exact_moulton, functools.partial(root, bend=0.0), 1),
    "Euler, Karras": (samplers.euler, karras, 1),
    "Heun, Karras": (lambda: samplers.heun(0.0), karras, 2),
    "DPM-Solver-2, Karras": (samplers.dpm_2, karras, 2),
    "DPM-Solver++ 2M, Karras": (samplers.dpmpp_2m, karras, 1),
    "DPM-Solver++ 2M, exponential": (samplers.dpmpp_2m, exponential, 1),
    "UniPC 2, exponential": (lambda: samplers.unipc(2), exponential, 1),
    "UniPC 3, exponential": (lambda: samplers.unipc(3), exponential, 1),
    "DEIS 3, exponential": (lambda: samplers.deis(3), exponential, 1),
    "iPNDM 4, Karras": (lambda: samplers.ipndm(4), karras, 1),
    "LMS 4, exponential": (lambda: samplers.adams(4, c=0.0), exponential, 1),
}


def truth(denoise: Any, x: Any) -> Any:
    """The exact end of the probability flow: an adaptive solver of eighth order, at 1e-11."""
    import diffrax

    controller = diffrax.PIDController(rtol=1e-11, atol=1e-11)
    return samplers.integrate(
        denoise, x, solver=diffrax.Dopri8(), controller=controller, max_steps=100_000
    )


def table() -> dict[str, list[float]]:
    """Root mean square error at each budget."""
    proc = process.edm()
    denoise = exact.denoiser(mixture(), proc)
    z = next(iter(load().values())).z
    x = 80.0 * jnp.asarray(z)
    end = jax.jit(truth)(denoise, x)
    keys = jax.vmap(jax.random.key)(jnp.arange(len(z)))
    found: dict[str, list[float]] = {}
    for name, (make, grid, cost) in CURVES.items():
        row = []
        for budget in BUDGETS:
            n = (budget + cost - 1) // cost  # a step to clean data costs one evaluation
            rows = samplers.grid(grid(proc, n))
            walk = functools.partial(samplers.run, keys, denoise, make())
            got = jax.jit(walk)(rows, x)
            row.append(float(jnp.sqrt(jnp.mean((got - end) ** 2))))
        found[name] = row
    return found


def draw(path: pathlib.Path) -> None:
    """The table as a log-log plot, and in print."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = table()
    print("| sampler | " + " | ".join(map(str, BUDGETS)) + " |\n|---" + "|---" * len(BUDGETS) + "|")
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{e:.1e}" for e in row) + " |")
    figure, axes = plt.subplots(figsize=(8, 5))
    for i, (name, row) in enumerate(found.items()):
        axes.loglog(BUDGETS, row, marker="o" if i < 10 else "s", label=name)
    axes.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
    axes.set_xlabel("network evaluations")
    axes.set_ylabel("rms error of the end point")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
