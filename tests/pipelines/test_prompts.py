"""Weights in prompts."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.pipelines import fragments, plain, weigh


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("((cat))", [("cat", 1.1**2)]),
        ("[cat] dog", [("cat", 1 / 1.1), (" dog", 1.0)]),
        ("(cat:0.6)", [("cat", 0.6)]),
        ("(cat: 1.25 )", [("cat", 1.25)]),
        ("(a (b:2) c:3)", [("a ", 3.0), ("b", 6.0), (" c", 3.0)]),
        (r"\(cat\)", [("(cat)", 1.0)]),
        (r"(\[x\]:2)", [("[x]", 2.0)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        (r"back\slash", [(r"back\slash", 1.0)]),
    ],
)
def test_fragments(prompt, expected):
    found = fragments(prompt)
    assert [f.text for f in found] == [text for text, _ in expected]
    np.testing.assert_allclose([f.weight for f in found], [w for _, w in expected])


@pytest.mark.parametrize("prompt", ["(cat", "cat)", "[cat)", "(cat]", "((cat)", "(a:1.2.3)"])
def test_brackets_that_do_not_fit(prompt):
    with pytest.raises(ValueError, match="prompt "):
        fragments(prompt)


def test_plain():
    assert plain("a (very [red]:1.5) cat") == "a very red cat"


def test_weights_of_one_change_no_bit_and_others_keep_the_mean():
    rng = np.random.default_rng(0)
    e = jnp.asarray(rng.normal(size=(2, 5, 8)) + 0.3, jnp.float32)
    w = jnp.asarray([[1, 1, 1, 1, 1], [1, 2, 0.5, 1, 1]], jnp.float32)
    out = weigh(e, w)
    assert bool((out[0] == e[0]).all())
    np.testing.assert_allclose(out[1].mean(), e[1].mean(), rtol=1e-5)
    ratio = np.asarray(out[1] / e[1])
    np.testing.assert_allclose(ratio[1] / ratio[0], 2.0, rtol=1e-5)
    np.testing.assert_allclose(ratio[2] / ratio[0], 0.5, rtol=1e-5)
