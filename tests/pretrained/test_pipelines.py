"""Whole pipelines against diffusers': the same prompts, the same noise, the same images.

Tokenisers, text encoders, network, guidance, scheduler and autoencoder in one: 20 steps of the
default scheduler of each checkpoint. Images are in [0, 1].
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import pipelines
from tests.pretrained.parity import ROOT, gap, nhwc

PROMPTS = ["a photo of the house", "the time of an open image and some more words"]
NEGATIVE = "not the photo"
SCALES = {"sd15": 7.5, "sdxl": 5.0, "sd3": 7.0}
KEY = jax.random.key(0)


def _io(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(ROOT / f"pipeline_{name}" / "io.npz", allow_pickle=False))


def _image(x: jax.Array) -> np.ndarray:
    return np.clip(np.asarray(x) / 2 + 0.5, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALES)
def test_text_to_image(name):
    loaded, io = jd.load(ROOT / f"pipeline_{name}"), _io(name)
    with jax.default_matmul_precision("highest"):
        x = pipelines.text_to_image(
            KEY,
            loaded,
            PROMPTS,
            negative=NEGATIVE,
            scale=SCALES[name],
            steps=20,
            start=nhwc(io["noise"]),
        )
    assert 0.01 < io["images"].std()
    assert gap(_image(x), io["images"]) < 1e-4


@pytest.mark.slow
def test_class_to_image():
    loaded, io = jd.load(ROOT / "pipeline_dit"), _io("dit")
    with jax.default_matmul_precision("highest"):
        x = pipelines.class_to_image(
            KEY, loaded, jnp.array([7, 31]), scale=4.0, steps=20, start=nhwc(io["noise"])
        )
    assert 0.01 < io["images"].std()
    assert gap(_image(x), io["images"]) < 1e-4
