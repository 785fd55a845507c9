"""`jaxdiff evaluate`: the figures of a run, on held-out data, on samples, or on what is given."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import data, experiment, metrics
from jaxdiff.cli.files import chunks, read_array, read_set
from jaxdiff.cli.sample import many
from jaxdiff.data.sources import take
from jaxdiff.data.values import check_finite, unit
from jaxdiff.denoise import bind
from jaxdiff.metrics.likelihood import bits_bound
from jaxdiff.types import Batch


def run(args: argparse.Namespace) -> None:
    """Measure and print one line a metric."""
    wanted = [name.strip() for name in args.metrics.split(",") if name.strip()]
    for name in wanted:
        if name not in _METRICS:
            raise ValueError(f"--metrics {name}: it is one of {', '.join(_METRICS)}")
    if args.n < 2:
        raise ValueError(f"--n {args.n}: at least two images")
    pair: dict[str, Any] = {}
    for name in wanted:
        value, what = _METRICS[name](args, pair)
        print(f"{name} {value:.4f}  ({what})", flush=True)


def _held_out(args: argparse.Namespace, config: Any) -> tuple[data.Source, np.ndarray, str]:
    """The held-out source, which rows of it (spread evenly), and a word for them."""
    found = experiment.source(config, test=True)
    n = min(args.n, len(found.images))
    rows = np.linspace(0, len(found.images) - 1, n).astype(int)
    held = config.data.test or "the training images"
    return found, rows, f"{n} of {held}"


def _loss(args: argparse.Namespace, pair: dict[str, Any]) -> tuple[float, str]:
    params, found, config = experiment.restore(args.run)
    source, rows, what = _held_out(args, config)
    loss = jax.jit(functools.partial(found.loss, drop=0.0))
    total, size = 0.0, min(len(rows), config.batch)
    count = len(rows) // size
    for start in chunks(count * size, size, "loss"):
        part = rows[start : start + size]
        cond = None if source.labels is None else jnp.asarray(take(source.labels, part))
        # Each batch numbers its rows on, so that no two images share their noise.
        ids = jnp.arange(start, start + size, dtype=jnp.int32)
        x = jnp.asarray(unit(take(source.images, part), "images"))
        total += float(loss(params, jax.random.key(args.seed), Batch(x, cond, ids))[0])
    return total / count, f"config.loss on {what}, averaged parameters"


def _bits(args: argparse.Namespace, pair: dict[str, Any]) -> tuple[float, str]:
    model, _, config = experiment.load(args.run)
    source, rows, what = _held_out(args, config)
    images = take(source.images, rows)
    if images.dtype != np.uint8:
        raise ValueError(
            f"bits need images of bytes; this run has {images.dtype}{images.shape[1:]}"
        )
    labels = None if source.labels is None else take(source.labels, rows)
    bound = jax.jit(lambda key, cond, x, ids: bits_bound(key, bind(model, cond), x, ids=ids))
    size = min(len(rows), 50)
    parts = []
    for start in chunks(len(rows) // size * size, size, "bits"):
        part = slice(start, start + size)
        cond = None if labels is None else jnp.asarray(labels[part], jnp.int32)
        ids = jnp.arange(start, start + size)
        parts.append(bound(jax.random.key(args.seed), cond, jnp.asarray(images[part]), ids))
    each = np.concatenate(parts)
    error = each.std() / len(each) ** 0.5
    return float(each.mean()), f"bits/dim, an upper bound, +- {error:.4f}, {what}"


def _features(args: argparse.Namespace, pair: dict[str, Any]) -> tuple[Any, Any, str]:
    """Features of real images and of samples: given, or of a small network fitted here."""
    if args.features:
        found = [read_array(path) for path in args.features]
        for path, values in zip(args.features, found):
            if values.ndim != 2:
                raise ValueError(f"{path} has shape {values.shape}: features are [n, d]")
            check_finite(values, path)
        a, b = (jnp.asarray(values, jnp.float32) for values in found)
        return a, b, "given features"
    if "made" not in pair:
        pair["made"] = _probed(args)
    return pair["made"]


def _probed(args: argparse.Namespace) -> tuple[Any, Any, str]:
    model, found, config = experiment.load(args.run)
    if not found.info.classes or len(found.info.shape) != 3:
        raise ValueError(
            "the default features are of a classifier, and this run has no classes of images: give "
            "--features REAL.npz MADE.npz"
        )
    if args.scale is not None:
        experiment.put(config, "sample.scale", args.scale)
    real = experiment.source(config)
    every = np.arange(len(real.images))
    images, labels = take(real.images, every), take(real.labels, every)
    fit = functools.partial(metrics.small_cnn, classes=found.info.classes)
    net = jax.jit(fit)(jax.random.key(0), jnp.asarray(images), jnp.asarray(labels))
    made = jnp.clip(jnp.asarray(many(config, found, model, args.seed, args.n)), -1, 1)
    what = f"{args.n} samples at scale {config.sample.scale}, 64 features of a small network"
    return metrics.features(net, jnp.asarray(images)), metrics.features(net, made), what


def _frechet(args: argparse.Namespace, pair: dict[str, Any]) -> tuple[float, str]:
    a, b, what = _features(args, pair)
    return float(metrics.frechet(metrics.moments(a), metrics.moments(b))), what


def _kernel(args: argparse.Namespace, pair: dict[str, Any]) -> tuple[float, str]:
    a, b, what = _features(args, pair)
    return float(metrics.kernel_distance(a, b)), what


def _compared(name: str, args: argparse.Namespace, pair: dict[str, Any]) -> tuple[float, str]:
    if not args.images:
        raise ValueError(f"--metrics {name} compares pictures: give --images ORIGINALS RESTORED")
    a, b = (read_set(place) for place in args.images)
    if a.shape != b.shape:
        raise ValueError(
            f"{args.images[0]} holds images {a.shape}, {args.images[1]} {b.shape}: pairs are needed"
        )
    for place, values in zip(args.images, (a, b)):
        check_finite(values, place)
    each = getattr(metrics, name)(jnp.asarray(a), jnp.asarray(b))
    return float(jnp.mean(each)), f"mean over {len(each)} pairs"


_METRICS: dict[str, Callable[..., tuple[float, str]]] = {
    "loss": _loss,
    "bits": _bits,
    "frechet": _frechet,
    "kernel": _kernel,
    "psnr": functools.partial(_compared, "psnr"),
    "ssim": functools.partial(_compared, "ssim"),
}
