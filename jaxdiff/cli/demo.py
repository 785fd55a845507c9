"""`jaxdiff demo`: train, sample and restore on the embedded images, and measure what came out.

It does what the other commands do, one after the other, and ends with figures, each with the
interval that it has to lie in; it fails if one does not.
"""

import argparse
import functools
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff import data, experiment, inverse, metrics, samplers
from jaxdiff.cli.restore import measure, operator_of
from jaxdiff.cli.sample import many
from jaxdiff.data.grids import write_beside, write_grid
from jaxdiff.denoise import Denoiser, Model, bind
from jaxdiff.inverse import Operator
from jaxdiff.metrics import probe
from jaxdiff.training.sharding import batch_sharding, mesh

NOISE = 0.05
"""Standard deviation of the measurement noise, images on [-1, 1]."""

HELD_OUT = 64
"""How many test images are restored."""

GATES = {"box": ("A^T y", 4.0), "random": ("mean-image fill", 6.0), "superres": ("pinv", 2.0)}
"""Per task: the naive answer, and by how many dB it has to be beaten."""


Loaded = tuple[Model, experiment.Experiment, Any]
"""What `experiment.load` returns."""


class Figure(NamedTuple):
    """A measured number with the interval it has to lie in."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the number lies in its interval; NaN does not.

        >>> Figure("x", float("nan"), 0.0, 1.0).passed
        False
        """
        return self.low <= self.value <= self.high


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; the exit status is 1 if a figure misses its gate."""
    began = time.monotonic()
    out = pathlib.Path(args.out)
    config = experiment.read_config("fashion_mnist", [f"--config.seed={args.seed}"])
    experiment.put(config, "look.every", 0)  # its samples come at the end
    if args.steps is not None:
        experiment.put(config, "steps", args.steps)
    print(f"1/4 training: {config.steps} steps on 10,000 embedded images of clothes", flush=True)
    experiment.train(config, out / "run", say=print)
    _plot_loss(out / "run" / "metrics.jsonl", out / "loss.png")
    train, test = data.fashion_mnist("train"), data.fashion_mnist("test")
    print("2/4 judges: two small classifiers, fitted on the same images", flush=True)
    loaded = experiment.load(out / "run")
    figures = sampled(out, args.seed, loaded, train, test)
    figures += restorations(out, args.seed, loaded, train, test)
    pictures = ("samples", *(f"restored_{task}" for task in GATES))
    write_beside(out / "demo.png", [out / f"{name}.png" for name in pictures])
    _report(figures, out, time.monotonic() - began)
    return 0 if all(f.passed for f in figures) else 1


def sampled(
    out: pathlib.Path, seed: int, loaded: Loaded, train: data.Source, test: data.Source
) -> list[Figure]:
    """Draw a grid per class and 500 samples; agreement and proxy Frechet distance."""
    model, found, config = loaded
    images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
    judge = jax.jit(probe.logistic, static_argnames=("classes",))(images, labels, classes=10)
    cnn = jax.jit(probe.small_cnn, static_argnames=("classes",))(
        jax.random.key(0), images, labels, classes=10
    )
    print("3/4 sampling: 10 of each class at w = 2, then 500 at w = 1.5", flush=True)
    grid = _drawn(config, found, model, seed, 100, 2.0)
    write_grid(out / "samples.png", grid, columns=10, zoom=2)
    chosen = jnp.argmax(probe.logits(judge, jnp.asarray(grid)), axis=-1)
    agreement = 100 * float(jnp.mean(chosen == jnp.arange(100) % 10))
    many_ = jnp.asarray(_drawn(config, found, model, seed + 1, 500, 1.5))
    real = jnp.asarray(test.images)
    right = jnp.argmax(probe.logits(judge, real), axis=-1) == jnp.asarray(test.labels)
    distance, floor = _distances(cnn, images, many_, real[::2])
    return [
        Figure(
            "agreement of 100 samples at w=2 with a logistic classifier, %", agreement, 80.0, 100.0,
            f"real test images {100 * float(jnp.mean(right)):.1f}",
        ),
        Figure(
            "proxy Frechet distance of 500 samples at w=1.5", distance, 0.0, 3.0,
            f"500 real test images {floor:.2f}",
        ),
    ]  # fmt: skip


def _distances(cnn: Any, train: Array, *sets: Array) -> list[float]:
    """Frechet distances of sets of images to the training images, on the classifier's features."""
    truth = metrics.moments(probe.features(cnn, train))
    each = [metrics.moments(probe.features(cnn, x)) for x in sets]
    return [float(metrics.frechet(m, truth)) for m in each]


def _drawn(config: Any, found: Any, model: Model, seed: int, n: int, scale: float) -> np.ndarray:
    experiment.put(config, "sample.scale", scale)
    return np.clip(many(config, found, model, seed, n), -1.0, 1.0)


def restorations(
    out: pathlib.Path, seed: int, loaded: Loaded, train: data.Source, test: data.Source
) -> list[Figure]:
    """Restore held-out images of three measurements; gains over naive answers, residuals."""
    print(f"4/4 restoring {HELD_OUT} held-out images from three measurements", flush=True)
    model, found, config = loaded
    empty = jnp.full(HELD_OUT, found.info.classes, jnp.int32)
    denoise = bind(experiment.spread(model), empty)
    every = jnp.asarray(data.images_to_unit(train.images))
    step = len(test.images) // HELD_OUT  # the set is sorted by class: take all of them
    truth = jnp.asarray(data.images_to_unit(test.images[::step][:HELD_OUT]))
    times = experiment.grid_of(config, found.process)
    figures = []
    for number, task in enumerate(GATES):
        key = jax.random.fold_in(jax.random.key(seed), number)
        figures += _restore(out, key, task, denoise, times, truth, every)
    return figures


