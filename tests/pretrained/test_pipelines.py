"""Whole pipelines against diffusers': the same prompts, the same noise, the same images.

Tokenisers, text encoders, network, guidance, scheduler and autoencoder in one: 20 steps of the
default scheduler of each checkpoint. Images are in [0, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import pipelines
from jaxdiff.pretrained import Pretrained, controlled
from tests.pretrained.parity import ROOT, gap, nhwc

PROMPTS = ["a photo of the house", "the time of an open image and some more words"]
NEGATIVE = "not the photo"
SCALES = {"sd15": 7.5, "sdxl": 5.0, "sd3": 7.0, "pixart": 4.5, "flux": 3.5}
KEY = jax.random.key(0)


def _loaded(name: str) -> tuple[Pretrained, dict[str, np.ndarray]]:
    folder = ROOT / f"pipeline_{name}"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is made by experiments/pytorch_parity")
    return jd.load(folder), dict(np.load(folder / "io.npz", allow_pickle=False))


def _compare(x: jax.Array, io: dict[str, np.ndarray]) -> None:
    image = np.clip(np.asarray(x) / 2 + 0.5, 0, 1)
    assert io["images"].std() > 0.01
    assert gap(image, io["images"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALES)
def test_text_to_image(name):
    loaded, io = _loaded(name)
    with jax.default_matmul_precision("highest"):
        x = pipelines.text_to_image(
            KEY,
            loaded,
            PROMPTS,
            negative=NEGATIVE,
            scale=SCALES[name],
            steps=20,
            size=16,
            start=nhwc(io["noise"]),
        )
    _compare(x, io)


@pytest.mark.slow
def test_class_to_image():
    loaded, io = _loaded("dit")
    with jax.default_matmul_precision("highest"):
        x = pipelines.class_to_image(
            KEY, loaded, jnp.array([7, 31]), scale=4.0, steps=20, start=nhwc(io["noise"])
        )
    _compare(x, io)


def _given(io: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"negative": NEGATIVE, "scale": 7.5, "steps": 20, "start": nhwc(io["noise"])}


@pytest.mark.slow
def test_image_to_image():
    loaded, io = _loaded("img2img")
    with jax.default_matmul_precision("highest"):
        image = nhwc(io["image"])
        x = pipelines.image_to_image(KEY, loaded, PROMPTS, image, strength=0.6, **_given(io))
    _compare(x, io)


@pytest.mark.slow
def test_inpainting_with_a_network_of_nine_channels():
    loaded, io = _loaded("inpaint")
    with jax.default_matmul_precision("highest"):
        image, hidden = nhwc(io["image"]), nhwc(io["mask"])
        x = pipelines.inpaint(KEY, loaded, PROMPTS, image, hidden, **_given(io))
    _compare(x, io)


@pytest.mark.slow
def test_instructions():
    loaded, io = _loaded("instruct")
    with jax.default_matmul_precision("highest"):
        x = pipelines.follow(KEY, loaded, PROMPTS, nhwc(io["image"]), **_given(io))
    _compare(x, io)


@pytest.mark.slow
def test_a_control_network():
    loaded, io = _loaded("control")
    beside = {"hint": nhwc(io["image"]) / 2 + 0.5, "hint_scale": jnp.full(2, 0.8)}
    loaded = controlled(loaded, loaded.part("controlnet"))
    with jax.default_matmul_precision("highest"):
        x = pipelines.text_to_image(KEY, loaded, PROMPTS, beside=beside, **_given(io))
    _compare(x, io)
