"""`load` and the pipelines: what they say of bad input, and what they keep to."""

import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import pipelines, samplers
from jaxdiff.pretrained import load_part, save_part
from tests.pretrained.parity import ROOT

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def sd15():
    return jd.load(ROOT / "pipeline_sd15")


@pytest.fixture
def copy(tmp_path):
    """A checkpoint to be damaged."""
    shutil.copytree(ROOT / "pipeline_sd15", tmp_path / "sd15")
    return tmp_path / "sd15"


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_load_gives(sd15):
    assert sd15.kind == "UNet2DConditionModel"
    assert sd15.prediction.name == "eps"
    assert float(sd15.process.t_max) == 999
    assert sorted(sd15.parts) == ["text_encoder", "vae"]
    assert list(sd15.words) == ["tokenizer"]
    assert pipelines.latent_shape(sd15, 2, None) == (2, 8, 8, 4)
    assert pipelines.latent_shape(sd15, 1, (32, 24)) == (1, 16, 12, 4)


def test_one_network_needs_a_scheduler(tmp_path):
    folder = ROOT / "unet_ddpm"
    with pytest.raises(ValueError, match=r"no scheduler_config\.json"):
        jd.load(folder)
    loaded = jd.load(folder, scheduler={"_class_name": "DDPMScheduler"})
    assert loaded.schedule.clip == 1.0


def test_parts_may_be_left_out():
    loaded = jd.load(ROOT / "pipeline_sd15", without=["text_encoder", "tokenizer"])
    assert list(loaded.parts) == ["vae"]
    with pytest.raises(ValueError, match="has no 'text_encoder'; it has vae"):
        loaded.part("text_encoder")


