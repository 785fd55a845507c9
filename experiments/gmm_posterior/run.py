"""Every posterior sampler beside the exact posterior of a Gaussian mixture.

    python experiments/gmm_posterior/run.py --check        the tables of README.md, and assertions
    python experiments/gmm_posterior/run.py --quick        2 problems of dimension 8, 200 samples

A method is a function (problem, prior's denoiser, keys, start) -> samples; `guided`, `corrected`,
`sampled` and `grouped` make one of a constructor of jaxdiff.inverse, in one line of METHODS.
"""

import argparse
import sys
import time
from typing import Any, NamedTuple

import checks
import jax
import jax.numpy as jnp
import numpy as np
from problems import (
    V0,
    Problem,
    denoiser,
    draw,
    grid,
    make,
    sliced_wasserstein,
    ve,
    weight_error,
)

from jaxdiff import inverse, samplers
from jaxdiff.trees import fold, keys_for

STEPS, REPEATS = 100, 6  # the second: of what the claims compare, which is noisy
EXACT, TDS = ("exact, ddpm", "exact, heun"), "tds, v0 of the data"


class Size(NamedTuple):
    """How many problems, samples (one group of particles) and slices."""

    problems: int
    samples: int
    slices: int


FULL = {8: Size(16, 1000, 300), 80: Size(10, 1000, 200), 800: Size(8, 400, 200)}
QUICK = {8: Size(2, 400, 100)}


def each(p: Problem, n: int) -> Any:
    """The operator and its measurement, once for each of n samples."""
    return inverse.matrix(p.matrix), jnp.broadcast_to(p.y, (n, len(p.y)))


def walked(denoise: Any, sampler: Any, keys: Any, start: Any) -> Any:
    """Down the grid of the experiment."""
    rows = samplers.grid(grid(denoise.process, STEPS))
    return samplers.run(keys, denoise, sampler, rows, start)


