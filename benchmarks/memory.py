"""Memory of DPS at 256 x 256, one image: what `remat` of the network and steps in a scan cost.

    python benchmarks/memory.py              (about two minutes on two cores; nothing is run)

The compiler's own account (`memory_analysis`) of temporary memory: one guided evaluation, forward
and back, and a whole walk of 20 steps. A walk keeps nothing from step to step, so it needs what one
evaluation needs.
"""

import itertools

import jax
import jax.numpy as jnp

import jaxdiff as jd
from jaxdiff import inverse, nets, process, samplers

SHAPE = (256, 256, 3)
MIB = 2**20


NETWORKS = {
    "U-Net, 5M": lambda remat: nets.unet(
        channels=3, widths=(32, 64, 128, 128), depth=2, attention=(3,), remat=remat
    ),
    "DiT, 12 blocks of 256, 1024 tokens": lambda remat: nets.dit(
        size=256, patch=8, channels=3, width=256, depth=12, heads=4, remat=remat
    ),
    "the same, blocks in one loop": lambda remat: nets.dit(
        size=256, patch=8, channels=3, width=256, depth=12, heads=4, remat=remat, scan=True
    ),
}


def temporary(fn, *args):
    """MiB that the compiler sets aside besides arguments and results."""
    return jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes / MIB


def denoiser(net, params):
    return jd.bind(jd.model(net.apply, params, process.edm(), process.edm_wiring()))


def main():
    operator = inverse.average_pool(4, SHAPE)
    x, y = jnp.zeros((1, *SHAPE)), jnp.zeros((1, 64, 64, 3))
    times, key = process.karras(process.edm(), 20), jax.random.key(0)
    print("| network | forward, MiB | DPS, one evaluation | DPS, 20 steps |\n|---|---|---|---|")
    for name, remat in itertools.product(NETWORKS, (False, True)):
        net = NETWORKS[name](remat)
        params = jax.eval_shape(net.init, key)

        def forward(params, x, net=net):
            return denoiser(net, params)(x, 1.0).x0

        def guided(params, x, y, net=net):
            return inverse.dps(operator, y, noise=0.05)(denoiser(net, params))(x, 1.0).x0

        def walk(params, x, y, net=net):
            guide = inverse.dps(operator, y, noise=0.05)
            return samplers.sample(
                key, guide(denoiser(net, params)), samplers.ddim(1.0), start=x, times=times
            )

        found = [temporary(forward, params, x)]
        found += [temporary(f, params, x, y) for f in (guided, walk)]
        numbers = " | ".join(f"{n:.0f}" for n in found)
        print(f"| {name}{', remat' * remat} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
