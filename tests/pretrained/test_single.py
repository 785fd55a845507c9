"""Stable Diffusion in one file, against the code of its authors."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxdiff.pretrained import load_single
from jaxdiff.pretrained.files import read_tensors, write_tensors
from jaxdiff.pretrained.known import KNOWN
from jaxdiff.pretrained.ldm import open_clip_rules
from jaxdiff.pretrained.names import rename
from tests.pretrained.parity import ROOT, gap, nchw, nhwc

FILE = ROOT / "single" / "model.safetensors"
SD15 = KNOWN["sd15"]
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": SD15["unet"]
    | {
        "block_out_channels": [8, 16, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    "vae": SD15["vae"]
    | {
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": SD15["text_encoder"]
    | {
        "vocab_size": 1314,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "eos_token_id": 1313,
    },
    "scheduler": SD15["scheduler"],
}


def _loaded():
    return load_single(FILE, configs=CONFIGS, words=ROOT / "clip_words")


@pytest.fixture(scope="module")
def io():
    return dict(np.load(ROOT / "single" / "io.npz", allow_pickle=False))


def test_the_unet_answers_as_theirs(io):
    loaded = _loaded()
    with jax.default_matmul_precision("highest"):
        cond = {"tokens": io["tokens"]}
        out = jax.jit(loaded.net.apply)(loaded.params, nhwc(io["x"]), io["time"], cond)
    assert gap(nchw(out), io["answer"]) < 2e-6 * max(1.0, float(np.abs(io["answer"]).max()))


def test_the_autoencoder_answers_as_theirs(io):
    vae = _loaded().part("vae")
    with jax.default_matmul_precision("highest"):
        code = jax.jit(vae.net.encode)(vae.params, nhwc(io["image"]))
        image = jax.jit(vae.net.decode)(vae.params, nhwc(io["x"]))
    assert gap(nchw(code.mean), io["moments"][:, :4]) < 2e-6
    assert gap(nchw(image), io["decoded"]) < 2e-6


def test_every_tensor_of_the_file_is_used_and_the_tokeniser_reads(io):
    loaded = _loaded()
    assert list(loaded.words) == ["tokenizer"]
    assert loaded.words["tokenizer"](["a photo"]).ids.shape == (1, 1, 77)


def test_open_clip_packs_queries_keys_and_values():
    packed = np.arange(24.0).reshape(12, 2)
    found = rename({"transformer.resblocks.3.attn.in_proj_weight": packed}, open_clip_rules())
    at = "text_model.encoder.layers.3.self_attn"
    assert list(found) == [f"{at}.{name}_proj.weight" for name in "qkv"]
    assert np.array_equal(found[f"{at}.k_proj.weight"], packed[4:8])


def test_bad_files(tmp_path):
    tensors = {name: np.asarray(value) for name, value in read_tensors(FILE).items()}
    write_tensors(tmp_path / "a.safetensors", {"x": np.ones(1)})
    with pytest.raises(ValueError, match="holds no Stable Diffusion"):
        load_single(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="looks at tokens of width 16; known are 768"):
        load_single(FILE)
    tensors.pop("first_stage_model.decoder.mid.attn_1.q.weight")
    write_tensors(tmp_path / "b.safetensors", tensors)
    with pytest.raises(ValueError, match=r"1 missing: decoder\.mid_block\.attentions\.0\.to_q"):
        load_single(tmp_path / "b.safetensors", configs=CONFIGS)
    with pytest.raises(ValueError, match="has the sha256"):
        load_single(FILE, configs=CONFIGS, sha256="00")
