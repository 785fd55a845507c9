"""Names and layouts of weights: there and back, and what is said when they do not fit."""

import jax
import numpy as np
import pytest

from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.names import Rule, fill, rename, tensors_of

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": RNG.normal(size=(3, 3, 4, 5)), "bias": RNG.normal(size=5)},
    "layers": {"0": {"kernel": RNG.normal(size=(4, 6))}, "10": {"scale": RNG.normal(size=6)}},
    "point": {"kernel": RNG.normal(size=(1, 1, 4, 5))},
    "table": {"embedding": RNG.normal(size=(7, 2))},
    "row": RNG.normal(size=(6, 3)),
}
PARAMS = jax.tree.map(lambda a: a.astype(np.float32), PARAMS)


def test_layouts():
    shapes = {name: value.shape for name, value in tensors_of(PARAMS).items()}
    assert shapes == {
        "conv.weight": (5, 4, 3, 3),
        "conv.bias": (5,),
        "layers.0.weight": (6, 4),
        "layers.10.weight": (6,),
        "point.weight": (5, 4, 1, 1),
        "table.weight": (7, 2),
        "row": (6, 3),
    }


def test_there_and_back_is_bit_equal():
    back = fill(PARAMS, tensors_of(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, back, PARAMS)


def test_a_linear_map_and_a_convolution_of_one_pixel():
    tensors = tensors_of(PARAMS)
    tensors["layers.0.weight"] = tensors["layers.0.weight"][:, :, None, None]
    tensors["point.weight"] = tensors["point.weight"][:, :, 0]
    jax.tree.map(np.testing.assert_array_equal, fill(PARAMS, tensors), PARAMS)


def test_missing_and_unused_are_named():
    tensors = tensors_of(PARAMS)
    tensors["conv.weigth"] = tensors.pop("conv.weight")
    message = r"1 missing: conv\.weight; 1 unused: conv\.weigth \(conv\.weight may be called"
    with pytest.raises(ValueError, match=message):
        fill(PARAMS, tensors)


def test_another_size_is_named():
    tensors = tensors_of(PARAMS) | {"table.weight": np.zeros((7, 3), np.float32)}
    with pytest.raises(ValueError, match=r"table\.weight is \[7, 3\], not \[7, 2\]"):
        fill(PARAMS, tensors)
    tensors = tensors_of(PARAMS) | {"conv.weight": np.zeros((5, 4, 1, 1), np.float32)}
    with pytest.raises(ValueError, match=r"conv\.weight is \[5, 4, 1, 1\], not \[5, 4, 3, 3\]"):
        fill(PARAMS, tensors)


def test_rules_rename_split_and_ignore():
    packed = np.arange(12.0).reshape(6, 2)
    rules = [
        Rule(r"old\.(\d)\.w", r"new.\1.weight"),
        Rule(r"qkv", ("q.weight", "k.weight", "v.weight"), lambda w: np.split(w, 3)),
    ]
    found = rename({"old.3.w": packed, "qkv": packed, "ids": packed}, rules, ["ids"])
    assert list(found) == ["new.3.weight", "q.weight", "k.weight", "v.weight"]
    assert found["k.weight"].tolist() == packed[2:4].tolist()


def test_two_tensors_of_one_name():
    rules = [Rule(r"[ab]", "c")]
    with pytest.raises(ValueError, match="are named 'c'"):
        rename({"a": np.ones(1), "b": np.ones(1)}, rules)


def test_config_refuses_what_nobody_read():
    config = Config({"_class_name": "Thing", "known": 1, "off": False, "new_knob": 3})
    config("known")
    with pytest.raises(ValueError, match=r"Thing: the config sets .* new_knob = 3"):
        config.finish()
    with pytest.raises(ValueError, match="known is 1, which jaxdiff does not have; it has 2"):
        config.only("known", 2)
