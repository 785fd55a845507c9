"""End-point errors of samplers against the exact flow: reference problems, random ones, networks.

    python experiments/default_sampler/run.py reference
    python experiments/default_sampler/run.py random
    python experiments/default_sampler/run.py RUN [RUN ...]       folders that `jaxdiff train` made

Each prints the tables of README.md. The first two are in double precision.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems import STD, denoiser, random, reference

from jaxdiff import experiment, process, samplers, trees
from jaxdiff.denoise import bind, cfg
from jaxdiff.types import Rows

OURS = "adams_moulton, root_flow"
PROTOTYPE = {"order": 4, "bend": 0.0, "kappa": 0.535, "continued": True}


def flow_even(proc: Any, n: int) -> Any:
    """Even in a rectified flow's time, from t_max to t_min, then 0; t is sigma/alpha here."""
    low = jnp.maximum(proc.t_min, 2e-3)
    u = jnp.linspace(proc.t_max / (1 + proc.t_max), low / (1 + low), n)
    return jnp.concatenate([proc.t_max[None], (u / (1 - u))[1:], jnp.zeros(1)])


def methods(std: float) -> dict[str, tuple[Any, Any]]:
    """Sampler and grid by name; ours first."""
    root = functools.partial(process.root_flow, std=std)
    karras, even = process.karras, process.uniform_lambda
    return {
        OURS: (samplers.adams_moulton(std=std), root),
        "ddim, karras": (samplers.ddim(), karras),
        "heun, karras": (samplers.heun(), karras),
        "dpmpp_2m, karras": (samplers.dpmpp_2m(), karras),
        "dpmpp_2m, uniform_lambda": (samplers.dpmpp_2m(), even),
        "unipc 2, karras": (samplers.unipc(2), karras),
        "unipc 2, uniform_lambda": (samplers.unipc(2), even),
        "unipc 3, uniform_lambda": (samplers.unipc(3), even),
        "deis 3, karras": (samplers.deis(3), karras),
        "deis 3, uniform_lambda": (samplers.deis(3), even),
        "ipndm 4, karras": (samplers.ipndm(4), karras),
        "adams 3 (c = 1), flow": (samplers.adams(3, c=1.0), flow_even),
        "adams 4 (c = 1), root_flow": (samplers.adams(4, c=1.0), root),
        "unipc 3, root_flow": (samplers.unipc(3), root),
    }


def variants(std: float) -> dict[str, tuple[Any, Any]]:
    """Our method, otherwise: what is told to the sampler, and to its grid."""
    told: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        OURS: ({}, {}),
        "bend 0": ({"bend": 0.0}, {"bend": 0.0}),
        "order 4": ({"order": 4}, {}),
        "order 2": ({"order": 2}, {}),
        "no limiter": ({"kappa": float("inf")}, {}),
        "kappa 0.535": ({"kappa": 0.535}, {}),
        "kappa 0.13": ({"kappa": 0.13}, {}),
        "power 2": ({"power": 2.0}, {}),
        "continued": ({"continued": True}, {}),
        "prototype (order 4, bend 0, kappa 0.535, continued)": (PROTOTYPE, {"bend": 0.0}),
        "std x 1.5": ({"std": 1.5 * std}, {"std": 1.5 * std}),
        "std / 1.5": ({"std": std / 1.5}, {"std": std / 1.5}),
    }
    return {
        name: (
            samplers.adams_moulton(**{"std": std} | ours),
            functools.partial(process.root_flow, **{"std": std} | grid),
        )
        for name, (ours, grid) in told.items()
    }


def every(denoise: Any, x: Any, sampler: Any, grids: list[Any]) -> Any:
    """Where each of several grids ends, walked in one loop: [len(grids), b, ...]."""
    t, s = (jnp.concatenate([part(ts) for ts in grids]) for part in (_but_last, _but_first))
    counts = [len(ts) - 1 for ts in grids]
    last = np.concatenate([np.arange(1, n + 1) == n for n in counts])
    i = jnp.concatenate([jnp.arange(n) for n in counts])
    rows = Rows(t, s, jnp.where(last, grids[0][0], s), i, jnp.arange(len(t)))
    _, seen = samplers.run(
        trees.keys_for(jax.random.key(0), jnp.arange(trees.size(x))), denoise, sampler, rows, x,
        look=lambda now, x, est: x,
        renoise=lambda keys, proc, s, u, old: trees.where(u > s, x, old),
    )  # fmt: skip
    return seen[np.flatnonzero(last)]


def _but_last(ts: Any) -> Any:
    return ts[:-1]


def _but_first(ts: Any) -> Any:
    return ts[1:]


