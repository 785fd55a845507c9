"""`jaxdiff sample CHECKPOINT`: draw from a pretrained checkpoint, by prompts or by classes."""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import samplers
from jaxdiff.cli.files import chunks, picture
from jaxdiff.data.grids import write_picture
from jaxdiff.data.values import images_to_unit
from jaxdiff.pipelines import Pretrained, class_to_image, image_to_image, text_to_image, walked_by
from jaxdiff.pretrained import load

DEFAULTS: dict[str, Any] = {
    "prompt": [],
    "negative": "",
    "label": [],
    "image": None,
    "strength": 0.8,
    "n": None,
    "seed": 0,
    "steps": 30,
    "sampler": None,
    "scale": 7.5,
    "size": None,
    "variant": None,
}
"""What a picture's recipe repeats, and what holds where neither it nor the user says."""
BATCH = 4
"""Images made in one call."""


def is_checkpoint(name: str) -> bool:
    """Whether a name means a checkpoint rather than a run folder: a pipeline, or one on the hub."""
    folder = pathlib.Path(name)
    return (folder / "model_index.json").is_file() or (not folder.exists() and name.count("/") == 1)


def run(args: argparse.Namespace, like: Mapping[str, Any]) -> None:
    """Draw the prompts (or classes) in turn until there are n images, and write them."""
    recipe = {
        key: like.get(key, default) if getattr(args, key) is None else getattr(args, key)
        for key, default in DEFAULTS.items()
    }
    if bool(recipe["prompt"]) == bool(recipe["label"]):
        raise ValueError("give either --prompt TEXT ... or --label NUMBER ...")
    loaded = load(args.run, variant=recipe["variant"])
    if recipe["sampler"] is not None:
        loaded = walked_by(loaded, *samplers.named(recipe["sampler"]))
    x = _images(loaded, recipe)
    out = pathlib.Path(args.out or "sample.png")
    write_picture(out, x, recipe={"run": str(args.run)} | recipe)
    print(f"{len(x)} images in {out}")


def _images(loaded: Pretrained, recipe: Mapping[str, Any]) -> np.ndarray:
    asked = recipe["prompt"] or [int(label) for label in recipe["label"]]
    n = len(asked) if recipe["n"] is None else int(recipe["n"])
    turn = [asked[i % len(asked)] for i in range(n)]
    key, parts = jax.random.key(int(recipe["seed"])), []
    size = min(n, BATCH)
    for start in chunks(n, size, "sampling"):
        some = [turn[min(i, n - 1)] for i in range(start, start + size)]
        parts.append(np.asarray(_some(jax.random.fold_in(key, start), loaded, some, recipe)))
    return np.concatenate(parts)[:n]


def _some(key: Any, loaded: Pretrained, asked: list[Any], recipe: Mapping[str, Any]) -> Any:
    common = {"scale": float(recipe["scale"]), "steps": int(recipe["steps"])}
    if not recipe["prompt"]:
        return class_to_image(key, loaded, jnp.asarray(asked), **common)
    words: dict[str, Any] = common | {"negative": recipe["negative"]}
    if recipe["image"] is None:
        return text_to_image(key, loaded, asked, size=recipe["size"], **words)
    pixels = picture(pathlib.Path(recipe["image"]), recipe["size"], 3)
    image = np.repeat(np.asarray(images_to_unit(pixels), np.float32)[None], len(asked), 0)
    strength = float(recipe["strength"])
    return image_to_image(key, loaded, asked, jnp.asarray(image), strength=strength, **words)
