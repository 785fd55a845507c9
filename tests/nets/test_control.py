"""Control: free when it wants nothing, heard at every port when it wants something."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import control as ports

PORTS = ["qkv", "logits", "probs", "out", "resnet", "skip", "block", "temb"]


def _text(net, like, **said):
    def apply(params, x, time, cond):
        return net.apply(params, x, time, cond | said)

    return jax.jit(apply).lower(like.params, like.x, like.time, like.cond).as_text()


def test_without_control_the_program_is_that_of_a_build_without_hooks(image_net, make, monkeypatch):
    name, built = image_net

    def double_probs(site):
        return (lambda p: 2 * p) if site.port == "probs" else None

    text = _text(make(name), built)
    assert text == _text(make(name), built, control=None)
    assert text == _text(make(name), built, control=lambda site: None)
    assert text != _text(make(name), built, control=double_probs)
    calls = set()
    monkeypatch.setattr(ports, "hook", lambda c, s, port, value: calls.add(port) or value)
    monkeypatch.setattr(ports, "ask", lambda c, s, port: calls.add(port))
    assert text == _text(make(name), built)
    assert calls == set(PORTS) - ({"skip"} if name == "dit" else set())


def _sites(built):
    sites = []
    cond = built.cond | {"control": sites.append}
    jax.eval_shape(lambda p: built.net.apply(p, built.x, built.time, cond), built.params)
    return sites


def test_sites_are_unique_static_and_named_like_the_parameters(image_net):
    _, built = image_net
    sites = _sites(built)
    assert len({(s.path, s.port) for s in sites}) == len(sites) == len(set(sites))
    for site in sites:
        branch = built.params
        for part in [] if site.path == "temb" else site.path.split("/"):
            branch = branch[part]
        assert (site.heads > 0) == (site.kind in ("self", "cross"))


def test_sites_of_each(image_net):
    name, built = image_net
    sites = _sites(built)
    paths = {port: [s.path for s in sites if s.port == port] for port in PORTS}
    assert paths["temb"] == ["temb"]
    where = {s.path: (s.stage, s.level, s.index, s.kind, s.hw, s.heads) for s in sites}
    if name == "dit":
        assert paths["block"] == ["blocks/0", "blocks/1"]
        assert paths["resnet"] == ["blocks/0/mlp", "blocks/1/mlp"]
        assert {s.hw for s in sites} == {(4, 4)}
        assert where["blocks/1/cross"] == ("blocks", 0, 1, "cross", (4, 4), 2)
        return
    blocks, looks = (
        ["down/0/0", "middle/0", "middle/1", "up/0/0"],
        ["middle/0/own", "middle/0/cross"],
    )
    assert paths["block"] == blocks
    assert paths["resnet"] == [f"{block}/residual" for block in blocks]
    assert paths["skip"] == ["up/0/0"]
    assert [paths[port] for port in ("qkv", "logits", "probs", "out")] == [looks] * 4
    assert where["middle/0/own"] == ("middle", 1, 0, "self", (4, 4), 2)
    assert where["middle/0/cross"] == ("middle", 1, 0, "cross", (4, 4), 2)
    assert where["up/0/0"] == ("up", 0, 0, "block", (8, 8), 0)


def test_identity_changes_nothing_and_every_port_acts(built, jit):
    asked = set()

    @jit
    def controlled(factors):
        def control(site):
            asked.add(site.port)
            return lambda value: jax.tree.map(lambda v: factors[site.port] * v, value)

        cond = built.cond | {"control": control}
        return built.net.apply(built.params, built.x, built.time, cond)

    ones = dict.fromkeys(PORTS, 1.0)
    reference = built.apply(built.params, built.x, built.time, built.cond)
    size = float(jnp.abs(reference).max())
    np.testing.assert_allclose(controlled(ones), reference, atol=2e-6 * max(1, size))
    for port in PORTS:
        change = float(jnp.abs(controlled(ones | {port: 0.5}) - reference).max())
        assert (change > 1e-4 * size) == (port in asked), port


def test_a_control_may_be_a_pytree_argument(point_net):
    net, traces = point_net, []

    @jax.jit
    def run(control):
        traces.append(1)
        return net.net.apply(net.params, net.x, net.time, net.cond | {"control": control})

    plain = run(jax.tree_util.Partial(_scale_branches, jnp.array(1.0)))
    other = run(jax.tree_util.Partial(_scale_branches, jnp.array(0.0)))
    reference = net.apply(net.params, net.x, net.time, net.cond)
    np.testing.assert_allclose(plain, reference, atol=1e-5)
    assert float(jnp.abs(plain - other).max()) > 1e-3
    assert len(traces) == 1


def _scale_branches(factor, site):
    return (lambda value: factor * value) if site.port == "resnet" else None


@pytest.mark.parametrize("kind, options", [("dit", {}), ("dit", {"scan": True}), ("unet", {})])
def test_remat_changes_neither_values_nor_gradients_nor_controls(make, moved, jit, kind, options):
    def loss(net, params, x):
        def control(site):
            return (lambda p: 2 * p) if site.port == "probs" else None

        cond = None if options else {"control": control}  # a control unrolls the loop
        return jnp.sum(net.apply(params, x, jnp.zeros(1), cond) ** 2)

    plain = dict(classes=0, context_dim=0, depth=2)
    kept, again = make(kind, **plain), make(kind, remat=True, **options, **plain)
    params, x = moved(kept), jnp.ones((1, 8, 8, 2))
    left = jit(jax.value_and_grad(lambda p: loss(kept, p, x)))(params)
    right = jit(jax.value_and_grad(lambda p: loss(again, p, x)))(params)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(left[0]), rtol=1e-4)
