"""`jaxdiff sample`: draw from a run, write a picture."""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import experiment
from jaxdiff.cli import prompted
from jaxdiff.cli.files import chunks
from jaxdiff.data.grids import read_recipe, write_picture
from jaxdiff.data.values import to_uint8
from jaxdiff.denoise import Model
from jaxdiff.experiment import Experiment

CHUNK = 50
"""Samples drawn in one call."""


_DEFAULTS = {"label": [], "n": 16, "seed": 0, "steps": None, "sampler": None, "scale": None}
"""What a picture's recipe repeats, and what holds where neither it nor the user says."""


def run(args: argparse.Namespace) -> None:
    """Draw samples, class by class, and write them."""
    like = read_recipe(args.like) if args.like else {}
    args.run = args.run or like.get("run")
    if args.run is None:
        raise ValueError("RUN is missing: give a run folder, or --like PICTURE")
    if prompted.is_checkpoint(args.run):
        return prompted.run(args, like)
    for key, default in _DEFAULTS.items():
        if getattr(args, key) is None:
            setattr(args, key, like.get(key, default))
    model, found, config = experiment.load(args.run)
    for key, value in (("steps", args.steps), ("sampler", args.sampler), ("scale", args.scale)):
        if value is not None:
            experiment.put(config, f"sample.{key}", value)
    labels = [experiment.label_of(found.info, text) for text in args.label]
    x = many(config, found, model, args.seed, args.n, labels)
    out = pathlib.Path(args.out or pathlib.Path(args.run) / "samples" / "sample.png")
    recipe = {"run": str(args.run)} | {key: getattr(args, key) for key in _DEFAULTS}
    write(out, x, columns=_columns(found.info.classes, labels, args.n), recipe=recipe)
    print(f"{args.n} samples in {out}")


def many(
    config: ConfigDict,
    found: Experiment,
    model: Model,
    seed: int,
    n: int,
    labels: list[int] | None = None,
) -> np.ndarray:
    """n samples in chunks of one size, so that all share one compilation; labels in turn."""
    compiled, key = experiment.drawn(config, found), jax.random.key(seed)
    model = experiment.spread(model)
    size = max(1, min(n, CHUNK))
    parts = []
    for start in chunks(max(n, 1), size, "sampling"):
        ids = np.arange(start, start + size)
        given = jnp.asarray(np.asarray(labels)[ids % len(labels)], jnp.int32) if labels else None
        many_ = experiment.draw(
            config, found, model, key, size if n > 0 else n, labels=given, start=start, run=compiled
        )
        parts.append(np.asarray(many_))
    return np.concatenate(parts)[:n]


def _columns(classes: int, labels: list[int], n: int) -> int | None:
    turn = len(labels) or classes
    return turn if 2 <= turn <= min(n, 20) else None


def write(
    out: pathlib.Path,
    x: np.ndarray,
    *,
    columns: int | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write samples as a picture, or as an array if the name ends in .npy (images as bytes)."""
    if out.suffix != ".npy":
        return write_picture(out, x, columns=columns, recipe=recipe)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        np.save(out, to_uint8(x) if x.ndim == 4 else x)
    except OSError as error:
        raise OSError(error.errno, f"{out} cannot be written: {error.strerror}") from error
