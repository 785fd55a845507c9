"""Forward passes and training steps of networks beside PyTorch: same weights, processes in turns.

    pip install torch
    python benchmarks/networks.py                              DiT-S/2 on this machine's CPU
    python benchmarks/networks.py --nets dit-s edm-small --edm CLONE    and EDM's U-Net at width 32
    python benchmarks/networks.py --nets dit-xl edm --edm CLONE --bf16 --batch 256    on a GPU

CLONE is github.com/NVlabs/edm. PyTorch runs as it is and under torch.compile. A training step is a
forward and backward pass of a mean squared error and one step of AdamW. On a CPU the batch is split
over its cores, as the command line splits it, and GLIBC_TUNABLES=glibc.malloc.hugetlb=1 spares both
sides page faults, as in `make demo`; data are random, not zeros.
"""

import argparse
import os
import sys

if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={os.cpu_count()}"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.sharding import NamedSharding, PartitionSpec
from torch_dit import TorchDiT
from turns import apart, median_seconds

from jaxdiff import nets
from jaxdiff.pretrained.names import fill
from jaxdiff.training.sharding import batch_sharding, mesh

DITS = {
    "dit-s": dict(size=32, patch=2, channels=4, width=384, depth=12, heads=6),
    "dit-b": dict(size=32, patch=2, channels=4, width=768, depth=12, heads=12),
    "dit-xl": dict(size=32, patch=2, channels=4, width=1152, depth=28, heads=16),
}
EDMS = {"edm-small": 32, "edm": 128}
"""Widths of EDM's DDPM++ for CIFAR-10."""


def dit(name, dtype):
    sizes = DITS[name]
    net = nets.dit(**sizes, dtype=dtype, scan=dtype != jnp.float32)
    draw = np.random.default_rng(1)
    params = jax.tree.map(
        lambda p: np.asarray(p + 0.02 * draw.normal(size=p.shape), np.float32),
        net.init(jax.random.key(0)),
    )
    rest = {key: sizes[key] for key in ("size", "patch", "width", "heads")}
    return net, params, TorchDiT(params, **rest), (32, 32, 4)


def edm(name, dtype, clone):
    from jaxdiff.nets.unet2d.edm import song_unet

    sys.path.insert(0, clone)
    from training.networks import SongUNet

    width, rest = EDMS[name], dict(augment_dim=9, depth=4, multipliers=(2, 2, 2))
    net = song_unet(size=32, width=width, **rest, dtype=dtype)
    torch.manual_seed(0)
    model = SongUNet(
        32, 3, 3, model_channels=width, channel_mult=[2, 2, 2], augment_dim=9, dropout=0.0
    )
    return net, from_edm(net, model), model, (32, 32, 3)


def from_edm(net, model):
    """EDM's weights, by the family that reads its checkpoints."""
    from jaxdiff.pretrained.families import FAMILIES
    from jaxdiff.pretrained.names import rename

    family = FAMILIES["SongUNet"]
    tensors = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    return fill(nets.shapes(net.init), rename(tensors, family.rules, family.ignored))


def ours(net, params, x, time, target):
    """name -> what is timed; each call waits for its result."""
    devices = mesh(jax.devices())
    split, whole = batch_sharding(devices), NamedSharding(devices, PartitionSpec())
    x, time, target = (jax.device_put(a, split) for a in (x, time, target))
    params = jax.device_put(params, whole)
    tx = optax.adamw(1e-4)
    state = [params, jax.jit(tx.init, out_shardings=whole)(params)]
    forward = jax.jit(net.apply)

    def step(params, moments, x, time, target):
        def loss(params):
            return jnp.mean(jnp.square(net.apply(params, x, time) - target))

        updates, moments = tx.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    compiled = jax.jit(step, donate_argnums=(0, 1))
    first = jax.tree.map(jnp.copy, params)

    def train():
        state[:] = compiled(*state, x, time, target)
        jax.block_until_ready(state)

    return {
        "forward": lambda: forward(first, x, time).block_until_ready(),
        "train": train,
    }, np.asarray(forward(params, x, time))


def theirs(model, x, time, target, *, nchw, compiled, half):
    """The same in PyTorch, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    order = (0, 3, 1, 2) if nchw else (0, 1, 2, 3)
    x, time, target = (torch.tensor(np.asarray(a), device=device) for a in (x, time, target))
    x, target = (a.permute(order).contiguous() for a in (x, target))
    model = model.to(device)
    if nchw and device == "cuda":
        model, x = (
            model.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    call = torch.compile(model) if compiled else model
    more = (None,) if nchw else ()  # EDM's networks take class labels
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=1e-4, fused=True)

    def cast():
        return torch.autocast(device, torch.bfloat16, enabled=half)

    def forward():
        with torch.no_grad(), cast():
            out = call(x, time, *more)
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    def train():
        with cast():
            loss = (call(x, time, *more).float() - target).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    out = forward().float().permute(0, 2, 3, 1) if nchw else forward().float()
    return {"forward": forward, "train": train}, out.cpu().numpy()


def measure(args):
    """The rates of one side, for `apart`."""
    dtype = jnp.bfloat16 if args.bf16 else jnp.float32
    for name in args.nets:
        net, params, model, shape = dit(name, dtype) if name in DITS else edm(name, dtype, args.edm)
        draw = np.random.default_rng(2)
        x, target = (draw.normal(size=(args.batch, *shape)).astype(np.float32) for _ in range(2))
        time = draw.uniform(-1, 1, args.batch).astype(np.float32)
        if args.side == "jaxdiff":
            calls, out = ours(net, params, x, time, target)
        else:
            options = {"nchw": name in EDMS, "half": args.bf16}
            compiled = args.side == "compiled"
            calls, out = theirs(model, x, time, target, compiled=compiled, **options)
        print(f"RATE {name}, size of the answer\t{np.abs(out).mean()}")
        for what in ("forward", "train"):
            rate = args.batch / median_seconds(calls[what], args.repeats)
            print(f"RATE {name}, {what}\t{rate}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", nargs="+", default=["dit-s"], choices=[*DITS, *EDMS])
    parser.add_argument("--edm", help="a clone of github.com/NVlabs/edm")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return measure(args)
    print(f"jax {jax.__version__} on {len(jax.devices())} x {jax.devices()[0].device_kind}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; batch {args.batch}")
    print("| network | ours, images/s | PyTorch | compiled | ratio | to compiled |")
    print("|---|---|---|---|---|---|")
    found = apart(SIDES, args.rounds)
    for name, rate in found["jaxdiff"].items():
        plain, fast = (found[side][name] for side in SIDES[1:])
        print(
            f"| {name} | {rate:.4g} | {plain:.4g} | {fast:.4g} | {rate / plain:.2f} | "
            f"{rate / fast:.2f} |"
        )


SIDES = ["jaxdiff", "pytorch", "compiled"]

if __name__ == "__main__":
    main()
