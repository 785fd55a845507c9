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

RUN_STD = 0.71  # of the images the networks were trained on, as their wiring has it


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
        "adams_moulton": (samplers.adams_moulton(std=std), root),
        "ddim, karras": (samplers.ddim(), karras),
        "ddim, root_flow": (samplers.ddim(), root),
        "heun, karras": (samplers.heun(), karras),
        "dpmpp_2m, karras": (samplers.dpmpp_2m(), karras),
        "dpmpp_2m, uniform_lambda": (samplers.dpmpp_2m(), even),
        "unipc 2, karras": (samplers.unipc(2), karras),
        "unipc 2, uniform_lambda": (samplers.unipc(2), even),
        "unipc 3, uniform_lambda": (samplers.unipc(3), even),
        "deis 3, karras": (samplers.deis(3), karras),
        "deis 3, uniform_lambda": (samplers.deis(3), even),
        "ipndm 4, karras": (samplers.ipndm(4), karras),
        "ipndm 4, root_flow": (samplers.ipndm(4), root),
        "adams 3 (c = 1), flow": (samplers.adams(3, c=1.0), flow_even),
        "adams 4 (c = 1), root_flow": (samplers.adams(4, c=1.0), root),
    }


def variants(std: float) -> dict[str, tuple[Any, Any]]:
    """Our method, otherwise."""
    make = functools.partial(samplers.adams_moulton, std=std)
    solvers = {
        "adams_moulton": make(),
        "order 3": make(3),
        "order 2": make(2),
        "no limiter": make(kappa=float("inf")),
        "kappa / 1.5": make(kappa=0.357),
        "kappa / 3": make(kappa=0.178),
        "kappa x 1.5": make(kappa=0.8),
        "power 2": make(power=2.0),
        "power 2, kappa 0.76": make(power=2.0, kappa=0.76),
    }
    found = {k: (s, functools.partial(process.root_flow, std=std)) for k, s in solvers.items()}
    for name, part in (("std x 1.5", 1.5), ("std / 1.5", 1 / 1.5)):
        found[name] = (
            samplers.adams_moulton(std=std * part),
            functools.partial(process.root_flow, std=std * part),
        )
    return found


def every(denoise: Any, x: Any, sampler: Any, grids: list[Any]) -> Any:
    """Where each of several grids ends, walked in one loop: [len(grids), b, ...]."""
    t, s = (jnp.concatenate([part(ts) for ts in grids]) for part in (_but_last, _but_first))
    last = jnp.concatenate([jnp.arange(1, len(ts)) == len(ts) - 1 for ts in grids])
    i = jnp.concatenate([jnp.arange(len(ts) - 1) for ts in grids])
    rows = Rows(t, s, jnp.where(last, grids[0][0], s), i, jnp.arange(len(t)))
    _, seen = samplers.run(
        trees.keys_for(jax.random.key(0), jnp.arange(trees.size(x))), denoise, sampler, rows, x,
        look=lambda now, x, est: x,
        renoise=lambda keys, proc, s, u, old: trees.where(u > s, x, old),
    )  # fmt: skip
    return seen[np.flatnonzero(np.asarray(last))]


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
    print(f"\n### {title}\n\n| |", *(f"{n} |" for n in columns), "\n|---" + "|---" * len(columns) + "|")
    for name, values in rows.items():
        print(f"| {name} |", *(form.format(float(v)) + " |" for v in values), flush=True)