def test_parameters_in_half_precision():
    loaded = jd.load(ROOT / "pipeline_sd15", dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("name", ["pipeline_sd15/unet", "pipeline_sd3/transformer", "unet_ddpm"])
def test_how_to_compute(name):
    """Half precision changes little, recomputing and loops nothing at all."""
    outs: list[jax.Array] = []
    hows: list[dict[str, Any]] = [{}, {"remat": True, "scan": True}, {"compute": jnp.bfloat16}]
    for how in hows:
        part = load_part(ROOT / name, **how)
        cond: dict = {}
        if "sd3" in name:
            cond = {"tokens": jnp.ones((1, 5, 32)), "pooled": jnp.ones((1, 32))}
        elif "sd15" in name:
            cond = {"tokens": jnp.ones((1, 5, 16))}
        x = jax.random.normal(KEY, (1, 8, 8, part.config["in_channels"]))
        outs.append(jax.jit(part.net.apply)(part.params, x, jnp.array([3.0]), cond or None))
    assert outs[2].dtype == jnp.float32
    scale = float(jnp.abs(outs[0]).max())
    np.testing.assert_allclose(outs[1], outs[0], atol=1e-5 * scale)
    np.testing.assert_allclose(outs[2], outs[0], atol=0.1 * scale)
    assert float(jnp.abs(outs[2] - outs[0]).max()) > 0


# --- checkpoints that are none -------------------------------------------------------------------


def test_no_checkpoint(tmp_path):
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(ValueError, match=r"is no checkpoint: .* it holds readme"):
        jd.load(tmp_path)


def test_an_unknown_class_with_the_nearest(copy):
    _change(copy / "unet" / "config.json", _class_name="UNet3DConditionModel")
    with pytest.raises(ValueError, match=r"'UNet3DConditionModel'.* nearest is 'UNet2DCondition"):
        jd.load(copy)


def test_a_config_that_is_none(copy):
    (copy / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        jd.load(copy)
    (copy / "unet" / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list"):
        jd.load(copy)
    (copy / "unet" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no class"):
        jd.load(copy)


def test_an_index_that_is_none(copy):
    (copy / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json is no JSON object"):
        jd.load(copy)


def test_a_knob_that_nobody_knows(copy):
    _change(copy / "unet" / "config.json", rotary_layers=3)
    with pytest.raises(ValueError, match="sets what jaxdiff does not know: rotary_layers = 3"):
        jd.load(copy)


def test_weights_of_another_size(copy):
    _change(copy / "unet" / "config.json", cross_attention_dim=24)
    with pytest.raises(ValueError, match=r"another size .*attn2\.to_k\.weight is \[16, 16\], not"):
        jd.load(copy)


def test_truncated_weights(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        jd.load(copy)


def test_pickled_weights(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ValueError, match="jaxdiff convert --unsafe-pickle"):
        jd.load(copy)


def test_a_pipeline_without_a_network(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index.pop("unet")
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="holds no network that predicts"):
        jd.load(copy)


# --- there and back ------------------------------------------------------------------------------


def test_what_is_written_is_read_again_bit_for_bit(tmp_path, sd15):
    part = load_part(ROOT / "pipeline_sd15" / "unet")
    save_part(tmp_path / "unet", part)
    again = load_part(tmp_path / "unet")
    jax.tree.map(np.testing.assert_array_equal, part.params, again.params)
    assert again.config == part.config
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-5] ^= 4
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="does not have the sha256 that it was written with"):
        load_part(tmp_path / "unet")


# --- pipelines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [17, (16, 18), 2])
def test_a_size_that_the_network_cannot_take(sd15, size):
    with pytest.raises(ValueError, match=r"takes multiples of 4; the nearest is"):
        pipelines.text_to_image(KEY, sd15, ["a"], size=size)


def test_prompts_that_do_not_fit(sd15):
    with pytest.raises(TypeError, match="give a list of strings"):
        pipelines.condition(sd15, "a cat", size=(16, 16))
    with pytest.raises(ValueError, match="3 negative prompts for 2 prompts"):
        pipelines.text_to_image(KEY, sd15, ["a", "b"], negative=["c"] * 3)
    with pytest.raises(ValueError, match="is not closed"):
        pipelines.text_to_image(KEY, sd15, ["a (cat"])


def test_a_long_prompt_is_never_cut_in_silence(sd15):
    prompt = "a photo " * 60
    whole = pipelines.condition(sd15, [prompt], size=(16, 16))
    assert whole["tokens"].shape == (1, 154, 16)
    with pytest.warns(UserWarning, match="this was cut off"):
        cut = pipelines.condition(sd15, [prompt], size=(16, 16), windows=False)
    np.testing.assert_array_equal(cut["tokens"], whole["tokens"][:, :77])


@pytest.mark.parametrize("strength", [0.0, 0.01, 1.5])
def test_a_strength_that_leaves_nothing(sd15, strength):
    image = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match="strength="):
        pipelines.image_to_image(KEY, sd15, ["a"], image, strength=strength, steps=4)


def test_images_that_do_not_fit(sd15):
    image = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match="1 images for 2 prompts"):
        pipelines.image_to_image(KEY, sd15, ["a", "b"], image)
    with pytest.raises(ValueError, match=r"image spans \[2, 2\]"):
        pipelines.image_to_image(KEY, sd15, ["a"], image + 2)
    with pytest.raises(ValueError, match="hidden has shape"):
        pipelines.inpaint(KEY, sd15, ["a"], image, jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match="one that follows instructions has 8"):
        pipelines.follow(KEY, sd15, ["a"], image)
    with pytest.raises(ValueError, match="reads no class labels"):
        pipelines.class_to_image(KEY, sd15, jnp.array([1]))


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch(sd15):
    """And the same key gives the same image; another sampler another one."""
    prompts = ["a photo", "the house", "a photo"]

    def draw(prompts, loaded=sd15):
        return pipelines.text_to_image(KEY, loaded, prompts, steps=3, size=16)

    three, one = draw(prompts), draw(prompts[:1])
    np.testing.assert_allclose(three[:1], one, atol=2e-5)
    assert float(jnp.abs(three[0] - three[2]).max()) > 0.01
    seen: list[int] = []
    pipelines.text_to_image(
        KEY, sd15, ["a"], steps=3, size=16, progress=lambda i, n: seen.append(int(i))
    )
    jax.effects_barrier()
    assert sorted(set(seen)) == [0, 1, 2]
    other = draw(prompts, pipelines.walked_by(sd15, *samplers.named("DPM++ 2M Karras")))
    assert float(jnp.abs(three - other).max()) > 0.001


@pytest.mark.slow
def test_inpainting_with_an_ordinary_network_keeps_what_is_seen(sd15):
    image = jnp.linspace(-1, 1, 768).reshape(1, 16, 16, 3)
    hidden = jnp.zeros((1, 16, 16, 1))
    kept = pipelines.inpaint(KEY, sd15, ["a"], image, hidden, steps=3)
    z = pipelines.encode(sd15, image, jax.random.fold_in(KEY, 1))
    np.testing.assert_allclose(kept, pipelines.decode(sd15, z), atol=1e-4)
