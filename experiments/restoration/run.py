"""Restoring real images from seven measurements, by every method, on one trained network.

python experiments/restoration/run.py RUN [--out FOLDER] [--n 16] [--steps 30]

RUN is a folder that `jaxdiff train fashion_mnist` made. --deepinv puts deepinv's methods beside,
on the same weights; it takes a RUN of `jaxdiff train fashion_mnist:dit`, torch and deepinv.
"""

import argparse
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from loops import METHODS
from methods import Given
from tasks import LINEAR, NOISE, NONLINEAR, SHAPE, WORDS, hidden, measure

from jaxdiff import data, experiment, metrics
from jaxdiff.denoise import bind
from jaxdiff.metrics import probe

HEAD = "| method | PSNR, dB | SSIM | feature distance | residual | passes | s an image |"


def held_out(n: int) -> Any:
    """n held-out images of all classes."""
    images = data.fashion_mnist("test").images
    return jnp.asarray(data.images_to_unit(images[:: len(images) // n][:n]))


def judge() -> Any:
    """Features of a small classifier of the training images: what looks alike to it is near."""
    train = data.fashion_mnist("train")
    fit = jax.jit(probe.small_cnn, static_argnames=("classes",))
    cnn = fit(jax.random.key(0), jnp.asarray(train.images), jnp.asarray(train.labels), classes=10)

    @jax.jit
    def distance(a: Any, b: Any) -> Any:
        """Of two images, relative to the length of the features of the first."""
        one, other = probe.features(cnn, a), probe.features(cnn, b)
        return jnp.linalg.norm(one - other, axis=1) / jnp.linalg.norm(one, axis=1)

    return distance


COMPILED: dict[Any, Any] = {}
"""Tasks whose operators are alike share what is compiled."""


def compiled(name: str, steps: int, v0: float, *args: Any) -> Any:
    """The method as a function of (key, denoise, operator, y)."""

    def call(key: Any, denoise: Any, operator: Any, y: Any) -> Any:
        return METHODS[name].draw(key, denoise, Given(operator, y, v0, steps))

    shapes = tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(args))
    which = name, steps, jax.tree.structure(args), shapes
    if which not in COMPILED:
        COMPILED[which] = jax.jit(call).lower(*args).compile()
    return COMPILED[which]


def restored(name: str, denoise: Any, operator: Any, y: Any, steps: int, v0: float) -> Any:
    """Samples, of several tries the one nearest to y; and seconds an image, without compiling."""
    args, spent = (denoise, operator, y), 0.0
    call = compiled(name, steps, v0, jax.random.key(0), *args)
    best, least = jnp.zeros((len(y), *SHAPE)), jnp.full(len(y), jnp.inf)
    for number in range(METHODS[name].tries):
        begun = time.perf_counter()
        x = jax.block_until_ready(call(jax.random.key(1 + number), *args))
        spent += (time.perf_counter() - begun) / len(y)
        x = jnp.clip(jnp.nan_to_num(x), -1, 1)
        off = jnp.sum((y - jax.vmap(operator.A)(x)) ** 2, axis=range(1, y.ndim))
        best = jnp.where((off < least)[:, None, None, None], x, best)
        least = jnp.minimum(off, least)
    return best, spent


def row(name: str, truth: Any, x: Any, y: Any, operator: Any, distance: Any, cost: str) -> str:
    """One line of the table: means over images; the residual is over the noise level."""
    seen = ~hidden(operator)
    off = metrics.residual(y, jax.vmap(operator.A)(x), noise=NOISE, observed=seen)
    values = [metrics.psnr(truth, x), metrics.ssim(truth, x), distance(truth, x), off]
    psnr, ssim, features, residual = (float(jnp.mean(v)) for v in values)
    return f"| {name} | {psnr:.2f} | {ssim:.3f} | {features:.3f} | {residual:.2f} | {cost} |"


def first_guess(operator: Any, y: Any) -> Any:
    """What there is without a network: the pseudo-inverse, or black for phases."""
    if hasattr(operator, "pinv"):
        return jnp.clip(jax.vmap(operator.pinv)(y), -1, 1)
    return jnp.full((len(y), *SHAPE), -1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/restoration"))
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=[*LINEAR, *NONLINEAR])
    parser.add_argument("--methods", nargs="*", default=[*METHODS])
    parser.add_argument("--deepinv", action="store_true")
    args = parser.parse_args()
    params, found, config = experiment.restore(args.run)
    denoise = bind(experiment.model_of(found, params), jnp.full(args.n, found.null, jnp.int32))
    truth, distance, v0 = held_out(args.n), judge(), config.wiring.sigma_data**2
    peer = None
    if args.deepinv:
        from deepinv_side import NAMES, Peer

        peer = Peer(params, config)
    for task in args.only:
        operator = (LINEAR | NONLINEAR)[task]()
        number = [*LINEAR, *NONLINEAR].index(task)
        y = measure(jax.random.fold_in(jax.random.key(3), number), operator, truth)
        guess = first_guess(operator, y)
        columns = [truth, guess]
        print(f"\n### {task}: {WORDS[task]}\n\n{HEAD}\n" + "|---" * 7 + "|")
        print(row("without a network", truth, guess, y, operator, distance, "0 | 0"), flush=True)
        for name in [name for name in args.methods if task in METHODS[name].tasks]:
            x, spent = restored(name, denoise, operator, y, args.steps, v0)
            method = METHODS[name]
            walks = args.steps * method.tries
            cost = f"{walks * method.forward} + {walks * method.back} | {spent:.3f}"
            print(row(name, truth, x, y, operator, distance, cost), flush=True)
            columns.append(x)
        for name in NAMES if peer and task in LINEAR else ():
            x, spent, passes = peer.restore(name, args.steps, task, operator, y)
            x, cost = jnp.clip(x, -1, 1), f"{passes} | {spent:.3f}"
            print(row(f"{name}, deepinv", truth, x, y, operator, distance, cost), flush=True)
        picture(args.out / f"{task.replace(' ', '_')}.png", columns)


def picture(path: pathlib.Path, columns: list[Any], rows: int = 4) -> None:
    """Truth, the measurement and every method side by side, a row every second image."""
    chosen = jnp.stack([x[::2][:rows] for x in columns], axis=1).reshape(-1, *SHAPE)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.grids.write_grid(path, np.asarray(chosen), columns=len(columns), zoom=2)


if __name__ == "__main__":
    main()
