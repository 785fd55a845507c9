"""Steps a second of posterior samplers, with one small convolutional network.

    python benchmarks/restoration.py [steps]        (about two minutes on two cores)

DPS as published, DDRM, DiffPIR and PiGDM fill in half of the pixels of images [64, 64, 3], at batch
1 and 16, each a compiled loop; beside them the bare evaluations of the network, taking turns.
A step of DPS or PiGDM has one backward pass, of the others none.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from jaxdiff import denoise, inverse, process, samplers, trees

SIZE, WIDTH, DEPTH = 64, 32, 5


def live_params():
    """Kernels [3, 3, in, out] of a plain convolutional network of 0.24 GFLOP an image."""
    widths = [3, *[WIDTH] * (DEPTH - 1), 3]
    shapes = [(3, 3, a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
    keys = jax.random.split(jax.random.key(0), DEPTH)
    return [jax.random.normal(k, s) / (9 * s[2]) ** 0.5 for k, s in zip(keys, shapes, strict=True)]


def apply(params, x, time, cond):
    """eps of x [b, h, w, 3]; the time comes in as a shift."""
    x = x + 1e-3 * time[:, None, None, None]
    for i, kernel in enumerate(params):
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
        x = jax.nn.silu(x) if i < DEPTH - 1 else x
    return x


def methods(y, mask):
    """name -> (guide or None, sampler)."""
    operator = inverse.inpainting(mask, (SIZE, SIZE, 3))
    return {
        "dps": (None, inverse.dps_published(operator, y, zeta=0.5)(samplers.ddpm())),
        "pigdm": (inverse.pigdm(operator, y, noise=0.05), samplers.ddim(1.0)),
        "ddrm": (None, inverse.ddrm(operator, y, noise=0.05)),
        "diffpir": (inverse.diffpir(operator, y, noise=0.05), inverse.remix(0.3)),
    }


def restored(name, steps, params, x, y, mask):
    guide, sampler = methods(y, mask)[name]
    vp = process.vp_linear()
    plain = denoise.bind(denoise.model(apply, params, vp, process.wiring(process.eps), span=None))
    keys = trees.keys_for(jax.random.key(0), jnp.arange(len(x)))
    rows = samplers.grid(process.uniform(vp, steps))
    return samplers.run(keys, plain if guide is None else guide(plain), sampler, rows, x)


def bare(steps, params, x, y, mask):
    """The evaluations, and nothing else."""

    def body(x, t):
        return apply(params, x, jnp.full(len(x), t), None), None

    return jax.lax.scan(body, x, jnp.linspace(1.0, 0.0, steps))[0]


def ours(name, batch, steps):
    """A compiled run, to be called without arguments."""
    params, mask = live_params(), jax.random.bernoulli(jax.random.key(1), 0.5, (SIZE, SIZE, 1))
    x, y = jax.random.normal(jax.random.key(2), (2, batch, SIZE, SIZE, 3))
    args = params, x, mask[None] * y, mask
    fn = functools.partial(bare if name == "bare" else functools.partial(restored, name), steps)
    go = jax.jit(fn).lower(*args).compile()
    return lambda: jax.block_until_ready(go(*args))


def seconds(go):
    start = time.perf_counter()
    go()
    return time.perf_counter() - start


def main(steps=20, turns=7):
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {steps} steps")
    print("method   batch   steps/s   over bare")
    for batch in (1, 16):
        base = ours("bare", batch, steps)
        for name in ("dps", "pigdm", "ddrm", "diffpir"):
            go = ours(name, batch, steps)
            times = [[seconds(one) for one in (go, base)] for _ in range(turns)]
            speed = steps / statistics.median(row[0] for row in times)
            slower = statistics.median(row[0] / row[1] for row in times)
            print(f"{name:8s} {batch:5d} {speed:9.1f} {slower:11.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
