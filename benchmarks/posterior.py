"""Posterior samplers beside deepinv: steps a second, same weights, same measurement.

    pip install torch deepinv
    python benchmarks/posterior.py           (about four minutes on two cores)

DPS, PiGDM, DiffPIR and DDRM on an inpainting task with a small diffusion transformer, float32, the
two libraries taking turns, each in processes of its own. A step is one turn of the method's own
loop: DPS and PiGDM ask the network once and pass back through it once (deepinv asks twice), DiffPIR
and DDRM ask it once.
"""

import argparse
import os

# each core a device, as the command line has it
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")

import deepinv
import jax
import jax.numpy as jnp
import numpy as np
import torch
from deepinv_methods import methods
from torch_denoiser import Preconditioned
from torch_dit import TorchDiT
from turns import apart, median_seconds

import jaxdiff as jd
from jaxdiff import experiment, inverse, nets, process, samplers
from jaxdiff.training.sharding import batch_sharding, mesh

SIZE, STD, CENTER, NOISE = 28, 0.71, -0.43, 0.05
SHAPE = (SIZE, SIZE, 1)
WIDTH, DEPTH, HEADS, PATCH = 128, 4, 4, 4


def network():
    net = nets.dit(size=SIZE, patch=PATCH, channels=1, width=WIDTH, depth=DEPTH, heads=HEADS)
    draw = np.random.default_rng(1)
    params = jax.tree.map(
        lambda p: p + 0.02 * draw.normal(size=p.shape), net.init(jax.random.key(0))
    )
    return net, params, TorchDiT(params, size=SIZE, patch=PATCH, width=WIDTH, heads=HEADS).eval()


def ours(net, params, mask, y, steps):
    """One compiled function a method: seconds are those of all its steps."""
    wiring = process.edm_wiring(STD, center=CENTER)
    model = jd.model(net.apply, params, process.edm(0.03, 40.0), wiring)
    if len(y) % len(jax.devices()) == 0:
        model, y = experiment.spread(model), jax.device_put(y, batch_sharding(mesh(jax.devices())))
    denoise = jd.bind(model)
    operator, key = inverse.inpainting(mask, SHAPE), jax.random.key(0)
    times = process.karras(denoise.process, steps)

    def go(make):
        @jax.jit
        def call(denoise, operator, y, times):
            guided, sampler = make(denoise, operator, y)
            return samplers.sample(key, guided, sampler, shape=y.shape, times=times)

        return lambda: call(denoise, operator, y, times).block_until_ready()

    ddim = samplers.ddim
    return {
        "DPS": go(lambda d, a, y: (d, inverse.dps_published(a, y, zeta=1.0)(ddim(1.0)))),
        "PiGDM": go(lambda d, a, y: (inverse.pigdm(a, y, noise=NOISE)(d), ddim(1.0))),
        "DiffPIR": go(lambda d, a, y: (inverse.diffpir(a, y, noise=NOISE)(d), inverse.remix(0.1))),
        "DDRM": go(lambda d, a, y: (d, inverse.ddrm(a, y, noise=NOISE))),
    }


def theirs(model, mask, y, steps):
    """The same four in deepinv, which works on [0, 1] and [b, c, h, w]."""
    denoiser = Preconditioned(model, STD, CENTER)
    seen = torch.tensor(np.array(mask.transpose(2, 0, 1)), dtype=torch.float32)
    physics = deepinv.physics.Inpainting(
        (1, SIZE, SIZE), mask=seen, noise_model=deepinv.physics.GaussianNoise(NOISE / 2)
    )
    y = torch.tensor(np.array((y + mask[None]) / 2).transpose(0, 3, 1, 2))  # A((x + 1) / 2)
    every = methods(denoiser, steps, NOISE / 2)
    return {name: lambda one=one: one(y.clone(), physics) for name, one in every.items()}


def measure(side, args):
    """The rates of one side, for `apart`."""
    net, params, model = network()
    mask = (jax.random.uniform(jax.random.key(1), (SIZE, SIZE, 1)) < 0.3).astype(jnp.float32)
    for batch in (1, 16):
        y = mask[None] * jax.random.uniform(jax.random.key(2), (batch, *SHAPE), minval=-1.0)
        if side == "jaxdiff":
            every = ours(net, params, mask, y, args.steps)
        else:
            every = theirs(model, mask, y, args.steps)
        for name in ("DPS", "PiGDM", "DiffPIR", "DDRM"):
            rate = args.steps / median_seconds(every[name], args.repeats)
            print(f"RATE {name}, {batch}\t{rate}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=["jaxdiff", "deepinv"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return measure(args.side, args)
    print(f"jax {jax.__version__}, torch {torch.__version__}, deepinv {deepinv.__version__}")
    print(f"{torch.get_num_threads()} threads, {jax.devices()[0].device_kind}, float32")
    print("| method, batch | jaxdiff, steps/s | deepinv, steps/s | ratio |\n|---|---|---|---|")
    found = apart(["jaxdiff", "deepinv"], args.rounds)
    for name, a in found["jaxdiff"].items():
        b = found["deepinv"][name]
        print(f"| {name} | {a:.1f} | {b:.1f} | {a / b:.2f} |")


if __name__ == "__main__":
    main()
