"""Text encoders: padding, causality, the end token, sentences, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.text import bert, clip_text, clip_vision, sentence, t5_encoder
from jaxdiff.nets.text.t5 import bucket

IDS = jnp.array([[3, 4, 9, 0, 0], [5, 9, 0, 0, 0]])
MASK = jnp.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


@functools.cache
def clip(end=9):
    net = clip_text(vocabulary=10, tokens=6, width=8, layers=2, heads=2, end=end)
    return net, net.init(jax.random.key(0))


@functools.cache
def others(which):
    nets = {
        "t5": lambda: t5_encoder(
            vocabulary=10, width=8, head_width=4, heads=2, inner=12, layers=2, buckets=8
        ),
        "bert": lambda: bert(vocabulary=10, tokens=6, width=8, inner=12, layers=2, heads=2),
    }
    net = nets[which]()
    return net, net.init(jax.random.key(0))


def test_clip_does_not_look_ahead():
    net, params = clip()
    changed = net.apply(params, IDS.at[:, 3:].set(7))
    before = net.apply(params, IDS)
    assert jnp.allclose(changed.last[:, :3], before.last[:, :3], atol=1e-6)
    assert jnp.abs(changed.last[:, 3:] - before.last[:, 3:]).max() > 1e-3


@pytest.mark.parametrize("which", ["t5", "bert"])
def test_masked_tokens_change_nothing(which):
    net, params = others(which)
    a, b = (net.apply(params, ids, MASK).last for ids in (IDS, jnp.where(MASK == 1, IDS, 6)))
    assert jnp.allclose(a[0, :3], b[0, :3], atol=1e-6)
    assert jnp.allclose(a[1, :2], b[1, :2], atol=1e-6)
    assert jnp.abs(a[0, :3] - net.apply(params, IDS).last[0, :3]).max() > 1e-4


def pooled(net, params, ids):
    found = net.apply(params, ids).pooled
    assert found is not None
    return found


def test_both_rules_find_the_same_end():
    (modern, params), (legacy, _) = clip(), clip(2)
    a, b = (pooled(net, params, IDS) for net in (modern, legacy))
    assert (a == b).all()
    assert jnp.allclose(a, modern.apply(params, IDS).last[jnp.arange(2), jnp.array([2, 1])])
    # The end repeated as padding: the first counts.
    assert jnp.allclose(pooled(modern, params, jnp.where(IDS == 0, 9, IDS)), a, atol=1e-6)


def test_distances_fall_into_the_buckets_of_the_paper():
    """Single distances to 8, then growing as the logarithm to 128, and the other side apart."""
    found = bucket(np.arange(-300, 301), 32, 128)
    left, right = found[:300][::-1], found[301:]
    assert (left[:7] == np.arange(1, 8)).all()
    assert (right == left + 16).all()
    assert (np.diff(left) >= 0).all()
    assert left[-1] == 15 and left[126] == 15
    assert found[300] == 0


def test_a_sentence_is_the_mean_of_what_counts():
    last = jnp.array([[[1.0, 2.0], [3.0, 4.0], [90.0, 90.0]]])
    mask = jnp.array([[1, 1, 0]])
    assert jnp.allclose(sentence(last, mask, unit=False), jnp.array([[2.0, 3.0]]))
    assert jnp.allclose(jnp.linalg.norm(sentence(last, mask), axis=1), 1.0)
    assert not jnp.isnan(sentence(last, jnp.zeros((1, 3)))).any()


def test_half_precision_gives_float32_states():
    net = clip_text(vocabulary=10, width=8, layers=1, heads=2, end=9, dtype=jnp.bfloat16)
    params = net.init(jax.random.key(0))
    out = net.apply(params, IDS)
    assert out.last.dtype == pooled(net, params, IDS).dtype == out.hidden[0].dtype == jnp.float32


def test_an_unknown_token_is_loud():
    net, params = clip()
    assert jnp.isnan(net.apply(params, jnp.array([[3, 11]])).last).any()


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda n, p: n.apply(p, jnp.zeros((1, 7), int)), "7 tokens and this encoder takes 6"),
        (lambda n, p: n.apply(p, jnp.zeros(3, int)), "give \\[b, n\\]"),
        (lambda n, p: n.apply(p, IDS, MASK[:1]), "mask has shape"),
        (lambda n, p: clip_text(width=8, heads=3), "heads is 3"),
        (lambda n, p: t5_encoder(buckets=6), "buckets is 6"),
    ],
)
def test_what_does_not_fit_is_refused(call, why):
    with pytest.raises((ValueError, TypeError), match=why):
        call(*clip())


def test_an_image_of_another_size_is_refused():
    net = clip_vision(side=8, patch=4, width=8, layers=1, heads=2)
    with pytest.raises(ValueError, match="takes \\[b, 8, 8, 3\\]"):
        net.apply(net.init(jax.random.key(0)), jnp.zeros((1, 9, 8, 3)))
