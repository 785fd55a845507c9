"""Arithmetic over trees: one array and a tree of two, times of every shape, keys per sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import trees

_TREE = {"image": jnp.arange(24.0).reshape(2, 3, 4), "kernel": jnp.arange(10.0).reshape(2, 5)}


@pytest.mark.parametrize(
    ("shape", "fitted"),
    [((), (1, 1, 1)), ((2,), (2, 1, 1)), ((2, 3), (2, 3, 1)), ((1,), (1, 1, 1))],
)
def test_fit_adds_trailing_axes(shape, fitted):
    out = trees.fit(jnp.ones(shape), jnp.zeros((2, 3, 4)))
    assert out.shape == fitted
    assert (out * jnp.zeros((2, 3, 4))).shape == (2, 3, 4)


def test_fit_over_a_tree():
    one = trees.fit(jnp.array([1.0, 2.0]), _TREE)
    assert one["image"].shape == (2, 1, 1) and one["kernel"].shape == (2, 1)
    each = trees.fit({"image": jnp.ones((2, 3)), "kernel": jnp.ones(())}, _TREE)
    assert each["image"].shape == (2, 3, 1) and each["kernel"].shape == (1, 1)
    assert trees.fit(2.0, _TREE)["image"].shape == (1, 1, 1)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 4, 1)])
def test_fit_refuses_what_is_no_prefix(shape):
    with pytest.raises(ValueError, match=r"does not fit data of shape \(2, 3, 4\).*\(2,\)"):
        trees.fit(jnp.ones(shape), jnp.zeros((2, 3, 4)))


def test_combine():
    out = trees.combine((jnp.array([1.0, 0.0]), _TREE), (2.0, _TREE), (-3.0, _TREE))
    for name, leaf in _TREE.items():
        np.testing.assert_allclose(out[name][0], 0.0)
        np.testing.assert_allclose(out[name][1], -leaf[1])


def test_where_and_lerp():
    zeros = jax.tree.map(jnp.zeros_like, _TREE)
    out = trees.where(jnp.array([True, False]), _TREE, zeros)
    np.testing.assert_array_equal(out["image"][0], _TREE["image"][0])
    assert not np.any(out["kernel"][1])
    assert float(trees.lerp(0.1, 0.3, 1.0)) == 0.3 and float(trees.lerp(0.1, 0.3, 0.0)) == 0.1
    np.testing.assert_allclose(trees.lerp(zeros, _TREE, 0.25)["image"], _TREE["image"] / 4)


def test_dots_do_not_mix_samples():
    out = trees.dots(_TREE, _TREE)
    expected = [sum(float((leaf[i] ** 2).sum()) for leaf in _TREE.values()) for i in range(2)]
    np.testing.assert_allclose(out, expected)


def test_size():
    assert trees.size(_TREE) == 2
    for bad in ({"a": jnp.zeros(2), "b": jnp.zeros(3)}, jnp.zeros(()), {}):
        with pytest.raises(ValueError, match="same leading axis"):
            trees.size(bad)


def test_keys_and_noise_are_per_sample():
    key = jax.random.key(0)
    keys = trees.keys_for(key, jnp.arange(8))
    whole = trees.normal(keys, jnp.zeros((8, 3)))
    part = trees.normal(trees.keys_for(key, [5, 2]), jnp.zeros((2, 3)))
    np.testing.assert_array_equal(part, np.asarray(whole)[[5, 2]])
    assert len(np.unique(whole)) == 24
    folded = trees.fold(keys, 3)
    assert folded.shape == (8,)
    assert folded[0] == jax.random.fold_in(keys[0], 3)


def test_noise_of_a_tree():
    """Leaves draw independently, in their own shape and dtype; mean 0, variance 1."""
    x = {
        "a": jnp.zeros((500, 20)),
        "b": jnp.zeros((500, 20)),
        "c": jnp.zeros((500, 2), jnp.bfloat16),
    }
    z = trees.normal(trees.keys_for(jax.random.key(1), jnp.arange(500)), x)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in z.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in x.items()
    }
    a, b = (np.asarray(z[name]).ravel() for name in "ab")
    assert abs(a.mean()) < 0.04 and abs(a.var() - 1) < 0.06 and abs((a * b).mean()) < 0.04


def test_paths_select_merge():
    tree = {"enc": {"w": 1, "b": 2}, "heads": [3, 4]}
    assert dict(trees.paths(tree)) == {"enc/b": 2, "enc/w": 1, "heads/0": 3, "heads/1": 4}
    chosen = trees.select(tree, lambda path: path.endswith("w") or path == "heads/1")
    assert chosen == {"enc/w": 1, "heads/1": 4}
    merged = trees.merge(tree, {path: 10 * leaf for path, leaf in chosen.items()})
    assert merged == {"enc": {"w": 10, "b": 2}, "heads": [3, 40]}
    assert tree["enc"]["w"] == 1
    with pytest.raises(KeyError, match="enc/x"):
        trees.merge(tree, {"enc/x": 0})


def test_difference():
    a = {"w": jnp.zeros(2), "b": jnp.zeros(3, jnp.int32), "only": jnp.zeros(1)}
    b = {"w": jnp.zeros(2), "b": jnp.zeros(3), "more": jnp.zeros(1)}
    assert trees.difference(a, a) == []
    assert trees.difference(a, b) == [
        "b: expected int32[3], found float32[3]",
        "only: missing",
        "more: surplus",
    ]
