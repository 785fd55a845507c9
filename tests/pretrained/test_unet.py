"""The U-Nets of diffusers: outputs and gradients of PyTorch, names, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdiff.nets.unet2d import Residuals
from jaxdiff.pretrained.names import tensors_of
from tests.pretrained.parity import ROOT, fixture, gap, nchw, nhwc

UNETS = ["sd15", "sdxl", "unclip", "label", "ddpm", "film", "fourier"]
NAMES = [f"unet_{name}" for name in UNETS] + ["controlnet_sd15", "controlnet_sdxl"]
QUICK, SLOW = {"unet_sdxl", "unet_ddpm"}, pytest.mark.slow


def listed(io, stem):
    found = sorted(key for key in io if key.startswith(stem + "_"))
    return tuple(nhwc(io[key]) for key in found)


def cond_of(io):
    """The condition in our words, or None."""
    said = {
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


def close(ours, theirs, tolerance):
    return gap(ours, theirs) <= tolerance * max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=SLOW) for n in NAMES])
def test_outputs_are_those_of_pytorch(name):
    part, io = fixture(name)
    theirs = [io[key] for key in sorted(k for k in io if k.startswith("out_"))]
    out = forward(part, io)
    assert len(out) == len(theirs)
    assert all(close(nchw(a), b, 2e-6) for a, b in zip(out, theirs))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_pytorch(name):
    part, io = fixture(name)
    grad_x, grad_w = backward(part, io)
    assert close(nchw(grad_x), io["grad_x"], 1e-5)
    assert close(grad_w, io["grad_w"].transpose(2, 3, 1, 0), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_numbers_go_there_and_back(name):
    part, _ = fixture(name)
    file = next((ROOT / name).glob("*.safetensors"))
    theirs, ours = safetensors.numpy.load_file(file), tensors_of(part.params)
    assert sorted(ours) == sorted(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
    assert json.loads((ROOT / name / "config.json").read_text()) == part.config