def _restore(
    out: pathlib.Path,
    key: Array,
    task: str,
    denoise: Denoiser,
    times: Array,
    truth: Array,
    train: Array,
) -> list[Figure]:
    operator = operator_of(task, truth.shape[1:], 0)
    y = measure(key, operator, truth, NOISE)
    y = jax.device_put(y, batch_sharding(mesh(jax.local_devices())))
    x = posterior_sample(jax.random.fold_in(key, 1), denoise, operator, y, times, truth.shape)
    base, linear = naive(task, operator, y, train), linear_estimate(train, operator, y)
    _picture(out / f"restored_{task}.png", truth, jax.vmap(operator.pinv)(y), x)
    ours, theirs, best = (float(jnp.mean(metrics.psnr(truth, p))) for p in (x, base, linear))
    seen = operator.A(jnp.ones(operator.shape)) != 0
    off = metrics.residual(y, jax.vmap(operator.A)(x), noise=NOISE, observed=seen)
    name, gate = GATES[task]
    note = f"MMPS {ours:.2f} dB, {name} {theirs:.2f} dB, Gaussian linear estimate {best:.2f} dB"
    return [
        Figure(f"{task}: gain over {name}, dB", ours - theirs, gate, float("inf"), note),
        Figure(f"{task}: residual / noise level", float(jnp.mean(off)), 0.8, 1.5),
    ]


def posterior_sample(
    key: Array, denoise: Denoiser, operator: Operator, y: Array, times: Array, shape: tuple
) -> Float[Array, "b h w c"]:
    """One sample of p(x | y) per measurement: MMPS, ancestral steps."""
    return jnp.clip(_sampled(key, denoise, operator, y, times, shape), -1.0, 1.0)


@functools.partial(jax.jit, static_argnames=("shape",))  # one function: masks share a compilation
def _sampled(
    key: Array, denoise: Denoiser, operator: Operator, y: Array, times: Array, shape: tuple
) -> Array:
    guided = inverse.mmps(operator, y, noise=NOISE, steps=2)(denoise)
    return samplers.sample(key, guided, samplers.ddim(1.0), shape=shape, times=times)


def naive(task: str, operator: Operator, y: Array, train: Array) -> Float[Array, "b h w c"]:
    """The answer to beat: the pseudo-inverse, holes filled with the mean image if they are many."""
    answer = jax.vmap(operator.pinv)(y)
    if task != "random":
        return answer
    mean = jnp.mean(train, axis=0)
    return answer + (mean - operator.pinv(operator.A(mean)))[None]


def linear_estimate(train: Array, operator: Operator, y: Array) -> Float[Array, "b h w c"]:
    """E[x | y] if images were Gaussian with the mean and covariance of the training images.

    m + C A^T (A C A^T + s^2 I)^-1 (y - A m).
    """
    flat = train.reshape(len(train), -1)
    mean, cov = jnp.mean(flat, axis=0), jnp.cov(flat, rowvar=False)
    each = jax.vmap(lambda e: operator.A(e.reshape(train.shape[1:])).ravel())
    rows = each(jnp.eye(flat.shape[1])).T
    gram = rows @ cov @ rows.T + NOISE**2 * jnp.eye(len(rows))
    offset = y.reshape(len(y), -1) - (rows @ mean)[None]
    best = mean[None] + jnp.linalg.solve(gram, offset.T).T @ rows @ cov
    return best.reshape(len(y), *train.shape[1:])


def _picture(out: pathlib.Path, *columns: Array) -> None:
    """The first 16 images, each as a row of truth, measurement and restoration; two rows a line."""
    rows = jnp.stack([c[::4][:16] for c in columns], axis=1)
    write_grid(
        out, np.clip(np.asarray(rows.reshape(-1, *rows.shape[2:])), -1, 1), columns=6, zoom=2
    )


def _plot_loss(metrics_file: pathlib.Path, out: pathlib.Path) -> None:
    """The training loss against the step, with its running mean."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed to write a file
    from matplotlib import pyplot

    rows = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    points = np.array([(row["step"], row["loss"]) for row in rows if "loss" in row])
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(*points.T)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def _report(figures: list[Figure], out: pathlib.Path, seconds: float) -> None:
    print(f"\nMeasured in {seconds:.0f} s:")
    for f in figures:
        gate = f">= {f.low:g}" if f.high == float("inf") else f"{f.low:g} ... {f.high:g}"
        verdict = "ok  " if f.passed else "MISS"
        print(f"  {verdict} {f.name}: {f.value:.2f} (gate {gate}){'; ' + f.note if f.note else ''}")
    print(f"\nPictures: {', '.join(str(p) for p in sorted(out.glob('*.png')))}")
    print("Go on with:")
    print(f"  jaxdiff sample {out / 'run'} --label Bag --n 25 --scale 2 --out bags.png")
    print(f"  jaxdiff restore {out / 'run'} YOUR_PICTURE.png --task random")
    print("  jaxdiff train folder --config.data.path=YOUR_FOLDER --folder runs/mine")
