"""The published transformers: control, loops, places, and what training starts from."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import control as ports
from jaxdiff.nets.embed import positions
from jaxdiff.nets.transformers import flux, labelled_dit, pixart, sd3, stretched, uvit
from jaxdiff.nets.transformers.flux import packed, unpacked
from jaxdiff.nets.transformers.places import angles, grid, middle, rotate

TOKENS = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 6)), jnp.float32)
TEXT = {"tokens": TOKENS, "pooled": jnp.ones((2, 5))}
LABEL = {"label": jnp.array([0, 3])}
SMALL: dict[str, Any] = dict(width=12, heads=3)
JOINT: dict[str, Any] = dict(context_dim=6, pooled_dim=5, channels=4, **SMALL)
MAKE = {
    "dit": lambda **more: labelled_dit(size=4, depth=2, classes=3, **SMALL, **more),
    "dit_each": lambda **more: labelled_dit(
        size=4, depth=3, classes=3, shared=False, **SMALL, **more
    ),
    "pixart": lambda **more: pixart(size=4, depth=3, caption_dim=6, sizes=True, **SMALL, **more),
    "sd3": lambda **more: sd3(size=4, table=4, depth=4, norm=True, dual=(0, 1), **JOINT, **more),
    "flux": lambda **more: flux(depth=2, single=2, axes=(0, 2, 2), guidance=True, **JOINT, **more),
    "uvit": lambda **more: uvit(size=4, patch=2, channels=4, depth=2, classes=3, **SMALL, **more),
}
COND = {
    "dit": LABEL,
    "dit_each": LABEL,
    "pixart": {"tokens": TOKENS, "sizes": jnp.ones((2, 3))},
    "sd3": TEXT,
    "flux": TEXT | {"guidance": jnp.ones(2)},
    "uvit": LABEL,
}
NAMES = list(MAKE)
LOOPED = [name for name in NAMES if name != "uvit"]
PORTS = {"qkv", "logits", "probs", "out", "resnet", "block", "temb"}
TIME = jnp.array([0.3, 0.7])
SOME = [pytest.param(n, marks=() if n == "dit" else pytest.mark.slow) for n in NAMES]
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _x(seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, 4, 4, 4)), jnp.float32)


def _shaken(net, seed=0):
    """Parameters without zeros, so that every part acts."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.3, p.shape), p.dtype), shapes)


def _text(name, **said):
    net = MAKE[name]()
    params = jax.eval_shape(net.init, jax.random.key(0))
    apply = jax.jit(lambda p, x, t, c: net.apply(p, x, t, c | said))
    return apply.lower(params, _x(), TIME, COND[name]).as_text()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "dit" else pytest.mark.slow) for n in NAMES],
)
def test_without_control_the_program_is_that_of_a_build_without_hooks(name, monkeypatch):
    text = _text(name)
    assert text == _text(name, control=lambda site: None)
    calls = set()
    monkeypatch.setattr(ports, "hook", lambda c, s, port, value: calls.add(port) or value)
    monkeypatch.setattr(ports, "ask", lambda c, s, port: calls.add(port))
    assert text == _text(name)
    assert calls == PORTS | ({"skip"} if name == "uvit" else set())


@pytest.mark.parametrize("name", NAMES)
def test_sites_are_unique_and_named_like_the_parameters(name):
    sites = []
    net = MAKE[name]()
    params = jax.eval_shape(net.init, jax.random.key(0))
    cond = COND[name] | {"control": sites.append}
    jax.eval_shape(lambda p: net.apply(p, _x(), TIME, cond), params)
    assert len({(s.path, s.port) for s in sites}) == len(sites) == len(set(sites))
    assert len({s.index for s in sites if s.port == "block" and s.stage == "blocks"}) == (
        sum(s.port == "block" and s.stage == "blocks" for s in sites)
    )
    for site in sites:
        branch = params
        for part in [] if site.path == "temb" else site.path.split("/"):
            branch = branch[part]
        assert (site.heads > 0) == (site.kind in ("self", "cross", "joint"))
        assert site.hw == (2, 2)


@pytest.mark.parametrize("name", SOME)
def test_every_site_acts(name):
    net = MAKE[name]()
    params = _shaken(net)
    asked = set()

    @_jit
    def controlled(factors):
        def control(site):
            asked.add(site.port)
            return lambda value: jax.tree.map(lambda v: factors[site.port] * v, value)

        return net.apply(params, _x(), TIME, COND[name] | {"control": control})

    ones = dict.fromkeys([*PORTS, "skip"], 1.0)
    plain = _jit(net.apply)(params, _x(), TIME, COND[name])
    np.testing.assert_allclose(controlled(ones), plain, atol=1e-5)
    for port in asked:
        assert float(jnp.abs(controlled(ones | {port: 0.5}) - plain).max()) > 1e-4, port


def _graded(net, name):
    def loss(params, x):
        out = net.apply(params, x, TIME, COND[name])
        return jnp.sum(out**2), out

    return _jit(jax.grad(loss, (0, 1), has_aux=True))(_shaken(net), _x())