def grids_of(name: str, times: Any, proc: Any, budgets: tuple[int, ...]) -> list[Any]:
    """The grids that cost at most these evaluations: Heun's has 2n - 1."""
    return [times(proc, (n + 1) // 2 if name.startswith("heun") else n) for n in budgets]


def rms(a: Any, axis: Any = None) -> Any:
    return jnp.sqrt(jnp.mean(a**2, axis=axis))


def show(title: str, columns: tuple[int, ...], rows: dict[str, Any], form: str = "{:.2e}") -> None:
    head = " | ".join(["", *map(str, columns)])
    print(f"\n### {title}\n\n|{head} |\n" + "|---" * (len(columns) + 1) + "|")
    for name, values in rows.items():
        print(f"| {name} |", *(form.format(float(v)) + " |" for v in values), flush=True)


def on_reference(budgets: tuple[int, ...] = (5, 10, 20, 40, 80)) -> None:
    """Errors of our sampler on the three problems, from sigma = 80 to 0."""
    proc, counts, found = process.edm(1e-9, 80.0), (*budgets, 3000), {}
    for name, problem in reference().items():

        def ends(kind: str, problem: Any) -> Any:
            sampler, times = variants(STD)[kind]
            grids = [times(proc, n) for n in counts]
            return every(denoiser(problem, proc), 80 * problem.z, sampler, grids)

        kinds = (OURS, "bend 0", "prototype (order 4, bend 0, kappa 0.535, continued)")
        ours, bent, first = (jax.jit(ends, static_argnums=0)(k, problem) for k in kinds)
        print(f"{name}: 3000 steps, two ways: {float(rms(first[-1] - bent[-1])):.1e} apart")
        for kind, x in zip(kinds, (ours, bent, first), strict=True):
            found[f"{name}, {kind}"] = rms(x[:-1] - first[-1], (1, 2))
    show("reference", budgets, found)


def on_random(seed: int, which: dict[str, tuple[Any, Any]], dims=(2, 8, 32)) -> None:
    """Errors of the others over that of our sampler, geometric means over problems."""
    budgets, proc = (5, 8, 10, 15, 20, 40, 80), process.edm(1e-9, 80.0)
    logs: dict[str, list[Any]] = {name: [] for name in which}
    for dim in dims:
        problem = random(seed, dim)

        def ends(sampler: Any, grids: Any, problem: Any = problem) -> Any:
            one = lambda p: every(denoiser(p, proc), 80 * p.z, sampler, grids)  # noqa: E731
            return jax.jit(jax.vmap(one))(problem)

        truth = ends(samplers.adams_moulton(4, continued=True), [process.root_flow(proc, 1500)])
        for name, (sampler, times) in which.items():
            off = ends(sampler, grids_of(name, times, proc, budgets)) - truth
            logs[name].append(jnp.log(rms(off, (2, 3))))
    found = {name: jnp.concatenate(parts) for name, parts in logs.items()}
    guided = np.tile(np.repeat([False, True], 16), len(dims))
    ours = found[OURS]
    for title, which_rows in (("unguided", ~guided), ("guided", guided)):
        rows = {k: jnp.exp(jnp.mean((v - ours)[which_rows], 0)) for k, v in found.items()}
        show(f"seed {seed}, {title}: error over ours, geometric mean", budgets, rows, "{:.2f}")
        best = jnp.min(jnp.stack([v for k, v in found.items() if k != OURS]), 0)
        share = jnp.mean((ours <= best)[which_rows], 0)
        over = jnp.exp(jnp.mean((ours - best)[which_rows], 0))
        rows = {"share of problems where ours is best": share, "ours over the best": over}
        show("against the best of the others on each problem", budgets, rows, "{:.2f}")


def on_network(
    folder: str, scales: tuple[float, ...] = (1.0, 2.0, 3.0), b: int = 32, seed: int = 7
) -> None:
    """Errors on a trained network against a 499-evaluation solution from the same noise."""
    model, found, config = experiment.load(folder)
    std = config.wiring.sigma_data
    proc, budgets = model.process, (5, 8, 10, 15, 20, 35)
    x = proc.sigma(proc.t_max) * jax.random.normal(jax.random.key(seed), (b, *found.info.shape))
    labels, ends = jnp.arange(b) % found.info.classes, jax.jit(every, static_argnums=2)
    for scale in scales:
        denoise = bind(model, labels) if scale == 1 else cfg(model, labels, found.null, scale)
        truth = ends(denoise, x, samplers.heun(1.0), [process.root_flow(proc, 250)])
        other = ends(denoise, x, samplers.heun(0.0), [process.karras(proc, 120)])
        rows = {"two fine solutions apart": [rms(truth - other)] * len(budgets)}
        show(f"{folder}, w = {scale}", budgets, rows)
        which = methods(std) | (variants(std) if scale == 2 else {})
        for name, (sampler, times) in which.items():
            off = ends(denoise, x, sampler, grids_of(name, times, proc, budgets)) - truth
            values = rms(off, tuple(range(1, off.ndim)))
            print(f"| {name} |", *(f"{float(v):.2e} |" for v in values), flush=True)
        print("\nquantiles 0.1, 0.5, 0.9, 1 over steps (not the first) and samples")
        for n in budgets:
            d = changes(denoise, x, std, samplers.grid(process.root_flow(proc, n, std)))[1:]
            d = np.quantile(d, [0.1, 0.5, 0.9, 1.0])
            print(n, "d", d.round(3), "theta", (1 / (1 + (d / 0.27) ** 4)).round(3), flush=True)


@jax.jit
def changes(denoise: Any, x: Any, std: Any, rows: Rows) -> Any:
    """The change of eps that the limiter sees, of every step and sample."""
    sampler = samplers.adams_moulton(std=std)

    def step(now: Any, denoise: Any, state: Any) -> Any:
        new, est = sampler.step(now, denoise, state)
        change = rms(new.hist.eps - state.hist.eps, tuple(range(1, state.x.ndim)))
        return new, est._replace(aux=est.aux | {"change": change})

    keys, seen = trees.keys_for(jax.random.key(0), jnp.arange(len(x))), sampler._replace(step=step)
    return samplers.run(keys, denoise, seen, rows, x, look=lambda now, x, est: est.aux["change"])[1]


if __name__ == "__main__":
    for part in sys.argv[1:]:
        if part in ("reference", "random"):
            jax.config.update("jax_enable_x64", True)
        if part == "reference":
            on_reference()
        elif part == "random":
            on_random(1, variants(STD))  # what was chosen from
            on_random(2, variants(STD))  # held out
            on_random(2, methods(STD))
        else:
            on_network(part)
