"""Experiments: a config becomes objects, objects become a run folder, a run folder a model again.

    config = read_config("fashion_mnist", ["--config.steps=100"])
    train(config, "runs/mine")                       # the same call resumes
    model, experiment, config = load("runs/mine")    # with the averaged parameters

`config.py` says what may stand in a config, `objects.py` is the only file that turns one into
objects, `run.py` trains and loads. A run folder describes itself: config.json, checkpoints/,
metrics.jsonl, tensorboard/, samples/*.png.
"""

from jaxdiff.experiment.config import default, flat, from_values, put, read_config
from jaxdiff.experiment.objects import (
    Experiment,
    Info,
    build,
    grid_of,
    info_of,
    label_of,
    model_of,
    sampler_of,
    source,
)
from jaxdiff.experiment.run import batches, load, restore, train
from jaxdiff.experiment.show import draw, drawn, spread

__all__ = [
    "Experiment",
    "Info",
    "batches",
    "build",
    "default",
    "draw",
    "drawn",
    "flat",
    "from_values",
    "grid_of",
    "info_of",
    "label_of",
    "load",
    "model_of",
    "put",
    "read_config",
    "restore",
    "sampler_of",
    "source",
    "spread",
    "train",
]
