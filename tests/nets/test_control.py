"""Control: free when it wants nothing, heard at every port when it wants something."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import control as ports

NETS = ["unet", "dit"]
PORTS = {"qkv", "logits", "probs", "out", "resnet", "skip", "block", "temb"}


def _text(net, inputs, name, tokens, control=None, absent=False):
    x, time, label = inputs(name)
    cond = {"label": label, "tokens": tokens}
    said = {} if absent else {"control": control}
    params = jax.eval_shape(net.init, jax.random.key(0))

    def apply(params, x, time, cond):
        return net.apply(params, x, time, cond | said)

    return jax.jit(apply).lower(params, x, time, cond).as_text()


@pytest.mark.parametrize("name", NETS)
def test_without_control_the_program_is_that_of_a_build_without_hooks(
    name, small, inputs, tokens, monkeypatch
):
    make = small[name]
    text = _text(make(classes=3, context_dim=6), inputs, name, tokens)
    assert text == _text(make(classes=3, context_dim=6), inputs, name, tokens, absent=True)
    silent = _text(make(classes=3, context_dim=6), inputs, name, tokens, lambda site: None)
    assert text == silent
    loud = _text(
        make(classes=3, context_dim=6), inputs, name, tokens,
        lambda site: (lambda p: 2 * p) if site.port == "probs" else None,
    )
    assert text != loud
    calls = []
    monkeypatch.setattr(ports, "hook", lambda c, s, port, value: calls.append(port) or value)
    monkeypatch.setattr(ports, "ask", lambda c, s, port: calls.append(port))
    assert text == _text(make(classes=3, context_dim=6), inputs, name, tokens)
    assert set(calls) == PORTS - ({"skip"} if name == "dit" else set())


def _sites(net, inputs, name, tokens):
    x, time, label = inputs(name)
    sites = []
    cond = {"label": label, "tokens": tokens, "control": sites.append}
    jax.eval_shape(lambda p: net.apply(p, x, time, cond), jax.eval_shape(net.init, jax.random.key(0)))
    return sites


@pytest.mark.parametrize("name", NETS)
def test_sites_are_unique_static_and_named_like_the_parameters(name, small, inputs, tokens):
    net = small[name](classes=3, context_dim=6)
    sites = _sites(net, inputs, name, tokens)
    assert len({(s.path, s.port) for s in sites}) == len(sites) == len(set(sites))
    params = jax.eval_shape(net.init, jax.random.key(0))
    for site in sites:
        branch = params
        for part in [] if site.path == "temb" else site.path.split("/"):
            branch = branch[part]
        assert (site.heads > 0) == (site.kind in ("self", "cross"))


def test_sites_of_the_unet(small, inputs, tokens):
    sites = _sites(small["unet"](classes=3, context_dim=6), inputs, "unet", tokens)
    paths = {port: [s.path for s in sites if s.port == port] for port in PORTS}
    blocks = ["down/0/0", "middle/0", "middle/1", "up/0/0"]
    assert paths["temb"] == ["temb"]
    assert paths["block"] == blocks
    assert paths["resnet"] == [f"{block}/residual" for block in blocks]
    assert paths["skip"] == ["up/0/0"]
    looks = ["middle/0/own", "middle/0/cross"]
    assert [paths[port] for port in ("qkv", "logits", "probs", "out")] == [looks] * 4
    where = {s.path: (s.stage, s.level, s.index, s.kind, s.hw, s.heads) for s in sites}
    assert where["middle/0/own"] == ("middle", 1, 0, "self", (4, 4), 2)
    assert where["middle/0/cross"] == ("middle", 1, 0, "cross", (4, 4), 2)
    assert where["up/0/0"] == ("up", 0, 0, "block", (8, 8), 0)


def test_sites_of_the_dit(small, inputs, tokens):
    sites = _sites(small["dit"](classes=3, context_dim=6), inputs, "dit", tokens)
    assert [s.path for s in sites if s.port == "block"] == ["blocks/0", "blocks/1"]
    assert [s.path for s in sites if s.port == "resnet"] == ["blocks/0/mlp", "blocks/1/mlp"]
    assert {s.hw for s in sites} == {(4, 4)}


@pytest.mark.parametrize("name", ["unet", "dit", "mlp"])
def test_identity_changes_nothing_and_every_port_acts(name, small, inputs, tokens, moved):
    built, cond = {"classes": 3}, {"label": inputs(name)[2]}
    if name != "mlp":
        built, cond = built | {"context_dim": 6}, cond | {"tokens": tokens}
    net, (x, time, _) = small[name](**built), inputs(name)
    params = moved(net)

    @jax.jit
    def plain(params, x):
        return net.apply(params, x, time, cond)

    def controlled(control):
        return jax.jit(lambda p, x: net.apply(p, x, time, cond | {"control": control}))(params, x)

    reference = plain(params, x)
    size = float(jnp.abs(reference).max())
    identity = controlled(lambda site: lambda value: value)
    np.testing.assert_allclose(identity, reference, atol=1e-6 * max(1, size), rtol=1e-5)
    seen = set()
    controlled(lambda site: seen.add(site.port))
    for port in seen:
        change = controlled(lambda site, port=port: _half if site.port == port else None)
        assert float(jnp.abs(change - reference).max()) > 1e-4 * size, port


def _half(value):
    return jax.tree.map(lambda v: 0.5 * v, value)


def test_a_control_may_be_a_pytree_argument(small, inputs, moved):
    net, (x, time, _) = small["unet"](), inputs("unet")
    params, traces = moved(net), []

    @jax.jit
    def run(control):
        traces.append(1)
        return net.apply(params, x, time, {"control": control})

    plain = run(jax.tree_util.Partial(_scale_skips, jnp.array(1.0)))
    other = run(jax.tree_util.Partial(_scale_skips, jnp.array(0.0)))
    np.testing.assert_allclose(plain, net.apply(params, x, time), atol=1e-5)
    assert float(jnp.abs(plain - other).max()) > 1e-3
    assert len(traces) == 1


def _scale_skips(factor, site):
    return (lambda value: factor * value) if site.port == "skip" else None


def test_taps_have_gradients_through_remat(small, inputs, moved):
    x, time, _ = inputs("dit")

    def energy(net, params, x):
        taps = {}

        def control(site):
            return (lambda v: taps.setdefault(site.path, v)) if site.port == "temb" else None

        return net.apply(params, x, time, {"control": control}).sum() + taps["temb"].sum()

    kept, again = small["dit"](), small["dit"](remat=True)
    params = moved(kept)
    for a, b in zip(
        jax.tree.leaves(jax.grad(lambda p: energy(kept, p, x))(params)),
        jax.tree.leaves(jax.grad(lambda p: energy(again, p, x))(params)),
    ):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)