@pytest.mark.parametrize("name", SOME)
def test_loops_and_remat_change_neither_values_nor_gradients(name):
    options = {"remat": True} | ({"scan": True} if name in LOOPED else {})
    plain, other = _graded(MAKE[name](), name), _graded(MAKE[name](**options), name)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.abs(a).max())))


@pytest.mark.parametrize("name, loops", [("dit", 1), ("pixart", 1), ("sd3", 1), ("flux", 2)])
def test_equal_neighbours_are_one_loop(name, loops):
    net = MAKE[name](scan=True)
    params = jax.eval_shape(net.init, jax.random.key(0))
    program = jax.make_jaxpr(net.apply)(params, _x(), TIME, COND[name])
    assert sum(eqn.primitive.name == "scan" for eqn in program.eqns) == loops
    cond = COND[name] | {"control": lambda site: None}
    unrolled = jax.make_jaxpr(lambda p: net.apply(p, _x(), TIME, cond))(params)
    assert not any(eqn.primitive.name == "scan" for eqn in unrolled.eqns)


@pytest.mark.parametrize(
    "name", ["dit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pixart", "sd3", "flux"))]
)
def test_a_new_network_answers_zero(name):
    net = MAKE[name]()
    out = _jit(net.apply)(net.init(jax.random.key(0)), _x(), TIME, COND[name])
    assert out.shape[:3] == (2, 4, 4) and not out.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_the_output_is_float32_and_near(name):
    net, half = MAKE[name](), MAKE[name](dtype=jnp.bfloat16)
    params = _shaken(net)
    full, low = (_jit(n.apply)(params, _x(), TIME, COND[name]) for n in (net, half))
    assert low.dtype == jnp.float32
    error = float(jnp.abs(low - full).max() / jnp.abs(full).max())
    assert 0 < error < 0.05


@pytest.mark.slow
def test_the_stored_table_gets_no_gradient():
    of_params = _graded(MAKE["sd3"](), "sd3")[0][0]
    assert not of_params["pos_embed"]["pos_embed"].any()
    assert of_params["pos_embed"]["proj"]["kernel"].any()


def test_a_bad_label_under_jit_is_nan():
    net = MAKE["dit"]()
    out = _jit(net.apply)(_shaken(net), _x(), TIME, jnp.array([0, 7]))
    assert jnp.isnan(out[1]).all() and not jnp.isnan(out[0]).any()


def test_the_grid_is_that_of_our_own_transformer_where_nothing_is_stretched():
    np.testing.assert_allclose(grid(3, 5, 16), positions(3, 5, 16), atol=2e-6)


def test_a_grid_of_twice_the_side_covers_the_same_places():
    small, large = grid(4, 4, 16).reshape(4, 4, 16), grid(8, 8, 16, base=4).reshape(8, 8, 16)
    np.testing.assert_allclose(large[::2, ::2], small, atol=1e-6)
    np.testing.assert_allclose(
        grid(8, 8, 16, scale=2.0).reshape(8, 8, 16)[::2, ::2], small, atol=1e-6
    )


def test_the_middle_of_a_table_is_symmetric():
    table = jnp.arange(25.0).reshape(1, 25, 1)
    assert middle(table, 3, 1)[:, 0].tolist() == [7.0, 12.0, 17.0]
    assert (middle(table, 5, 5)[:, 0] == jnp.arange(25.0)).all()


def test_stretching_to_the_own_size_is_the_identity_and_keeps_linear_tables():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(1, 11, 4)), jnp.float32)
    np.testing.assert_allclose(stretched(table, (3, 3), (3, 3), extras=2), table, atol=1e-6)
    wide = stretched(table, (3, 3), (6, 5), extras=2)
    assert wide.shape == (1, 32, 4) and (wide[:, :2] == table[:, :2]).all()
    with pytest.raises(ValueError, match="11 rows, not 0"):
        stretched(table, (3, 3), (6, 6))


def test_rotations_keep_lengths_and_tell_only_distances():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    angle = angles(4, 5, (2, 2, 4))
    turned_q, turned_k = (rotate(jnp.tile(v, (1, 20, 1, 1)), angle)[0, :, 0] for v in (q, k))
    np.testing.assert_allclose(jnp.linalg.norm(turned_q, axis=1), jnp.linalg.norm(q), rtol=1e-5)
    products = (turned_q @ turned_k.T).reshape(4, 5, 4, 5)
    np.testing.assert_allclose(products[0, 0, 2, 1], products[1, 3, 3, 4], rtol=1e-4)
    np.testing.assert_allclose(products[3, 4, 1, 0], products[2, 4, 0, 0], rtol=1e-4)


def test_packing_is_undone_by_unpacking():
    x = _x()
    tokens = packed(x)
    assert tokens.shape == (2, 4, 16)
    assert tokens[0, 1, :4].tolist() == x[0, :2, 2:, 0].reshape(-1).tolist()
    assert (unpacked(tokens, 4, 4) == x).all()
