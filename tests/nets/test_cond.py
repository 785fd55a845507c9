"""What may be said to a network, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.cond import Given, read_cond

LABEL = jnp.array([0, 1])
TOKENS = jnp.zeros((2, 5, 6))


def test_normal_form():
    assert read_cond(None, batch=2) == Given()
    assert read_cond(LABEL, batch=2, classes=2).label is LABEL
    assert read_cond(np.array([2, 2]), batch=2, classes=2).label.tolist() == [2, 2]
    mask = jnp.ones((2, 5), bool)
    given = read_cond({"tokens": TOKENS, "mask": mask}, batch=2, context_dim=6)
    assert given.tokens is TOKENS
    assert given.mask is mask


@pytest.mark.parametrize(
    ("cond", "built", "message"),
    [
        (3, {}, "cond is a int"),
        ({"text": 1}, {}, "unknown key 'text'"),
        (None, {"classes": 2}, "holds no label but the network has 2 classes"),
        ({"tokens": TOKENS}, {"classes": 2, "context_dim": 6}, "holds no label"),
        (LABEL, {}, "holds labels but the network has no classes"),
        (jnp.zeros(2), {"classes": 2}, r"labels are float32\[2\]"),
        (jnp.zeros(3, int), {"classes": 2}, r"labels are int32\[3\]"),
        (jnp.array([0, 3]), {"classes": 2}, r"labels lie in 0 .. 3: they must lie in 0 .. 2"),
        (jnp.array([0, -1]), {"classes": 2}, r"labels lie in -1 .. 0"),
        ({"tokens": TOKENS}, {}, "no cross-attention"),
        (None, {"context_dim": 6}, r"has shape None: give \[b, n, d\] = \[2, n, 6\]"),
        ({"tokens": TOKENS[..., :4]}, {"context_dim": 6}, r"has shape \(2, 5, 4\)"),
        ({"tokens": TOKENS, "mask": jnp.ones((2, 5))}, {"context_dim": 6}, r"is float32\[2, 5\]"),
        ({"tokens": TOKENS, "mask": LABEL > 0}, {"context_dim": 6}, r"is bool\[2\]"),
        ({"control": 5}, {}, "is a int: give a function of a Site"),
    ],
)
def test_refusals(cond, built, message):
    with pytest.raises(ValueError, match=message):
        read_cond(cond, batch=2, **built)


def test_values_are_not_looked_at_on_tracers():
    jax.eval_shape(lambda label: read_cond(label, batch=2, classes=2).label, jnp.array([0, 9]))


def test_tokens_and_their_mask_act(image_net):
    _, built = image_net
    tokens = built.cond["tokens"]
    mask = jnp.arange(5)[None, :] < jnp.array([5, 3, 1, 0])[:, None]

    def out(tokens, **mask):
        return built.apply(
            built.params, built.x, built.time, built.cond | {"tokens": tokens} | mask
        )

    plain, masked = out(tokens), out(tokens, mask=mask)
    np.testing.assert_allclose(masked[0], plain[0], atol=1e-5)
    assert float(jnp.abs(masked[1:] - plain[1:]).max(axis=(1, 2, 3)).min()) > 1e-4
    hidden = jnp.where(mask[:, :, None], tokens, 100.0)
    np.testing.assert_allclose(out(hidden, mask=mask), masked, atol=1e-5)
