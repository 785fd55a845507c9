"""Published transformers at their real size, as shapes only: counts, names, and a lowered program.

`transformers.json` holds the configs, and of the PyTorch class on the meta device the count of the
numbers and the sha256 of the sorted lines "name shape".
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.transformers import flux, labelled_dit, pixart, sd3, uvit
from jaxdiff.pretrained import make_net
from jaxdiff.pretrained.names import outward, tensor_name
from jaxdiff.trees import paths
from tests.pretrained.parity import ROOT

REAL = json.loads((ROOT / "transformers.json").read_text())
NAMES = [
    pytest.param(name, marks=() if name == "DiT-XL/2 256" else pytest.mark.slow) for name in REAL
]


def _shapes(name):
    net = make_net(REAL[name]["config"])
    return net, jax.eval_shape(net.init, jax.random.key(0))


def _outward(path, shape):
    return outward(path, np.broadcast_to(np.False_, shape)).shape


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_count_are_those_of_the_pytorch_class(name):
    _, params = _shapes(name)
    shapes = {tensor_name(path): _outward(path, leaf.shape) for path, leaf in paths(params)}
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    if REAL[name]["config"]["_class_name"] == "DiT":
        assert count == REAL[name]["count"] - 256 * 1152  # its table of sines and cosines
        return
    assert count == REAL[name]["count"]
    lines = sorted(f"{key} {list(shape)}" for key, shape in shapes.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == REAL[name]["sha256"]


def test_the_published_counts():
    table = 192 * 192 * 1536  # stored in Stable Diffusion 3, but no parameter there
    assert REAL["DiT-XL/2 256 original"]["count"] == 675_129_632
    assert REAL["SD3-medium"]["count"] - table == 2_028_328_000
    assert REAL["FLUX.1-dev"]["count"] == 11_901_408_320


TEXT = {"tokens": (1, 77, 4096), "pooled": (1, 2048)}
SD3: dict[str, Any] = dict(
    size=128, width=1536, depth=24, heads=24, context_dim=4096, pooled_dim=2048
)
XL: dict[str, Any] = dict(width=1152, depth=28, heads=16, scan=True)
LOWERED = {
    "DiT-XL/2": (
        lambda: labelled_dit(size=32, out=8, classes=1000, **XL),
        (1, 32, 32, 4),
        {"label": (1,)},
    ),
    "PixArt-XL-2-1024": (
        lambda: pixart(size=128, caption_dim=4096, sizes=True, scale=2.0, **XL),
        (1, 128, 128, 4),
        {"tokens": (1, 120, 4096), "sizes": (1, 3)},
    ),
    "SD3-medium": (lambda: sd3(table=192, scan=True, **SD3), (1, 128, 128, 16), TEXT),
    "SD3.5-medium": (
        lambda: sd3(table=384, norm=True, dual=range(13), scan=True, **SD3),
        (1, 128, 96, 16),
        TEXT,
    ),
    "FLUX.1-dev": (
        lambda: flux(
            width=3072,
            depth=19,
            single=38,
            heads=24,
            context_dim=4096,
            pooled_dim=768,
            axes=(16, 56, 56),
            guidance=True,
            scan=True,
            remat=True,
            dtype=jnp.bfloat16,
        ),
        (1, 128, 128, 16),
        {"tokens": (1, 512, 4096), "pooled": (1, 768), "guidance": (1,)},
    ),
    "U-ViT-H/2": (
        lambda: uvit(
            size=32,
            patch=2,
            channels=4,
            width=1152,
            depth=28,
            heads=16,
            classes=1000,
            smooth=False,
        ),
        (1, 32, 32, 4),
        {"label": (1,)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOWERED)
def test_the_real_size_lowers_from_shapes(name):
    make, shape, given = LOWERED[name]
    net = make()
    params = jax.eval_shape(net.init, jax.random.key(0))
    cond = {
        key: jax.ShapeDtypeStruct(size, jnp.int32 if key == "label" else jnp.float32)
        for key, size in given.items()
    }
    x, time = (jax.ShapeDtypeStruct(size, jnp.float32) for size in (shape, (1,)))
    lowered = jax.jit(net.apply).lower(params, x, time, cond)
    (out,) = jax.tree.leaves(lowered.out_info)
    assert out.shape[:3] == shape[:3]
    assert ("while" in lowered.as_text()) == (not name.startswith("U"))  # one loop for the blocks
