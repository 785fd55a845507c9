"""The U-Nets of diffusers: outputs and gradients of PyTorch, names, and what is refused."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdiff.nets.unet2d import Residuals
from jaxdiff.pretrained import make_net, save_part
from jaxdiff.pretrained.names import tensors_of
from jaxdiff.pretrained.part import assemble
from tests.pretrained.parity import ROOT, fixture, gap, nchw, nhwc

UNETS = ["sd15", "sdxl", "unclip", "label", "ddpm", "film", "fourier", "ncsnpp"]
NAMES = [f"unet_{name}" for name in UNETS] + ["controlnet_sd15", "controlnet_sdxl"]
QUICK, SLOW = {"unet_sdxl", "unet_ddpm"}, pytest.mark.slow


def listed(io, stem):
    found = sorted(key for key in io if key.startswith(stem + "_"))
    return tuple(nhwc(io[key]) for key in found)


def cond_of(io):
    """The condition in our words, or None."""
    said: dict[str, Any] = {
        key.removeprefix("cond_"): jnp.asarray(value)
        for key, value in io.items()
        if key.startswith("cond_") and value.ndim < 4
    }
    if "cond_image" in io:
        said["image"] = nhwc(io["cond_image"])
    skips, inner = listed(io, "cond_skips"), listed(io, "cond_inner")
    if skips or inner:
        middle = nhwc(io["cond_middle"]) if "cond_middle" in io else None
        said["residuals"] = Residuals(skips, middle, inner)
    return said or None


def with_kernel(params, kernel):
    return {**params, "conv_in": {**params["conv_in"], "kernel": kernel}}


def forward(part, io):
    """Ours for PyTorch's outputs."""

    def apply(params, x):
        return jax.tree.leaves(part.net.apply(params, x, jnp.asarray(io["time"]), cond_of(io)))

    with jax.default_matmul_precision("highest"):
        return jax.jit(apply)(part.params, nhwc(io["x"]))


def backward(part, io):
    """Ours for PyTorch's gradients."""

    def scalar(x, kernel, params):
        time, cond = jnp.asarray(io["time"]), cond_of(io)
        out = jax.tree.leaves(part.net.apply(with_kernel(params, kernel), x, time, cond))
        return sum(jnp.vdot(c, o) for c, o in zip(listed(io, "cotangent"), out))

    kernel = jnp.asarray(part.params["conv_in"]["kernel"])
    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.grad(scalar, argnums=(0, 1)))(nhwc(io["x"]), kernel, part.params)


def close(ours, theirs, tolerance, slack):
    """Within the tolerance, or within a few times PyTorch's own error in float32."""
    return gap(ours, theirs) <= max(tolerance * max(1.0, np.abs(theirs).max()), 4 * slack)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=SLOW) for n in NAMES])
def test_outputs_are_those_of_pytorch(name):
    part, io = fixture(name)
    theirs = [io[key] for key in sorted(k for k in io if k.startswith("out_"))]
    out = forward(part, io)
    assert len(out) == len(theirs)
    assert all(close(nchw(a), b, 2e-6, io["slack"][0]) for a, b in zip(out, theirs))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_pytorch(name):
    part, io = fixture(name)
    grad_x, grad_w = backward(part, io)
    assert close(nchw(grad_x), io["grad_x"], 1e-5, io["slack"][1])
    assert close(grad_w, io["grad_w"].transpose(2, 3, 1, 0), 1e-5, io["slack"][2])


@pytest.mark.parametrize("name", NAMES)
def test_names_and_numbers_go_there_and_back(name):
    part, _ = fixture(name)
    file = next((ROOT / name).glob("*.safetensors"))
    theirs, ours = safetensors.numpy.load_file(file), tensors_of(part.params)
    assert sorted(ours) == sorted(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
    assert json.loads((ROOT / name / "config.json").read_text()) == part.config


def test_old_names_of_attention_are_read():
    part, _ = fixture("unet_ddpm")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for key, value in tensors_of(part.params).items():
        for new, before in old.items():
            key = key.replace(f".{new}.", f".{before}.")
        tensors[key] = value
    assert "mid_block.attentions.0.proj_attn.bias" in tensors
    again = assemble(part.config, tensors)
    jax.tree.map(np.testing.assert_array_equal, again.params, part.params)


UNET, PLAIN, CONTROL = "UNet2DConditionModel", "UNet2DModel", "ControlNetModel"
REFUSED = {
    "act_fn": (UNET, dict(act_fn="mish"), "act_fn is 'mish'"),
    "block": (UNET, dict(down_block_types=["KDownBlock2D"] * 4), "holds 'KDownBlock2D'"),
    "count": (UNET, dict(block_out_channels=[32, 64]), "up_block_types has 4 entries"),
    "heads": (UNET, dict(attention_head_dim=[8, 8]), "attention_head_dim has 2 entries"),
    "num_attention_heads": (UNET, dict(num_attention_heads=8), "num_attention_heads is 8"),
    "gated": (UNET, dict(attention_type="gated"), "attention_type is 'gated'"),
    "mid": (UNET, dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn"), "mid_block_type is"),
    "dual": (UNET, dict(dual_cross_attention=True), "dual_cross_attention is True"),
    "context": (UNET, dict(cross_attention_dim=[64, 64, 32, 32]), "one width for all levels"),
    "image": (UNET, dict(addition_embed_type="image"), "addition_embed_type is 'image'"),
    "hid": (UNET, dict(encoder_hid_dim_type="image_proj"), "encoder_hid_dim_type is"),
    "both": (
        UNET,
        dict(addition_embed_type="text_time", class_embed_type="projection"),
        "beside addition_embed_type",
    ),
    "unknown": (UNET, dict(new_knob=3), "new_knob = 3"),
    "plain cross": (PLAIN, dict(down_block_types=["CrossAttnDownBlock2D"] * 4), "needs tokens"),
    "head width": (PLAIN, dict(attention_head_dim=5), "does not divide the width"),
    "time": (PLAIN, dict(time_embedding_type="wave"), "time_embedding_type is 'wave'"),
    "shift": (PLAIN, dict(resnet_time_scale_shift="spatial"), "'spatial'"),
    "no middle": (CONTROL, dict(mid_block_type=None), "a ControlNet has a middle"),
    "order": (CONTROL, dict(controlnet_conditioning_channel_order="gbr"), "'gbr'"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_knobs_that_are_not_known_are_refused_by_name(case):
    kind, config, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        make_net({"_class_name": kind, **config})


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_diffusers_reads_what_is_saved_bit_for_bit(name, tmp_path):
    import diffusers  # pyright: ignore[reportMissingImports]

    part, _ = fixture(name)
    save_part(tmp_path, part)
    net = getattr(diffusers, part.config["_class_name"]).from_pretrained(tmp_path)
    theirs = safetensors.numpy.load_file(next((ROOT / name).glob("*.safetensors")))
    found = net.state_dict()
    assert sorted(found) == sorted(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(found[key].numpy(), value)
