"""The bridge: plain trees, honest errors, stable functions, every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.nets import check_params, functional, mlp

NAMES = ["unet", "dit", "mlp"]


@pytest.mark.parametrize("name", NAMES)
def test_params_are_a_plain_dict_of_float32(name, small):
    params = small[name](classes=3).init(jax.random.key(0))

    def check(node):
        if isinstance(node, dict):
            assert type(node) is dict
            assert all(type(key) is str for key in node)
            list(map(check, node.values()))
        else:
            assert isinstance(node, jax.Array)
            assert node.dtype == jnp.float32

    check(params)


@pytest.mark.parametrize("name", NAMES)
def test_init_is_the_same_eager_jitted_and_abstract(name, small):
    net = small[name]()
    eager = net.init(jax.random.key(3))
    jitted = jax.jit(net.init)(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
    shapes = jax.eval_shape(net.init, jax.random.key(3))
    assert jax.tree.map(jnp.shape, eager) == jax.tree.map(jnp.shape, shapes)
    other = net.init(jax.random.key(4))
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), eager, other)))


@pytest.mark.parametrize("name", NAMES)
def test_apply_starts_at_zero_and_is_deterministic(name, small, inputs, moved):
    net, (x, time, _) = small[name](), inputs(name)
    assert float(jnp.abs(net.apply(net.init(jax.random.key(0)), x, time)).max()) == 0
    params = moved(net)
    first, second = net.apply(params, x, time), net.apply(params, x, time)
    assert first.shape == x.shape
    assert first.dtype == jnp.float32
    assert float(jnp.std(first)) > 1e-3
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name, small, inputs, tokens, moved):
    extra = {} if name == "mlp" else {"context_dim": 6}
    net = small[name](classes=3, **extra)
    x, time, label = inputs(name)
    cond = {"label": label} | ({"tokens": tokens} if extra else {})
    weight = jax.random.normal(jax.random.key(5), x.shape)
    loss = jax.jit(jax.grad(lambda p: jnp.sum(weight * net.apply(p, x, time, cond))))
    sizes = jax.tree.map(lambda g: float(jnp.abs(g).max()), loss(moved(net)))
    silent = [p for p, v in jax.tree_util.tree_leaves_with_path(sizes) if not v > 1e-5]
    assert silent == []


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_batch(name, small, inputs, moved):
    net, (x, time, label) = small[name](classes=3), inputs(name)
    params = moved(net)
    together = net.apply(params, x, time, label)
    for i in range(4):
        alone = net.apply(params, x[i : i + 1], time[i : i + 1], label[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5 * float(jnp.abs(x).max()))


@pytest.mark.parametrize("name", NAMES)
def test_time_and_label_act_and_a_scalar_time_is_repeated(name, small, inputs, moved):
    net, (x, time, label) = small[name](classes=3), inputs(name)
    params = moved(net)
    out = net.apply(params, x, time, label)
    assert float(jnp.abs(net.apply(params, x, time + 0.5, label) - out).max()) > 1e-4
    other = net.apply(params, x, time, label.at[0].set(3))
    assert float(jnp.abs(other[0] - out[0]).max()) > 1e-4
    np.testing.assert_allclose(other[1:], out[1:], atol=1e-6)
    scalar = net.apply(params, x, jnp.array(0.3), {"label": label})
    np.testing.assert_array_equal(scalar, net.apply(params, x, jnp.full(4, 0.3), label))


@pytest.mark.parametrize("name", NAMES)
def test_transformations_compose(name, small, inputs, moved):
    net, (x, time, _) = small[name](), inputs(name, 2)
    params = moved(net)
    plain = net.apply(params, x, time)

    def one(x1, t1):
        return net.apply(params, x1[None], t1[None])[0]

    mapped = jax.jit(jax.vmap(one))(x, time)
    np.testing.assert_allclose(mapped, plain, atol=1e-5)
    v = jax.random.normal(jax.random.key(6), x.shape)
    u = jax.random.normal(jax.random.key(7), x.shape)
    _, forward = jax.jvp(lambda x: net.apply(params, x, time), (x,), (v,))
    (backward,) = jax.vjp(lambda x: net.apply(params, x, time), x)[1](u)
    np.testing.assert_allclose(jnp.vdot(u, forward), jnp.vdot(v, backward), rtol=1e-3)


def test_apply_is_a_stable_static_argument(small, inputs, moved):
    net, (x, time, _) = small["mlp"](), inputs("mlp")
    traces = []

    def run(apply, params, x):
        traces.append(1)
        return apply(params, x, time)

    params = moved(net)
    jax.jit(run, static_argnums=0)(net.apply, params, x)
    jax.jit(run, static_argnums=0)(net.apply, moved(net, 1), x + 1)
    jitted = jax.jit(run)
    jitted(jax.tree_util.Partial(net.apply), params, x)
    jitted(jax.tree_util.Partial(net.apply), moved(net, 2), x)
    assert len(traces) == 2  # one for each way to hand it over


def test_params_may_be_cast_for_sampling(small, inputs, moved):
    net, (x, time, _) = small["mlp"](), inputs("mlp")
    params = moved(net)
    half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), params)
    check_params(net, half)
    np.testing.assert_allclose(
        net.apply(half, x, time), net.apply(params, x, time), atol=0.1, rtol=0.1
    )


def test_params_of_another_architecture_are_named():
    net, x = mlp(dim=2, width=16, depth=1), jnp.ones((3, 2))
    wide = mlp(dim=2, width=24, depth=1).init(jax.random.key(0))
    deep = mlp(dim=2, width=16, depth=2).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"entry/kernel: expected float32\[2,16\].*\[2,24\]"):
        check_params(net, wide)
    with pytest.raises(ValueError, match=r"blocks/1/first/bias: surplus"):
        net.apply(deep, x, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"6 paths differ: blocks/1/first/bias: missing"):
        check_params(mlp(dim=2, width=16, depth=2), net.init(jax.random.key(0)))
    check_params(net, jax.eval_shape(net.init, jax.random.key(1)))


def test_only_params_are_allowed():
    class Counting(nnx.Module):
        def __init__(self, rngs):
            self.count = nnx.BatchStat(jnp.zeros(()))

    with pytest.raises(ValueError, match="BatchStat at count"):
        functional(Counting)
