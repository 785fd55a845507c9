"""The U-Nets of published models: control, residuals, remat, and what is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import control as ports
from jaxdiff.nets.unet2d import (
    Clock,
    Level,
    Look,
    Middle,
    Residuals,
    Told,
    adm_classifier,
    adm_unet,
    controlnet,
    copied,
    dhariwal_unet,
    scaled,
    song_unet,
    unet2d,
)

LOOK = Look("cross", heads=2)
LEVELS = [Level(4, 1, LOOK, LOOK), Level(4, 1)]
SHAPE: dict[str, Any] = dict(levels=LEVELS, middle=Middle(LOOK), context_dim=3, groups=2)
ADM: dict[str, Any] = dict(widths=(4, 4), attention=(1,), depth=1, heads=2, groups=2, labels=3)
EDM: dict[str, Any] = dict(size=8, width=8, multipliers=(1, 1), depth=1, attention=(4,))
MAKE = {
    "unet2d": lambda **more: unet2d(**SHAPE, **more),
    "adm": lambda **more: adm_unet(**ADM, **more),
    "song": lambda **more: song_unet(**EDM, **more),
}
COND = {"unet2d": {"tokens": jnp.ones((2, 3, 3))}, "adm": {"label": jnp.array([0, 2])}, "song": {}}
CHANNELS = {"unet2d": 4, "adm": 3, "song": 3}
SLOW = pytest.mark.slow
ATTENTION = {"qkv", "logits", "probs", "out"}


def shaken(net, seed=0):
    """Parameters without zeros, so that every part acts."""
    key = jax.random.key(seed)
    params = jax.eval_shape(net.init, key)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.3, p.shape), p.dtype), params)


def inputs(name, side=4):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, side, side, CHANNELS[name])))
    return x.astype(jnp.float32), jnp.array([1.0, 2.0])


def text(name, **said):
    net = MAKE[name]()
    params = jax.eval_shape(net.init, jax.random.key(0))
    x, time = inputs(name)

    def apply(params, x, time):
        return net.apply(params, x, time, COND[name] | said)

    return jax.jit(apply).lower(params, x, time).as_text()


@pytest.mark.parametrize(
    "name", [n if n == "unet2d" else pytest.param(n, marks=SLOW) for n in MAKE]
)
def test_without_control_the_program_is_that_of_a_build_without_hooks(name, monkeypatch):
    plain = text(name)
    assert plain == text(name, control=lambda site: None)
    calls = set()
    monkeypatch.setattr(ports, "hook", lambda c, s, port, value: calls.add(port) or value)
    monkeypatch.setattr(ports, "ask", lambda c, s, port: calls.add(port))
    assert plain == text(name)
    assert calls == ATTENTION | {"temb", "resnet", "skip", "block"}


@functools.cache
def sites(name):
    net, found = MAKE[name](), []
    params = jax.eval_shape(net.init, jax.random.key(0))
    cond = COND[name] | {"control": found.append}
    jax.eval_shape(lambda p: net.apply(p, *inputs(name), cond), params)
    return found, params


@pytest.mark.parametrize("name", list(MAKE))
def test_sites_are_unique_and_named_like_the_parameters(name):
    found, params = sites(name)
    assert len({(s.path, s.port) for s in found}) == len(found) == len(set(found))
    for site in found:
        branch = params
        for part in [] if site.path == "temb" else site.path.split("/"):
            branch = branch[part]
        assert (site.heads > 0) == (site.kind in ("self", "cross")) == (site.port in ATTENTION)


def test_sites_of_the_unet():
    found, _ = sites("unet2d")
    where = {(s.path, s.port): s for s in found}
    skips = [s.path for s in found if s.port == "skip"]
    assert skips == [f"up_blocks/{i}/resnets/{j}" for i in (0, 1) for j in (0, 1)]
    deep = where["up_blocks/0/resnets/1", "block"]
    assert (deep.stage, deep.level, deep.index, deep.hw) == ("up", 1, 1, (2, 2))
    path = "down_blocks/0/attentions/0/transformer_blocks/0"
    kinds = [where[f"{path}/{name}", "probs"].kind for name in ("attn1", "attn2")]
    assert kinds == ["self", "cross"]
    assert where[f"{path}/attn1", "probs"].hw == (4, 4)
    assert where["mid_block/resnets/0", "block"].stage == "middle"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAKE))
def test_every_site_acts_and_remat_changes_nothing(name):
    """A control that halves one port changes the output, with and without remat by the same."""
    net, again = MAKE[name](), MAKE[name](remat=True)
    params, (x, time) = shaken(net), inputs(name)

    @functools.partial(jax.jit, static_argnums=0)
    def run(apply, factors, params):
        def control(site):
            return lambda value: jax.tree.map(lambda v: v * factors[site.port], value)

        return apply(params, x, time, COND[name] | {"control": control})

    ones = dict.fromkeys([*sorted(ATTENTION), "temb", "resnet", "skip", "block"], 1.0)
    plain = run(net.apply, ones, params)
    size = float(jnp.abs(plain).max())
    np.testing.assert_allclose(plain, run(again.apply, ones, params), atol=1e-5 * size)
    for port in ones:
        other = run(net.apply, ones | {port: 0.5}, params)
        assert float(jnp.abs(other - plain).max()) > 1e-5 * size, port


def control_net():
    hint: dict[str, Any] = dict(hint_widths=(4, 4), levels=LEVELS, middle=Middle(LOOK))
    return controlnet(**hint, context_dim=3, groups=2)


@pytest.mark.slow
def test_a_new_controlnet_is_a_copy_that_changes_nothing():
    net, guide = MAKE["unet2d"](), control_net()
    params, (x, time) = shaken(net), inputs("unet2d")
    fresh = copied(guide.init(jax.random.key(0)), params)
    assert fresh["down_blocks"] is params["down_blocks"]
    assert fresh["mid_block"] is params["mid_block"]
    hint = jnp.ones((2, 8, 8, 3))
    made = jax.jit(guide.apply)(fresh, x, time, COND["unet2d"] | {"image": hint})
    assert len(made.skips) == 4
    assert all(float(jnp.abs(r).max()) == 0 for r in (*made.skips, made.middle))
    apply = jax.jit(net.apply)
    cond = COND["unet2d"] | {"residuals": scaled(made, 0.7)}
    plain = apply(params, x, time, COND["unet2d"])
    np.testing.assert_array_equal(apply(params, x, time, cond), plain)


def test_scaled_residuals():
    made = Residuals(tuple(jnp.ones(2) for _ in range(12)), jnp.ones(2))
    weights = [float(r[0]) for r in (*scaled(made, 2.0, guess=True).skips,)]
    np.testing.assert_allclose(weights, 2 * np.logspace(-1, 0, 13)[:12], rtol=1e-6)
    guessed = scaled(made, jnp.array(2.0), guess=True)
    assert guessed.middle is not None and float(guessed.middle[0]) == 2.0
    assert float(scaled(made, 0.5).skips[0][0]) == 0.5


def test_copied_wants_the_same_levels():
    fresh = control_net().init(jax.random.key(0))
    other = unet2d(levels=[Level(4, 1), Level(4, 1)], groups=2)
    with pytest.raises(ValueError, match="down_blocks is not the same in the ControlNet"):
        copied(fresh, jax.eval_shape(other.init, jax.random.key(0)))


def test_an_image_lies_beside_x():
    net = unet2d(levels=[Level(4, 1)], middle=None, channels=5, out=2, groups=2)
    params, x, time = shaken(net), jnp.ones((2, 4, 4, 5)), jnp.zeros(2)
    together = net.apply(params, x, time)
    cond = {"image": x[..., 3:]}
    np.testing.assert_array_equal(net.apply(params, x[..., :3], time, cond), together)


def test_any_size_where_only_convolutions_halve():
    net = unet2d(levels=[Level(4, 1), Level(4, 1), Level(4, 1)], groups=2)
    params = jax.eval_shape(net.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, 7, 9, 4), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    assert jax.eval_shape(net.apply, params, x, time).shape == (1, 7, 9, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAKE))
def test_in_bfloat16_the_output_is_float32_and_near(name):
    net, half = MAKE[name](), MAKE[name](dtype=jnp.bfloat16)
    params, (x, time) = net.init(jax.random.key(0)), inputs(name)
    params = jax.tree.map(lambda p: p + 0.05, params)
    full, low = (n.apply(params, x, time, COND[name]) for n in (net, half))
    assert low.dtype == jnp.float32
    assert float(jnp.abs(full - low).max()) < 0.05 * float(jnp.abs(full).max())


def call(net, *, channels=4, side=4, **cond):
    params = jax.eval_shape(net.init, jax.random.key(0))
    x = jnp.zeros((2, side, side, channels))
    return jax.eval_shape(lambda p: net.apply(p, x, jnp.zeros(2), cond or None), params)


SIZED = Told(pooled="sizes", pooled_dim=5 + 2 * 4, size_width=4)
TOKENS: dict[str, Any] = dict(tokens=jnp.ones((2, 3, 3)))
BAD = {
    "no levels": (lambda: unet2d(levels=[]), "levels is empty"),
    "heads": (lambda: call(unet2d(levels=[Level(4, 1, Look("self", 3))], groups=2)), "divide"),
    "kind": (lambda: unet2d(levels=[Level(4, 1, Look("both", 1))]), "look.kind is 'both'"),
    "depth": (lambda: unet2d(levels=[Level(4, 0)]), "level.depth is 0"),
    "shrink": (lambda: unet2d(levels=[Level(4, 1, shrink="pool")]), "level.shrink is 'pool'"),
    "no context": (lambda: unet2d(levels=LEVELS), "context_dim is 0 but the network looks at"),
    "context": (lambda: unet2d(levels=[Level(4)], context_dim=3), "looks at no tokens"),
    "layers": (
        lambda: unet2d(
            **SHAPE | dict[str, Any](levels=[Level(4, 1, LOOK._replace(layers=(1, 2)))])
        ),
        "the level has 1 blocks",
    ),
    "middle": (
        lambda: unet2d(levels=[Level(4)], middle=Middle(blocks=3), groups=2),
        "must be 1 or 2",
    ),
    "clock": (lambda: unet2d(levels=[Level(4)], clock=Clock(4, "sundial")), "'sundial'"),
    "table": (lambda: unet2d(levels=[Level(4)], clock=Clock(4, "table")), "clock.steps is 0"),
    "pooled": (
        lambda: unet2d(levels=[Level(4)], told=Told(pooled="mean")),
        "told.pooled is 'mean'",
    ),
    "one label": (lambda: unet2d(levels=[Level(4)], told=Told(labels=1)), "at least 2 rows"),
    "two classes": (
        lambda: unet2d(levels=[Level(4)], told=Told(labels=3, level=True)),
        "choose one",
    ),
    "channels": (lambda: call(MAKE["unet2d"](), channels=3, **TOKENS), "x has 3 channels"),
    "tokens": (lambda: call(MAKE["unet2d"](), tokens=jnp.ones((2, 3, 5))), r"\[2, n, 3\]"),
    "no tokens": (lambda: call(MAKE["unet2d"]()), "cond\\['tokens'\\] has shape None"),
    "image": (
        lambda: call(MAKE["unet2d"](), image=jnp.ones((2, 5, 4, 1)), **TOKENS),
        "lies beside x",
    ),
    "label": (lambda: call(MAKE["unet2d"](), label=jnp.zeros(2, int), **TOKENS), "no classes"),
    "sides": (
        lambda: call(unet2d(levels=[Level(4, 1)] * 2, padding=0, groups=2), side=5),
        "multiples of 2",
    ),
    "residuals": (
        lambda: call(MAKE["unet2d"](), residuals=(jnp.ones((2, 1)),), **TOKENS),
        "give Residuals",
    ),
    "skips": (
        lambda: call(MAKE["unet2d"](), residuals=Residuals((jnp.ones((2, 1)),)), **TOKENS),
        "has 4",
    ),
    "inner": (
        lambda: call(MAKE["unet2d"](), residuals=Residuals(inner=(jnp.ones((2, 1)),)), **TOKENS),
        "has 2 levels",
    ),
    "sizes": (
        lambda: call(
            unet2d(levels=[Level(4, 1)], told=SIZED, groups=2),
            pooled=jnp.ones((2, 5)),
            sizes=jnp.ones((2, 3)),
        ),
        "17 in all",
    ),
    "no sizes": (
        lambda: call(unet2d(levels=[Level(4, 1)], told=SIZED, groups=2), pooled=jnp.ones((2, 5))),
        "cond holds no 'sizes'",
    ),
    "vector": (
        lambda: call(
            unet2d(levels=[Level(4, 1)], told=Told(pooled="linear", pooled_dim=6), groups=2),
            pooled=jnp.ones((2, 5)),
        ),
        r"takes \[b, 6\]",
    ),
    "no hint": (lambda: call(control_net(), **TOKENS), "cond holds no 'image'"),
    "hint": (
        lambda: call(control_net(), image=jnp.ones((2, 4, 4, 3)), **TOKENS),
        r"\[2, 8, 8, 3\]",
    ),
    "adm level": (lambda: adm_unet(widths=(4,), attention=(1,)), "attention names level 1"),
    "adm heads": (
        lambda: call(adm_unet(widths=(4,), attention=(), heads=3, groups=2)),
        "heads is 3",
    ),
    "adm channels": (
        lambda: call(MAKE["adm"](), channels=2, label=jnp.zeros(2, int)),
        "2 channels",
    ),
    "adm label": (lambda: call(MAKE["adm"](), channels=3), "holds no label"),
    "adm sides": (
        lambda: call(MAKE["adm"](), channels=3, side=5, label=jnp.zeros(2, int)),
        "multiples",
    ),
    "classifier": (
        lambda: call(adm_classifier(size=8, widths=(4,), attention=(), head_width=2, groups=2)),
        r"takes \[b, 8, 8, 3\]",
    ),
    "encoder": (lambda: song_unet(**EDM, encoder="deep"), "encoder is 'deep'"),
    "taps": (lambda: song_unet(**EDM, taps=(1.0, 2.0, 1.0)), "must be even"),
    "size": (lambda: dhariwal_unet(size=6, multipliers=(1, 2, 2)), "multiple of 4"),
    "augment": (
        lambda: call(song_unet(**EDM, augment_dim=4), channels=3, augment=jnp.ones((2, 3))),
        r"takes \[2, 4\]",
    ),
    "no augment": (
        lambda: call(MAKE["song"](), channels=3, augment=jnp.ones((2, 3))),
        "not built for it",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_in_words(case):
    build, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        build()
