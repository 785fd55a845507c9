"""Published transformers against PyTorch: values, gradients, names, and what they refuse."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.functional import shapes
from jaxdiff.pretrained import make_net, save_part
from jaxdiff.pretrained.files import read_folder
from jaxdiff.pretrained.names import tensors_of
from tests.pretrained.parity import ROOT, fixture, gap, nchw, nhwc

CASES = [
    "dit_learned",
    "dit_larger",
    "dit_old_name",
    "dit_original",
    "sit_original",
    "pixart_sizes",
    "pixart_plain",
    "sd3_medium",
    "sd35_medium",
    "flux_dev",
    "flux_beside",
    "uvit_labels",
    "uvit_text",
]
WITH_GRADIENTS = ["dit_learned", "pixart_sizes", "sd35_medium", "flux_dev", "uvit_labels"]
ORIGINAL_NAMES = {"dit_original", "sit_original"}
CLOSE = 2e-6
KEYS = ("label", "tokens", "pooled", "sizes", "guidance")


OLD = "Transformer2DModel"


def _jit(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def _fixture(name):
    return fixture(name)


def _given(io):
    """x, time and cond of a fixture."""
    cond = {key: jnp.asarray(io[key]) for key in KEYS if key in io}
    if "mask" in io:
        cond["mask"] = jnp.asarray(io["mask"]).astype(bool)
    return nhwc(io["x"]), jnp.asarray(io["time"]), cond


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_pytorch(name):
    part, io = _fixture(name)
    with jax.default_matmul_precision("highest"):
        out = _jit(part.net.apply)(part.params, *_given(io))
    assert gap(nchw(out), io["out"]) <= CLOSE
    assert np.abs(io["out"]).max() > 0.3


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "dit_learned" else pytest.mark.slow)
        for name in WITH_GRADIENTS
    ],
)
def test_gradients_are_those_of_pytorch(name):
    part, io = _fixture(name)
    x, time, cond = _given(io)

    def probed(params, x):
        return jnp.sum(part.net.apply(params, x, time, cond) * nhwc(io["probe"]))

    with jax.default_matmul_precision("highest"):
        of_params, of_x = _jit(jax.grad(probed, (0, 1)))(part.params, x)
    assert gap(nchw(of_x), io["grad_x"]) <= CLOSE
    assert gap(tensors_of(of_params)[str(io["weight"])], io["grad_weight"]) <= CLOSE


@pytest.mark.parametrize("name", [name for name in CASES if name not in ORIGINAL_NAMES])
def test_what_is_saved_is_what_was_read(name, tmp_path):
    part, _ = _fixture(name)
    save_part(tmp_path, part)
    read, written = read_folder(ROOT / name), read_folder(tmp_path)
    assert read.keys() == written.keys()
    assert all(np.array_equal(read[key], written[key]) for key in read)
    assert json.loads((tmp_path / "config.json").read_text()) == part.config


@pytest.mark.parametrize("name", sorted(ORIGINAL_NAMES))
def test_every_number_of_the_original_layout_arrives(name):
    part, _ = _fixture(name)
    read, ours = read_folder(ROOT / name), tensors_of(part.params)
    del read["pos_embed"]  # sines and cosines
    assert sum(v.size for v in read.values()) == sum(v.size for v in ours.values())
    block = "transformer_blocks.0."
    thirds = [ours[f"{block}attn1.to_{part}.weight"] for part in "qkv"]
    assert np.array_equal(np.concatenate(thirds), read["blocks.0.attn.qkv.weight"])
    assert np.array_equal(ours[f"{block}ff.net.2.bias"], read["blocks.0.mlp.fc2.bias"])


def test_an_image_beside_x_is_the_same_as_in_its_channels():
    part, io = _fixture("flux_beside")
    x, time, cond = _given(io)
    apply = _jit(part.net.apply)
    beside = apply(part.params, x[..., :4], time, cond | {"image": x[..., 4:]})
    assert gap(nchw(beside), io["out"]) <= CLOSE


def test_text_behind_the_mask_does_not_matter():
    part, io = _fixture("pixart_plain")
    x, time, cond = _given(io)
    apply = _jit(part.net.apply)
    other = jnp.where(cond["mask"][..., None], cond["tokens"], 7.0)
    same = apply(part.params, x, time, cond | {"tokens": other})
    assert gap(same, apply(part.params, x, time, cond)) == 0


def test_older_files_call_pixart_by_another_name():
    config = _config("pixart_sizes")
    nets = [make_net(config | {"_class_name": name}) for name in (config["_class_name"], OLD)]
    assert shapes(nets[0].init) == shapes(nets[1].init)


def test_sit_is_half_of_a_dit():
    part, io = _fixture("sit_original")
    dit = make_net(dict(part.config) | {"_class_name": "DiT"})
    whole = _jit(dit.apply)(part.params, *_given(io))
    assert whole.shape[-1] == 8
    assert gap(nchw(whole[..., :4]), io["out"]) <= CLOSE


def _config(name):
    return json.loads((ROOT / name / "config.json").read_text())


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("dit_learned", {"norm_type": "ada_norm"}, "norm_type is 'ada_norm'"),
        ("dit_learned", {"activation_fn": "geglu"}, "activation_fn is 'geglu'"),
        ("dit_learned", {"norm_elementwise_affine": True}, "norm_elementwise_affine is True"),
        ("dit_learned", {"attention_head_dim": 7}, "width is 14: 2-D positions need"),
        ("dit_old_name", {"norm_type": "layer_norm"}, "norm_type is 'layer_norm'"),
        ("dit_old_name", {"double_self_attention": True}, "double_self_attention = True"),
        ("pixart_sizes", {"cross_attention_dim": 8}, "cross_attention_dim is 8"),
        ("pixart_sizes", {"attention_type": "gated"}, "attention_type is 'gated'"),
        ("pixart_sizes", {"num_attention_heads": 2}, "cross_attention_dim is 24"),
        ("pixart_plain", {"use_additional_conditions": True, "num_attention_heads": 2}, "of 3"),
        ("sd3_medium", {"caption_projection_dim": 8}, "caption_projection_dim is 8"),
        ("sd3_medium", {"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'"),
        ("sd3_medium", {"dual_attention_layers": [5]}, "it names blocks 0 .. 1"),
        ("flux_dev", {"patch_size": 2}, "patch_size is 2"),
        ("flux_dev", {"in_channels": 6}, "in_channels is 6"),
        ("flux_dev", {"axes_dims_rope": [2, 2, 2]}, "add up to width / heads = 8"),
        ("flux_dev", {"num_attention_heads": 0}, "heads is 0"),
        ("dit_original", {"mlp_ratio": 2.0}, "mlp_ratio is 2.0"),
        ("dit_original", {"class_dropout_prob": 0.0}, "null label"),
        ("dit_original", {"unheard": 1}, "unheard = 1"),
        ("uvit_labels", {"qk_scale": 2.0}, "qk_scale is 2.0"),
        ("uvit_labels", {"clip_dim": 4}, "labels or text, not both"),
        ("uvit_labels", {"depth": 3}, "depth is 3: it must be even"),
        ("uvit_labels", {"patch_size": 3}, "patch is 3: it must divide"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(name, change, said):
    with pytest.raises(ValueError, match=said):
        make_net(_config(name) | change)


@pytest.mark.parametrize(
    "name, changes, said",
    [
        ("dit_learned", {"x": (2, 7, 8, 4)}, "pad or crop to 8 x 8"),
        ("dit_learned", {"x": (2, 8, 8, 3)}, r"takes \[b, h, w, 4\]"),
        ("dit_learned", {"label": None}, "holds no label"),
        ("dit_learned", {"label": jnp.array([0, 6])}, "labels lie in 0 .. 6"),
        ("dit_learned", {"tokens": jnp.zeros((2, 3, 4))}, "no cross-attention"),
        ("pixart_sizes", {"tokens": jnp.zeros((2, 5, 9))}, r"give \[b, n, d\] = \[2, n, 12\]"),
        ("pixart_sizes", {"sizes": None}, "cond holds no 'sizes'"),
        ("pixart_sizes", {"sizes": jnp.zeros((2, 2))}, "height and width in pixels"),
        ("sd3_medium", {"x": (2, 14, 8, 16)}, "7 x 4 patches but the table of positions has 6 x 6"),
        ("sd3_medium", {"mask": jnp.ones((2, 5), bool)}, "looks at all tokens"),
        ("sd3_medium", {"pooled": jnp.zeros((2, 9))}, r"\['pooled'\] has shape \[2, 9\]: give"),
        ("flux_dev", {"x": (2, 7, 8, 4)}, "patches of 2"),
        ("flux_dev", {"guidance": None}, "cond holds no 'guidance'"),
        ("flux_dev", {"guidance": jnp.zeros((2, 1))}, "the scale for each sample"),
        ("flux_beside", {"guidance": jnp.zeros(2)}, "the network was not built for it"),
        ("flux_beside", {"image": jnp.zeros((2, 4, 8, 2))}, r"takes \[b, h, w, 7\]"),
        ("uvit_labels", {"x": (2, 4, 4, 3)}, "`stretched` positions"),
        ("uvit_text", {"tokens": jnp.zeros((2, 6, 12))}, "exactly 5"),
        ("uvit_text", {"mask": jnp.ones((2, 5), bool)}, "looks at all tokens"),
    ],
)
def test_input_that_does_not_fit_is_refused(name, changes, said):
    part, io = _fixture(name)
    x, time, cond = _given(io)
    changes = dict(changes)
    x = jnp.zeros(changes.pop("x", x.shape))
    cond = {key: value for key, value in (cond | changes).items() if value is not None}
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda x: part.net.apply(part.params, x, time, cond), x)