def on_reference(budgets: tuple[int, ...] = (5, 10, 20, 40, 80)) -> None:
    """Errors of our sampler on the three problems, from sigma = 80 to 0."""
    proc, sampler = process.edm(1e-9, 80.0), samplers.adams_moulton()
    found = {}
    for name, problem in reference().items():
        ends = jax.jit(
            lambda p: every(
                denoiser(p, proc), 80 * p.z, sampler,
                [process.root_flow(proc, n) for n in (*budgets, 1500, 3000)],
            )
        )(problem)  # fmt: skip
        found[name] = rms(ends[:-2] - ends[-1], (1, 2))
        print(name, "3000 steps against 1500:", float(rms(ends[-1] - ends[-2])))
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

        truth = ends(samplers.adams_moulton(), [process.root_flow(proc, 1500)])
        for name, (sampler, times) in which.items():
            off = ends(sampler, grids_of(name, times, proc, budgets)) - truth
            logs[name].append(jnp.log(rms(off, (2, 3))))
    found = {name: jnp.concatenate(parts) for name, parts in logs.items()}
    guided = np.tile(np.repeat([False, True], 16), len(dims))
    ours = found["adams_moulton"]
    for title, which_rows in (("unguided", ~guided), ("guided", guided)):
        rows = {k: jnp.exp(jnp.mean((v - ours)[which_rows], 0)) for k, v in found.items()}
        show(f"seed {seed}, {title}: error over ours, geometric mean", budgets, rows, "{:.2f}")
        best = jnp.min(jnp.stack([v for k, v in found.items() if k != "adams_moulton"]), 0)
        share = jnp.mean((ours <= best)[which_rows], 0)
        over = jnp.exp(jnp.mean((ours - best)[which_rows], 0))
        show("ours, where best; over the best of the others", budgets, {"share": share, "ratio": over}, "{:.2f}")


def watched(sampler: Any) -> Any:
    """The sampler, with the change of eps that its limiter sees in `aux`."""

    def step(now: Any, denoise: Any, state: Any) -> Any:
        new, est = sampler.step(now, denoise, state)
        change = rms(new.hist.eps - state.hist.eps, tuple(range(1, state.x.ndim)))
        return new, est._replace(aux=est.aux | {"change": change})

    return sampler._replace(step=step)


def on_network(folder: str, which: Any, scales=(1.0, 2.0, 3.0), b: int = 32) -> None:
    """Errors on a trained network against a 499-evaluation solution from the same noise."""
    model, found, _ = experiment.load(folder)
    proc, budgets = model.process, (5, 8, 10, 15, 20, 35)
    x = proc.sigma(proc.t_max) * jax.random.normal(jax.random.key(0), (b, *found.info.shape))
    labels = jnp.arange(b) % found.info.classes
    for scale in scales:
        denoise = bind(model, labels) if scale == 1 else cfg(model, labels, found.null, scale)
        ends = jax.jit(every, static_argnums=2)
        fine = [
            ends(denoise, x, samplers.heun(c), [grid(proc, 250)])[0]
            for c, grid in ((1.0, process.root_flow), (0.0, process.karras))
        ]
        rows = {"two fine solutions apart": [rms(fine[0] - fine[1])] * len(budgets)}
        show(f"{folder}, w = {scale}", budgets, rows)
        for name, (sampler, times) in which.items():
            off = ends(denoise, x, sampler, grids_of(name, times, proc, budgets)) - fine[0][None]
            values = rms(off, tuple(range(1, off.ndim)))
            print(f"| {name} |", *(f"{float(v):.2e} |" for v in values), flush=True)
        changes(denoise, x, proc, budgets)


def changes(denoise: Any, x: Any, proc: Any, budgets: tuple[int, ...]) -> None:
    """What the limiter saw: quantiles of d and of theta over steps (but the first) and samples."""
    for n in budgets:
        rows = samplers.grid(process.root_flow(proc, n, RUN_STD))
        sampler = watched(samplers.adams_moulton(std=RUN_STD))
        keys = trees.keys_for(jax.random.key(0), jnp.arange(len(x)))
        look = lambda now, x, est: est.aux["change"]  # noqa: E731
        _, d = jax.jit(lambda d, x, rows: samplers.run(keys, d, sampler, rows, x, look=look))(
            denoise, x, rows
        )
        q = [0.1, 0.5, 0.9, 1.0]
        theta = 1 / (1 + (d[1:] / 0.535) ** 4)
        print(n, "d", np.quantile(d[1:], q).round(3), "theta", np.quantile(theta, 1 - np.array(q)).round(3))


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
            on_network(part, methods(RUN_STD) | variants(RUN_STD))
