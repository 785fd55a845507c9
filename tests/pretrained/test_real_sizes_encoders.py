"""Published sizes, as shapes alone: parameters, names and the way through the network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pytorch_parity.makers.encoders import digest
from jaxdiff.pretrained import make_net
from jaxdiff.pretrained.names import outward, tensor_name
from jaxdiff.trees import paths
from tests.pretrained.parity import ROOT

SIZES = json.loads((ROOT / "encoder_sizes.json").read_text())
PUBLISHED = {
    "sd_vae": 83_653_863,
    "clip_l": 123_060_480,
    "clip_big_g": 694_659_840,
    "t5_xxl": 4_762_310_656,
}


@pytest.mark.parametrize(
    "name",
    [name if name == "sd_vae" else pytest.param(name, marks=pytest.mark.slow) for name in SIZES],
)
def test_a_published_size_has_the_names_and_shapes_of_pytorch(name):
    shapes = _shapes(name)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == SIZES[name]["parameters"]
    assert SIZES[name]["parameters"] == PUBLISHED.get(name, SIZES[name]["parameters"])
    assert digest(shapes) == SIZES[name]["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_published_size_lowers(name):
    net = make_net(SIZES[name]["config"])
    params = jax.eval_shape(net.init, jax.random.key(0))
    if hasattr(net, "encode"):
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        code = jax.ShapeDtypeStruct(
            (1, 64 // net.factor, 64 // net.factor, net.channels), jnp.float32
        )
        assert jax.jit(net.encode).lower(params, image).as_text()
        assert jax.jit(net.decode).lower(params, code).as_text()
    else:
        ids = jax.ShapeDtypeStruct((1, 77), jnp.int32)
        assert jax.jit(net.apply).lower(params, ids, ids).as_text()


def _shapes(name):
    net = make_net(SIZES[name]["config"])
    expected = jax.eval_shape(net.init, jax.random.key(0))
    return {
        # a broadcast array has the shape and takes no memory
        tensor_name(path): list(outward(path, np.broadcast_to(np.bool_(0), leaf.shape)).shape)
        for path, leaf in paths(expected)
    }
