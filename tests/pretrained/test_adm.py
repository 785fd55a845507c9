"""guided-diffusion and EDM: outputs and gradients of PyTorch, names, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdiff.pretrained.names import tensors_of
from tests.pretrained.parity import ROOT, fixture, gap, nchw, nhwc

NAMES = [
    "guided_legacy",
    "guided_new",
    "guided_classifier",
    "edm_ddpmpp",
    "edm_ncsnpp",
    "edm_skip",
    "edm_adm",
]
QUICK = ("guided_legacy", "edm_ncsnpp")
SPLIT = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]


def cond_of(io):
    said = {key[5:]: jnp.asarray(value) for key, value in io.items() if key.startswith("cond_")}
    return said or None


def close(ours, theirs, tolerance):
    return gap(ours, theirs) <= tolerance * max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize("name", SPLIT)
def test_outputs_are_those_of_pytorch(name):
    part, io = fixture(name)
    time, cond = jnp.asarray(io["time"]), cond_of(io)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(part.net.apply)(part.params, nhwc(io["x"]), time, cond)
    assert close(nchw(out) if out.ndim == 4 else out, io["out_0"], 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_pytorch(name):
    part, io = fixture(name)
    time, cond, cotangent = jnp.asarray(io["time"]), cond_of(io), io["cotangent_0"]
    cotangent = nhwc(cotangent) if cotangent.ndim == 4 else jnp.asarray(cotangent)

    def scalar(x, params):
        return jnp.vdot(cotangent, part.net.apply(params, x, time, cond))

    with jax.default_matmul_precision("highest"):
        grad = jax.jit(jax.grad(scalar))(nhwc(io["x"]), part.params)
    assert close(nchw(grad), io["grad_x"], 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_numbers_go_there_and_back(name):
    part, _ = fixture(name)
    theirs = safetensors.numpy.load_file(ROOT / name / "diffusion_pytorch_model.safetensors")
    theirs = {key.removeprefix("model."): v for key, v in theirs.items() if "_filter" not in key}
    ours = tensors_of(part.params)
    assert sorted(ours) == sorted(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