def guided(make: Any, noisy: bool = True, **more: Any) -> Any:
    """A guide, told the noise of the problem, on ancestral sampling."""

    def method(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
        guide = make(*each(p, len(keys)), **({"noise": p.noise} if noisy else {}), **more)
        return walked(guide(prior), samplers.ddpm(), keys, start)

    return method


def corrected(make: Any, **more: Any) -> Any:
    """A correction of ancestral sampling."""

    def method(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
        return walked(prior, make(*each(p, len(keys)), **more)(samplers.ddpm()), keys, start)

    return method


def sampled(make: Any, **more: Any) -> Any:
    """A sampler of its own."""

    def method(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
        sampler = make(*each(p, len(keys)), noise=p.noise, **more)
        return walked(prior, sampler, keys, start)

    return method


def grouped(make: Any, **more: Any) -> Any:
    """Particles: one group of all samples, with one measurement."""

    def method(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
        sampler = make(*each(p, 1), noise=p.noise, particles=len(keys), **more)
        return walked(prior, sampler, keys, start)

    return method


def steered(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
    """Feynman-Kac steering by the log-likelihood."""

    def fits(x0: Any) -> Any:
        return -0.5 * jnp.sum((p.y - p.matrix @ x0) ** 2) / p.noise**2

    sampler = inverse.steered(fits, particles=len(keys))(samplers.ddpm())
    return walked(prior, sampler, keys, start)


def daps(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
    """20 levels with 5 evaluations each, as many as the others have, and exact moves."""
    move = inverse.conjugate(*each(p, len(keys)), noise=p.noise)
    ts = grid(prior.process, STEPS // 5)
    return inverse.daps(keys, prior, ts, start, move=move, v0=V0)


def pnp_dm(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
    """20 levels from 16 to 0.1 with 20 evaluations each: four times the work of the others."""
    move = inverse.conjugate(*each(p, len(keys)), noise=p.noise)
    ts = jnp.geomspace(16.0, 0.1, STEPS // 5)
    return inverse.pnp_dm(keys, prior, ts, 0 * start, move=move)


def unguided(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
    """No measurement at all."""
    return walked(prior, samplers.ddpm(), keys, start)


METHODS = {
    TDS: grouped(inverse.twisted, v0=V0),
    "tds, v0 = 1": grouped(inverse.twisted),
    "mcgdiff": grouped(inverse.mcgdiff),
    "fps-smc": grouped(inverse.fps, v0=V0),
    "fk steering": steered,
    "mmps": guided(inverse.mmps, steps=4),
    "pigdm": guided(inverse.pigdm),
    "pigdm, v0 of the data": guided(inverse.pigdm, v0=V0),
    "tmpd": guided(inverse.tmpd),
    "score-ald": guided(inverse.score_ald),
    "dmps": guided(inverse.dmps),
    "dps, as a rate": guided(inverse.dps),
    "dps as published, 0.1": corrected(inverse.dps_published, zeta=0.1),
    "dps as published, 1": corrected(inverse.dps_published, zeta=1.0),
    "ddrm": sampled(inverse.ddrm),
    "ddnm": guided(inverse.ddnm, noisy=False),
    "ddnm, with the noise": guided(inverse.ddnm),
    "ddnm+": sampled(inverse.ddnm_plus),
    "dds": guided(inverse.dds, noisy=False, gamma=5.0),
    "diffpir": guided(inverse.diffpir),
    "mpgd": guided(inverse.mpgd, noisy=False, rate=1.0),
    "daps": daps,
    "pnp-dm": pnp_dm,
    "the prior": unguided,
}


def exactly(sampler: Any, at_home: bool = False) -> Any:
    """Samples through a sampler by the exact denoiser of the posterior.

    A flow never forgets where it was started: `at_home` starts it from the exact law at t_max.
    """

    def method(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
        if at_home:
            start = start + draw(fold(keys, 7)[0], p.posterior, len(keys))
        return walked(denoiser(p.posterior, prior.process), sampler, keys, start)

    return method


def iid(p: Problem, prior: Any, keys: Any, start: Any) -> Any:
    """Exact draws: what two sets of this size differ by."""
    return draw(keys[0], p.posterior, len(keys))


def scored(method: Any, size: Size) -> Any:
    """A compiled (problem, key) -> (sliced Wasserstein distance, error of the weights)."""

    def score(p: Problem, key: Any) -> Any:
        ours, first, truth, slices = jax.random.split(key, 4)
        proc, n = ve(p.matrix.shape[1]), size.samples
        start = proc.t_max * jax.random.normal(first, (n, p.matrix.shape[1]))
        x = method(p, denoiser(p.prior, proc), keys_for(ours, jnp.arange(n)), start)
        # a method that diverges is far away, and no NaN
        x = jnp.clip(jnp.nan_to_num(x, nan=1e4), -1e4, 1e4)
        other = draw(truth, p.posterior, n)
        return sliced_wasserstein(slices, x, other, size.slices), weight_error(x, p.posterior)

    return jax.jit(score)


def rows(size: Size, only: list[str] | None = None) -> dict[str, Any]:
    """Name -> (compiled score, repetitions a problem)."""
    exact = {EXACT[0]: exactly(samplers.ddpm()), EXACT[1]: exactly(samplers.heun(), True)}
    table = {"i.i.d. floor": (scored(iid, size), REPEATS)}
    table |= {name: (scored(method, size), REPEATS) for name, method in exact.items()}
    names = [name for name in METHODS if only is None or name in only]
    return table | {name: (scored(METHODS[name], size), 1) for name in names}


def measure(
    sizes: dict[int, Size], only: list[str] | None = None
) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """(d, dy) -> name -> [problems, 2], the mean over repetitions."""
    table: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    for d, size in sizes.items():
        for name, (score, repeats) in rows(size, only).items():
            began = time.perf_counter()
            for dy in (1, 2, 4):
                found = [
                    np.mean([score(make(i, d, dy), jax.random.key(100 * i + r)) for r in
                             range(repeats)], axis=0)
                    for i in range(size.problems)
                ]  # fmt: skip
                table.setdefault((d, dy), {})[name] = np.array(found)
            means = [round(float(table[d, dy][name][:, 0].mean()), 2) for dy in (1, 2, 4)]
            seconds = time.perf_counter() - began
            print(f"  {d} {name}: {means}, {seconds:.1f} s", file=sys.stderr, flush=True)
    return table


def spelled(values: np.ndarray) -> str:
    """mean +- 1.96 standard errors of the distance, and the mean error of the weights."""
    (mean, tv), n = values.mean(axis=0), len(values)
    error = 1.96 * values[:, 0].std(ddof=1) / n**0.5
    return f"{mean:.2f} ± {error:.2f} ({tv:.2f})"


def printed(table: dict[tuple[int, int], dict[str, np.ndarray]]) -> None:
    """One table: a row a method, a column a cell."""
    cells = list(table)
    print("| method | " + " | ".join(f"{d}, {dy}" for d, dy in cells) + " |")
    print("|" + "---|" * (len(cells) + 1))
    for name in table[cells[0]]:
        line = [spelled(table[c][name]) if name in table[c] else "-" for c in cells]
        print(f"| {name} | " + " | ".join(line) + " |")


def assert_close_to_the_floor(table: dict[tuple[int, int], dict[str, np.ndarray]]) -> None:
    """The exact denoiser within 1.5 floors everywhere, TDS within 2.5 in dimensions 8 and 80."""
    for (d, dy), cell in table.items():
        floor = cell["i.i.d. floor"][:, 0].mean()
        bounds = dict.fromkeys(EXACT, 1.5) | ({TDS: 2.5} if d < 800 else {})
        for name, most in bounds.items():
            if name not in cell:  # --only
                continue
            times = cell[name][:, 0].mean() / floor
            print(f"{d}, {dy}: {name}: {times:.2f} floors (at most {most})")
            assert times <= most, (d, dy, name, times)


def main(args: list[str]) -> None:
    """Print the table; with --check also assert what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="dimension 8 only, few samples")
    parser.add_argument("--check", action="store_true", help="assert the claims")
    parser.add_argument("--dims", type=int, nargs="*", help="only these dimensions")
    parser.add_argument("--only", nargs="*", choices=list(METHODS), help="only these methods")
    told = parser.parse_args(args)
    sizes = QUICK if told.quick else FULL
    sizes = {d: size for d, size in sizes.items() if told.dims is None or d in told.dims}
    table = measure(sizes, told.only)
    printed(table)
    if told.check:
        checks.run()
        if not told.quick:
            assert_close_to_the_floor(table)
        print("all checks passed")


if __name__ == "__main__":
    main(sys.argv[1:])
