"""Images a second beside diffusers and k-diffusion: same weights, same sampler, same grid.

    pip install torch diffusers k-diffusion
    python benchmarks/peers.py               (about three minutes on two cores)

The network is the diffusion transformer of this library, and its copy in PyTorch; all three walk
DPM-Solver++ 2M (or Heun's method) down the same levels from the same noise, taking turns; that
they end at the same image is checked.
"""

import argparse

import diffusers
import jax
import jax.numpy as jnp
import k_diffusion
import numpy as np
import torch
from torch_dit import TorchDiT
from turns import turns

from jaxdiff import denoise, nets, process, samplers, trees

STEPS = 20
SHAPES = {  # size, width, depth, heads
    "tiny (0.02 GFLOP)": (8, 64, 4, 4),
    "small (0.4 GFLOP)": (16, 192, 4, 4),
    "middle (6 GFLOP)": (32, 384, 6, 6),
}


def table():
    return process.from_betas(process.scaled_linear_betas())


def clock(proc, t):
    return t / 1000


def ours(net, params, ts, x, sampler):
    wiring = process.wiring(process.eps, clock=clock)
    keys = trees.keys_for(jax.random.key(0), jnp.arange(len(x)))
    go = jax.jit(
        lambda params, ts, x: samplers.run(
            keys,
            denoise.bind(denoise.model(net.apply, params, table(), wiring)),
            sampler,
            samplers.grid(ts),
            x,
        )
    )
    return lambda: np.asarray(go(params, ts, x))


def by_diffusers(model, x, scheduler):
    def go():
        scheduler.set_timesteps(STEPS)
        sample = torch.tensor(x) * scheduler.init_noise_sigma
        with torch.inference_mode():
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(sample, t)
                eps = model(scaled, torch.full((len(x),), t / 1000))
                sample = scheduler.step(eps, t, sample).prev_sample
        return sample.numpy()

    return go


def by_k_diffusion(model, x, ratios, clocks, sampler):
    ratios = torch.tensor(ratios, dtype=torch.float32)

    def times(sigma):
        """The table's time of a level: the levels of the grid, and linear between."""
        at = np.interp(-sigma[0].item(), -ratios[:-1].numpy(), clocks[:-1])
        return torch.full((len(sigma),), float(at) / 1000)

    def x0(sample, sigma):
        c = (1 + sigma**2).rsqrt()[:, None, None, None]
        return sample - sigma[:, None, None, None] * model(sample * c, times(sigma))

    def go():
        with torch.inference_mode():
            start = torch.tensor(x) * (1 + ratios[0] ** 2).sqrt()
            end = sampler(x0, start, ratios, disable=True)
        return end.numpy()

    return go


def compare(label, batch, repeats):
    size, width, depth, heads = SHAPES[label]
    net = nets.dit(size=size, patch=2, channels=4, width=width, depth=depth, heads=heads)
    params = net.init(jax.random.key(0))
    params = jax.tree.map(
        lambda p: p + 0.02 * np.random.default_rng(1).normal(size=p.shape), params
    )
    model = TorchDiT(params, size=size, patch=2, width=width, heads=heads).eval()
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    clocks = np.append(scheduler.timesteps.numpy(), -1)
    alpha, sigma = process.scales(table(), jnp.asarray(clocks, jnp.float32))
    x = np.asarray(jax.random.normal(jax.random.key(2), (batch, size, size, 4)))
    runners = {
        "jaxdiff": ours(net, params, jnp.asarray(clocks, jnp.float32), x, samplers.dpmpp_2m()),
        "diffusers": by_diffusers(model, x, scheduler),
        "k-diffusion": by_k_diffusion(
            model, x, np.asarray(sigma / alpha), clocks, k_diffusion.sampling.sample_dpmpp_2m
        ),
    }
    ends = {name: go() for name, go in runners.items()}
    apart = {n: np.abs(end - ends["jaxdiff"]).max() / np.abs(end).max() for n, end in ends.items()}
    spent = turns(runners, repeats)
    print(f"{label}, batch {batch}, {STEPS} steps of DPM-Solver++ 2M")
    for name, each in spent.items():
        print(
            f"  {name:12s} {batch / each:8.2f} images/s   x {each / spent['jaxdiff']:.2f}"
            f"   apart {apart[name]:.1e}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"jax {jax.__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    print(f"{torch.get_num_threads()} threads, {jax.devices()[0].device_kind}, float32")
    for label in SHAPES:
        for batch in (1, 16) if not label.startswith("middle") else (1, 4):
            compare(label, batch, repeats)


if __name__ == "__main__":
    main()
