"""U-Net, DiT and MLP: what is particular to each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import dit, mlp, unet


def _count(net):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0))))


def test_the_small_unet_for_28_by_28_has_two_thirds_of_a_million_parameters():
    assert 0.62e6 < _count(unet(channels=1, classes=10)) < 0.68e6


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 2, "middle": 1},
        {"middle": 3, "attention": ()},
        {"widths": (8,), "attention": (0,)},
        {"widths": (8, 8, 12), "attention": (0, 2)},
        {"out": 5},
    ],
)
def test_unet_shapes(changes, make):
    net = make("unet", classes=0, context_dim=0, **changes)
    out = jax.eval_shape(
        net.apply,
        jax.eval_shape(net.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((3, 8, 12, 2), jnp.float32),
        jax.ShapeDtypeStruct((3,), jnp.float32),
    )
    assert out.shape == (3, 8, 12, changes.get("out", 2))


def test_unet_refuses_what_does_not_fit(make):
    net = make("unet", classes=0, context_dim=0, widths=(8, 8, 12), attention=(2,))
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match="height 10 and width 8, not multiples of 4"):
        net.apply(params, jnp.zeros((1, 10, 8, 2)), jnp.zeros(1))
    with pytest.raises(
        ValueError, match="x has 3 channels: this network was built with channels=2"
    ):
        net.apply(params, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    with pytest.raises(ValueError, match="attention names level 3"):
        unet(channels=1, attention=(3,))
    with pytest.raises(ValueError, match="depth is 0"):
        unet(channels=1, depth=0)
    with pytest.raises(ValueError, match="heads is 5"):
        unet(channels=1, heads=5)


def test_dit_blocks_start_as_the_identity(make, jit):
    net = make("dit", classes=0, context_dim=0)

    @jit
    def blocks(params, x):
        outputs = []

        def control(site):
            return (lambda v: outputs.append(v) or v) if site.port == "block" else None

        net.apply(params, x, jnp.zeros(2), {"control": control})
        return outputs

    first, second = blocks(net.init(jax.random.key(0)), jnp.ones((2, 8, 8, 2)))
    assert float(jnp.std(first)) > 0.1
    np.testing.assert_array_equal(first, second)


def test_dit_knows_where_a_patch_is(make, moved, jit):
    net = make("dit", classes=0, context_dim=0)
    out = jit(net.apply)(moved(net), jnp.ones((2, 8, 8, 2)), jnp.zeros(2))
    patches = out.reshape(2, 4, 2, 4, 2, 2)
    assert float(jnp.abs(patches[:, 0] - patches[:, 1]).max()) > 1e-4
    assert float(jnp.abs(patches[:, :, :, 0] - patches[:, :, :, 1]).max()) > 1e-4


def test_dit_takes_oblong_images_and_other_outputs():
    net = dit(size=(8, 12), patch=4, channels=3, out=6, width=16, depth=1, heads=2)
    params = jax.eval_shape(net.init, jax.random.key(0))
    out = jax.eval_shape(net.apply, params, jnp.zeros((2, 8, 12, 3)), jnp.zeros(2))
    assert out.shape == (2, 8, 12, 6)


def test_dit_b_2_has_the_published_size():
    # Peebles and Xie 2022, table 4: 130 M, with 4 channels, learned variance and 1000 classes.
    one, two = (
        _count(dit(size=32, patch=2, channels=4, out=8, width=768, depth=n, heads=12, classes=1000))
        for n in (1, 2)
    )
    assert one + 11 * (two - one) == pytest.approx(130e6, rel=0.01)


def test_dit_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="patch is 3"):
        dit(size=8, patch=3, channels=1, width=16, depth=1, heads=2)
    with pytest.raises(ValueError, match="width is 18"):
        dit(size=8, patch=2, channels=1, width=18, depth=1, heads=2)
    net = dit(size=8, patch=4, channels=2, width=16, depth=1, heads=2)
    with pytest.raises(ValueError, match=r"this network was built for \[b, 8, 8, 2\]"):
        net.apply(net.init(jax.random.key(0)), jnp.zeros((1, 16, 16, 2)), jnp.zeros(1))


def test_mlp_refuses_another_length_and_another_number_of_times():
    net = mlp(dim=2, width=16, depth=1)
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match="x has length 3"):
        net.apply(params, jnp.zeros((1, 3)), jnp.zeros(1))
    # A wrong shape of time is caught by the type checker of the tests before the network's own.
    with pytest.raises((ValueError, TypeError)):
        net.apply(params, jnp.zeros((1, 2)), jnp.zeros(2))


@pytest.mark.parametrize("name", ["unet", "dit", "mlp"])
def test_bfloat16_computes_in_half_and_answers_in_float32(name, make, moved, jit):
    plain = {"classes": 0} | ({} if name == "mlp" else {"context_dim": 0})
    full, half = make(name, **plain), make(name, dtype=jnp.bfloat16, **plain)
    x = jnp.asarray(
        np.random.default_rng(0).standard_normal((2, 2) if name == "mlp" else (2, 8, 8, 2))
    )
    x, time, params = x.astype(jnp.float32), jnp.zeros(2), moved(full)
    a, b = jit(full.apply)(params, x, time), jit(half.apply)(params, x, time)
    assert b.dtype == jnp.float32
    assert 0 < float(jnp.abs(a - b).max()) < 0.1 * float(jnp.abs(a).max())
    hidden = set()

    def loss(params):
        def control(site):
            return (lambda v: hidden.add(v.dtype) or v) if site.port == "block" else None

        return half.apply(params, x, time, {"control": control}).sum()

    gradient = jax.eval_shape(jax.grad(loss), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    assert hidden == {jnp.dtype(jnp.bfloat16)}


def test_a_few_steps_lower_a_loss(point_net):
    net = point_net
    target = jnp.sin(3 * net.x) + net.cond["label"][:, None]

    @jax.jit
    def step(params):
        loss, gradient = jax.value_and_grad(
            lambda p: jnp.mean((net.net.apply(p, net.x, net.time, net.cond) - target) ** 2)
        )(params)
        return jax.tree.map(lambda p, g: p - 0.03 * g, params, gradient), loss

    params, losses = net.net.init(jax.random.key(0)), []
    for _ in range(40):
        params, loss = step(params)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
