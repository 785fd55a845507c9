"""What the loop costs besides the network: time a step, and time to compile.

    python benchmarks/overhead.py            (about three minutes on two cores)

A diffusion transformer of at least 5 GFLOP an evaluation is run 20 times in a bare compiled scan,
and by samplers of 20 evaluations on the same weights, taking turns; the ratio of the times of each
turn is what counts. Compilation is measured likewise: the whole loop over one call.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp

from jaxdiff import denoise, nets, process, samplers, trees

SIZE, STEPS = 32, 20
NET = nets.dit(size=SIZE, patch=2, channels=4, width=384, depth=6, heads=6)
SAMPLERS = {
    "euler": samplers.euler(),
    "ddpm": samplers.ddpm(),
    "dpmpp_2m": samplers.dpmpp_2m(),
    "adams 4": samplers.adams(4),
}


def live_params():
    """Parameters with no zero layer among them: every gate is open."""
    params = NET.init(jax.random.key(0))
    return jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(1), p.shape), params)


def bare(params, x):
    """The evaluations, and nothing else."""

    def body(x, t):
        return NET.apply(params, x, jnp.full(len(x), t), None), None

    return jax.lax.scan(body, x, jnp.linspace(1.0, 0.0, STEPS))[0]


def sampled(sampler, params, x):
    flow = process.rectified_flow()
    model = denoise.model(NET.apply, params, flow, process.wiring(process.velocity))
    keys = trees.keys_for(jax.random.key(0), jnp.arange(len(x)))
    rows = samplers.grid(process.uniform(flow, STEPS))
    return samplers.run(keys, denoise.bind(model), sampler, rows, x)


def seconds(go, *args):
    start = time.perf_counter()
    jax.block_until_ready(go(*args))
    return time.perf_counter() - start


def compiled(fn, *args):
    start = time.perf_counter()
    made = jax.jit(fn).lower(*args).compile()
    return made, time.perf_counter() - start


def main():
    params, x = live_params(), jax.random.normal(jax.random.key(2), (1, SIZE, SIZE, 4))
    once, one = compiled(lambda p, x: NET.apply(p, x, jnp.zeros(len(x)), None), params, x)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    work = once.cost_analysis()["flops"] / 1e9
    print(f"one evaluation: {work:.1f} GFLOP, compiled in {one:.2f} s")
    base, _ = compiled(bare, params, x)
    made = {n: compiled(functools.partial(sampled, s), params, x) for n, s in SAMPLERS.items()}
    times = {n: [] for n in made}
    for _ in range(11):
        for n, (go, _) in made.items():
            before, own, after = (seconds(g, params, x) for g in (base, go, base))
            times[n].append(2 * own / (before + after) - 1)
    for n, (_, spent) in made.items():
        print(
            f"{n:10s} overhead {100 * statistics.median(times[n]):5.1f} % of {STEPS} evaluations"
            f"   compile {spent:5.2f} s = {spent / one:.2f} x one call"
        )


if __name__ == "__main__":
    main()
