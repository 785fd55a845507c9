"""The bridge: plain trees, honest errors, stable functions, every transformation."""

from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.nets import check_params, functional, mlp


def test_params_are_a_plain_dict_of_float32(built):
    def check(node):
        if isinstance(node, dict):
            assert type(node) is dict
            assert all(type(key) is str for key in node)
            list(map(check, node.values()))
        else:
            assert isinstance(node, jax.Array)
            assert node.dtype == jnp.float32

    check(built.params)


def test_init_is_the_same_eager_jitted_and_abstract(built, jit):
    eager = built.net.init(jax.random.key(3))
    jitted = jit(built.net.init)(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
    shapes = jax.eval_shape(built.net.init, jax.random.key(3))
    assert jax.tree.map(jnp.shape, eager) == jax.tree.map(jnp.shape, shapes)
    other = built.net.init(jax.random.key(4))
    assert not np.array_equal(eager["entry"]["kernel"], other["entry"]["kernel"])


def test_apply_starts_at_zero_and_is_deterministic(built):
    start = built.apply(built.net.init(jax.random.key(0)), built.x, built.time, built.cond)
    assert float(jnp.abs(start).max()) == 0
    first = built.apply(built.params, built.x, built.time, built.cond)
    second = built.apply(built.params, built.x, built.time, built.cond)
    assert first.shape == built.x.shape
    assert first.dtype == jnp.float32
    assert float(jnp.std(first)) > 1e-3
    np.testing.assert_array_equal(first, second)


def test_gradient_reaches_every_parameter(built, jit):
    weight = jnp.asarray(np.random.default_rng(5).standard_normal(built.x.shape), jnp.float32)

    @jit
    @jax.grad
    def gradient(params):
        return jnp.sum(weight * built.net.apply(params, built.x, built.time, built.cond))

    leaves = jax.tree_util.tree_leaves_with_path(gradient(built.params))
    assert [path for path, leaf in leaves if not np.abs(leaf).max() > 1e-5] == []


def test_a_sample_does_not_depend_on_its_batch(built):
    together = built.apply(built.params, built.x, built.time, built.cond)
    for i in range(4):
        x, time, cond = jax.tree.map(itemgetter(slice(i, i + 1)), (built.x, built.time, built.cond))
        alone = built.apply(built.params, x, time, cond)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5 * float(jnp.abs(x).max()))


def test_time_and_label_act(built):
    out = built.apply(built.params, built.x, built.time, built.cond)
    later = built.apply(built.params, built.x, built.time + 0.5, built.cond)
    assert float(jnp.abs(later - out).max()) > 1e-4
    label = built.cond["label"].at[0].set(3)
    other = built.apply(built.params, built.x, built.time, built.cond | {"label": label})
    assert float(jnp.abs(other[0] - out[0]).max()) > 1e-4
    np.testing.assert_allclose(other[1:], out[1:], atol=1e-6)


def test_a_scalar_time_and_bare_labels(point_net):
    net, label = point_net, point_net.cond["label"]
    scalar = net.apply(net.params, net.x, jnp.array(0.3), label)
    np.testing.assert_allclose(
        scalar, net.apply(net.params, net.x, jnp.full(4, 0.3), net.cond), atol=1e-6
    )


def test_transformations_compose(built, jit):
    rng = np.random.default_rng(6)
    u, v = (jnp.asarray(rng.standard_normal(built.x.shape), jnp.float32) for _ in range(2))

    def one(x, time, cond):
        raised = jax.tree.map(lambda leaf: leaf[None], (x, time, cond))
        return built.net.apply(built.params, *raised)[0]

    @jit
    def all_of_them(x):
        def run(x):
            return jax.vmap(one)(x, built.time, built.cond)

        return run(x), jax.jvp(run, (x,), (v,))[1], jax.vjp(run, x)[1](u)[0]

    mapped, forward, backward = all_of_them(built.x)
    plain = built.apply(built.params, built.x, built.time, built.cond)
    np.testing.assert_allclose(mapped, plain, atol=1e-5)
    np.testing.assert_allclose(jnp.vdot(u, forward), jnp.vdot(v, backward), rtol=1e-3)


def test_init_and_apply_map_over_an_ensemble(point_net, jit):
    net = point_net
    many = jit(jax.vmap(net.net.init))(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_array_equal(
        many["entry"]["kernel"][1],
        net.net.init(jax.random.split(jax.random.key(0), 3)[1])["entry"]["kernel"],
    )
    out = jit(jax.vmap(net.net.apply, in_axes=(0, None, None, None)))(
        many, net.x, net.time, net.cond
    )
    assert out.shape == (3, 4, 2)


def test_apply_is_a_stable_static_argument(point_net, moved):
    traces = []

    def run(apply, params, x):
        traces.append(1)
        return apply(params, x, point_net.time, point_net.cond)

    net = point_net.net
    for seed in range(2):
        jax.jit(run, static_argnums=0)(net.apply, moved(net, seed), point_net.x + seed)
    assert len(traces) == 1
    jitted = jax.jit(run)
    for seed in range(2):
        jitted(jax.tree_util.Partial(net.apply), moved(net, seed), point_net.x)
    assert len(traces) == 2


def test_params_may_be_cast_for_sampling(point_net):
    net = point_net
    half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), net.params)
    check_params(net.net, half)
    full = net.apply(net.params, net.x, net.time, net.cond)
    np.testing.assert_allclose(net.apply(half, net.x, net.time, net.cond), full, atol=0.1, rtol=0.1)


def test_params_of_another_architecture_are_named():
    net, deep = mlp(dim=2, width=16, depth=1), mlp(dim=2, width=16, depth=2)
    x, key = jnp.ones((3, 2)), jax.random.key(0)
    with pytest.raises(
        ValueError, match=r"first/bias: expected float32\[16\], found float32\[24\]"
    ):
        check_params(net, mlp(dim=2, width=24, depth=1).init(key))
    with pytest.raises(ValueError, match=r"blocks/1/first/bias: surplus"):
        net.apply(deep.init(key), x, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"6 paths differ: blocks/1/first/bias: missing"):
        check_params(deep, net.init(key))
    check_params(net, jax.eval_shape(net.init, key))


def test_only_params_are_allowed():
    class Counting(nnx.Module):
        def __init__(self, rngs):
            self.count = nnx.BatchStat(jnp.zeros(()))

    with pytest.raises(ValueError, match="BatchStat at count"):
        functional(Counting)
