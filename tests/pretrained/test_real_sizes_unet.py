"""Published U-Nets at their real size, as shapes: parameters, names, and a trace."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.pretrained import make_net
from jaxdiff.pretrained.names import outward, tensor_name
from jaxdiff.trees import paths
from tests.pretrained.parity import ROOT

TABLE = json.loads((ROOT / "real_unet.json").read_text())
PUBLISHED = {
    "sd15": 859_520_964,
    "sd21": 865_910_724,
    "sdxl": 2_567_463_684,
    "controlnet_sd15": 361_279_120,
    "ddpm_cifar10": 35_746_307,
    "ddpm_celebahq": 113_673_219,
}
QUICK = ("ddpm_cifar10",)
SPLIT = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]
TRACED = ("sd15", "sdxl", "controlnet_sd15", "ddpm_cifar10", "edm_cifar10_vp", "guided_64")


def shapes(name):
    net = make_net(TABLE[name]["config"])
    return net, jax.eval_shape(net.init, jax.random.key(0))


@pytest.mark.parametrize("name", SPLIT)
def test_parameters_are_those_of_pytorch(name):
    _, params = shapes(name)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == TABLE[name]["count"] == PUBLISHED.get(name, count)
    found = [
        f"{tensor_name(path)} {list(outward(path, np.empty(leaf.shape, np.bool_)).shape)}"
        for path, leaf in paths(params)
    ]
    text = "\n".join(sorted(found)).encode()
    assert hashlib.sha256(text).hexdigest() == TABLE[name]["names"]


def given(config):
    said = {}
    if config.get("cross_attention_dim"):
        said["tokens"] = jax.ShapeDtypeStruct((2, 77, config["cross_attention_dim"]), jnp.float32)
    if config.get("addition_embed_type"):
        said["pooled"] = jax.ShapeDtypeStruct((2, 1280), jnp.float32)
        said["sizes"] = jax.ShapeDtypeStruct((2, 6), jnp.float32)
    if config["_class_name"] == "ControlNetModel":
        said["image"] = jax.ShapeDtypeStruct((2, 512, 512, 3), jnp.float32)
    if config.get("class_cond"):
        said["label"] = jax.ShapeDtypeStruct((2,), jnp.int32)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_the_forward_pass_lowers(name):
    net, params = shapes(name)
    config = TABLE[name]["config"]
    side = config.get("sample_size") or config.get("image_size") or config.get("img_resolution")
    channels = config.get("in_channels", 3)
    x = jax.ShapeDtypeStruct((2, side or 64, side or 64, channels), jnp.float32)
    time = jax.ShapeDtypeStruct((2,), jnp.float32)
    lowered = jax.jit(net.apply).lower(params, x, time, given(config))
    out = jax.tree.leaves(lowered.out_info)
    if name == "controlnet_sd15":
        assert [o.shape[1] for o in out] == [64] * 3 + [32] * 3 + [16] * 3 + [8] * 4
    else:
        wide = 6 if config.get("learn_sigma") else channels
        assert [o.shape for o in out] == [(*x.shape[:3], wide)]
