"""Guidance by attention, on a small U-Net: what it is made of, and when it is nothing at all."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import bind, denoise, guidance, mix, process, samplers
from jaxdiff.guidance.sag import _blurred
from jaxdiff.nets import dit, hook, unet
from jaxdiff.nets.attention import attend
from jaxdiff.nets.cond import read_cond
from jaxdiff.types import Site
from tests.problems import keys_of, vector

FLOW = process.rectified_flow()
LABEL, NULL, T = jnp.array([0, 1]), jnp.array([2, 2]), 0.4
X = vector(0, 2, 4, 4, 2)
PLACE = Site("middle/0/own", "", "middle", 1, 0, "self", (4, 4), 2)


def looks(params, x, time, cond):
    """One self-attention over pixels, two heads, and what it makes of the time and the label."""
    given = read_cond(cond, batch=x.shape[0], classes=2)
    rows = x.reshape(x.shape[0], 16, 2)
    feel = params["label"][given.label] + time[:, None]
    h = jnp.tanh(rows @ params["in"] + feel[:, None])
    h = hook(given.control, replace(PLACE, path="middle/0"), "block", h)
    q, k, v = (h.reshape(*h.shape[:2], 2, 4) * params["qkv"][i] for i in range(3))
    mixed = attend(q, k, v, control=given.control, place=PLACE).reshape(h.shape)
    return (rows + (h + mixed) @ params["out"]).reshape(x.shape)


def model():
    shapes = {"label": (3, 8), "in": (2, 8), "qkv": (3, 1, 1, 1, 4), "out": (8, 2)}
    params = {name: vector(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    return denoise.model(looks, params, FLOW, process.wiring(process.x0))


def looked(site):
    return (lambda probs: probs) if site.port == "probs" and site.stage == "middle" else None


def mid_block(site):
    return (lambda h: h) if site.path == "middle/0" and site.port == "block" else None


@jax.jit
def answers(x, label, null):
    """Three settings of SAG are one program: at work, nowhere and everywhere."""
    m, see = model(), guidance.identity_attention(guidance.middle)
    named = [{"label": k} for k in (null, label)]
    conds = (*named, guidance.controlled(label, see))
    plain, blind = bind(guidance.tapped(m, looked), label), bind(m, conds[2])

    def sag(threshold):
        return guidance.sag(m, label, 2.0, threshold=threshold, width=1.5, size=3)(x, T).x0

    est = plain(x, T)
    blurred = _blurred(est.x0, jnp.array(1.5), 3)
    # a pixel is blurred where queries give it more than their fair share
    given = jnp.einsum("bhqk->bk", est.aux["taps"]["middle/0/own:probs"]) / 2
    some = jnp.where(given.reshape(-1, 4, 4, 1) > 1, blurred, est.x0)
    worse = jnp.stack([some, est.x0, blurred])
    return {
        "plain": est.x0,
        "taps": est.aux["taps"],
        "blind": blind(x, T).x0,
        "pag": guidance.pag(m, label, jnp.array([0.0, 2.0]))(x, T).x0,
        "pag and cfg": mix(guidance.tapped(m, mid_block), conds, (1 - 3.0, 3.0 + 2.0, -2.0))(x, T),
        "null": bind(m, null)(x, T).x0,
        "sag": jax.vmap(sag)(jnp.array([1.0, 1e9, -1.0])).swapaxes(0, 1),
        "worse": worse,
        "again": jax.vmap(lambda w: plain(x + (1 - T) * (w - est.x0), T).x0)(worse),
    }


@functools.cache
def found():
    return jax.device_get(answers(X, LABEL, NULL))


def test_pag_is_two_branches_of_one_call():
    got = found()
    assert np.abs(got["plain"] - got["blind"]).max() > 1e-3
    scale = np.array([0.0, 2.0])[:, None, None, None]
    expected = got["plain"] + scale * (got["plain"] - got["blind"])
    np.testing.assert_allclose(got["pag"], expected, atol=2e-5)
    both = got["null"] + 3 * (got["plain"] - got["null"]) + 2 * (got["plain"] - got["blind"])
    np.testing.assert_allclose(got["pag and cfg"].x0, both, atol=5e-5)


def test_sag_where_something_nothing_and_everything_is_blurred():
    got = found()
    some, nowhere, everywhere = got["sag"].swapaxes(0, 1)
    expected = got["plain"] + 2 * (got["worse"] - got["again"])
    np.testing.assert_allclose(np.stack([some, nowhere, everywhere]), expected, atol=5e-5)
    np.testing.assert_allclose(nowhere, got["plain"], atol=2e-5)
    assert min(np.abs(some - nowhere).max(), np.abs(some - everywhere).max()) > 1e-3


def test_a_batch_is_its_samples():
    whole = found()
    for i in range(2):
        one = answers(X[i : i + 1].repeat(2, 0), LABEL[i : i + 1].repeat(2), NULL)
        for name in ("pag", "sag") if i == 0 else ("sag",):  # the scale of pag goes by the place
            np.testing.assert_allclose(one[name][0], whole[name][i], atol=1e-5)


def test_taps():
    taps, three = found()["taps"], found()["pag and cfg"].aux["taps"]
    assert set(taps) == {"middle/0/own:probs"} and set(three) == {"middle/0:block"}
    (probs,), (block,) = taps.values(), three.values()
    assert probs.shape == (2, 2, 16, 16) and block.shape == (2, 3, 16, 8)
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, rtol=1e-5)
    assert np.abs(block[:, 0] - block[:, 1]).max() > 1e-4  # null, then label
    flat = {"a": jnp.ones((2, 2, 3)), "b": 2 * jnp.ones((4, 4, 1))}
    stacked = guidance.stacked_taps(flat, (4, 4))
    np.testing.assert_allclose(stacked, jnp.ones((4, 4, 4)).at[..., 3].set(2.0), rtol=1e-6)


def test_identity_attention_returns_the_values():
    q, k, v = (vector(i, 1, 4, 2, 3) for i in range(3))
    see = guidance.identity_attention(guidance.middle)
    np.testing.assert_allclose(attend(q, k, v, control=see, place=PLACE), v, rtol=1e-6)
    tokens = attend(q, k[:, :3], v[:, :3], place=PLACE)
    cross = Site("middle/0/cross", "", "middle", 0, 0, "cross", (2, 2), 2)
    assert jnp.allclose(attend(q, k[:, :3], v[:, :3], control=see, place=cross), tokens, atol=1e-6)
    with pytest.raises(ValueError, match="4 queries over 3 keys"):
        attend(q, k[:, :3], v[:, :3], control=see, place=PLACE)


def test_the_blur():
    x, flat = vector(0, 1, 6, 7, 2), jnp.ones((1, 6, 7, 2))
    blur = jax.jit(_blurred, static_argnums=2)
    np.testing.assert_allclose(blur(flat, 2.0, 5), flat, rtol=1e-6)
    np.testing.assert_allclose(blur(x, 1e-3, 5), x, rtol=1e-6)
    dot = np.zeros((1, 9, 9, 1), np.float32)
    dot[0, 4, 4] = 1
    spot, rows = np.asarray(blur(dot, 1.0, 7))[0, :, :, 0], np.arange(9.0) - 4
    assert spot.sum() == pytest.approx(1, abs=1e-5)
    assert (spot * rows[:, None] ** 2).sum() == pytest.approx(1, abs=0.07)  # cut off at 3


def everywhere(site):
    return True


def test_the_networks_of_the_library_are_heard():
    """Shapes alone: the default sites are the middle of a U-Net; a transformer names its own."""
    shape, t = jnp.zeros((2, 8, 8, 1)), jnp.array(0.5)
    usual: Any = dict(channels=1, heads=2, classes=2)
    u = unet(widths=(8, 8), attention=(1,), embed_dim=8, **usual)
    d = dit(size=8, patch=2, width=8, depth=1, remat=True, **usual)
    cases = ((u, guidance.middle, guidance.sag), (d, everywhere, guidance.pag))
    for net, sites, second in cases:  # what recomputes its blocks cannot be tapped

        def through(key, x, net=net, sites=sites, second=second):
            m = denoise.model(net.apply, net.init(key), FLOW, process.wiring(process.x0))
            made = [make(m, LABEL, 2.0, sites=sites) for make in (guidance.pag, second)]
            return [d(x, t).x0 for d in made]

        assert {a.shape for a in jax.eval_shape(through, jax.random.key(0), shape)} == {shape.shape}


def ups(site):
    return jnp.tanh if site.stage == "up" and site.port == "block" else None


def pixel(weights, features, t):
    return jnp.tanh(features) @ weights + t


def test_a_sketch_by_the_taps_of_a_unet():
    """Shapes alone; what the step is, the tests of the correction say."""
    u = unet(widths=(8, 8), channels=1, heads=2, attention=(), embed_dim=8, classes=2)

    def through(key, x):
        m = denoise.model(u.apply, u.init(key), FLOW, process.wiring(process.x0))
        edges = guidance.latent_edges(Partial(pixel, jnp.ones((8, 2))), (4, 4))
        fix = guidance.sketch(edges, jnp.zeros((1, 4, 4, 2)), 0.5)
        rows, d = samplers.grid(jnp.array([0.6, 0.4])), bind(guidance.tapped(m, ups), LABEL)
        return samplers.run(keys_of(2), d, fix(samplers.euler()), rows, x)

    x = jnp.zeros((2, 8, 8, 1))
    assert jax.eval_shape(through, jax.random.key(0), x).shape == x.shape


def nowhere(site):
    return False


def test_errors():
    def asked(denoiser, x=X):
        return jax.eval_shape(lambda x: denoiser(x, T).x0, x)

    with pytest.raises(ValueError, match="control of branch 1 wants nothing"):
        asked(guidance.pag(model(), LABEL, 1.0, sites=nowhere))
    tapped = guidance.tapped(model(), lambda site: None)
    for sought in (guidance.sag(model(), LABEL, 1.0, sites=nowhere, size=3), bind(tapped, LABEL)):
        with pytest.raises(ValueError, match="tap wants nothing"):
            asked(sought)
    for size in (0, 4, -1):
        with pytest.raises(ValueError, match=f"size={size}"):
            guidance.sag(model(), LABEL, 1.0, size=size)
    with pytest.raises(ValueError, match="blur of size 9"):
        asked(guidance.sag(model(), LABEL, 1.0, size=9))
