"""`canonical` keeps every value, leaves no slow convolution behind, and makes loops fast."""

import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core

from jaxdiff.canonical import canonical, scan

ON_CPU = jax.default_backend() == "cpu"
only_cpu = pytest.mark.skipif(not ON_CPU, reason="on other backends canonical is the identity")
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def conv(x, w, stride=1, padding="SAME", groups=1, dilation=1, layout=None, precision=None):
    spatial = x.ndim - 2
    return lax.conv_general_dilated(
        x,
        w,
        (stride,) * spatial,
        padding,
        rhs_dilation=(dilation,) * spatial,
        dimension_numbers=layout or LAYOUTS[spatial],
        feature_group_count=groups,
        precision=precision,
    )


def convolutions(jaxpr, inside=True):
    """Every convolution of a jaxpr, at any depth, found without the help of the module.

    With `inside` False, only those that sit in the body of a loop or a branch.
    """
    found = []
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if inside and eqn.primitive.name == "conv_general_dilated":
            found.append(eqn)
        deeper = inside or eqn.primitive.name in {"scan", "while", "cond"}
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, core.ClosedJaxpr | core.Jaxpr):
                    found += convolutions(inner, deeper)
    return found


def is_canonical(eqn):
    numbers, ndim = eqn.params["dimension_numbers"], eqn.invars[0].aval.ndim
    image = (0, ndim - 1, *range(1, ndim - 1))
    kernel = (ndim - 1, ndim - 2, *range(ndim - 2))
    same = tuple(numbers) == (image, kernel, image)
    return same and eqn.params["batch_group_count"] == 1


def assert_canonical(fn, *args, at_least=1, inside=True):
    """Every convolution (`inside` False: every one in a loop or branch) is in the fast form."""
    eqns = convolutions(jax.make_jaxpr(fn)(*args), inside)
    assert len(eqns) >= at_least
    assert all(map(is_canonical, eqns)), [eqn.params for eqn in eqns if not is_canonical(eqn)]


def assert_same(got, want, *args, tolerance=1e-6):
    """Two functions of the same arguments agree; compiled together, which is half the time."""
    got, want = jax.jit(lambda *args: (got(*args), want(*args)))(*args)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


def net(weights, x):
    for w in weights[:-1]:
        x = jax.nn.silu(conv(x, w))
    return conv(x, weights[-1])


SETTINGS = [
    {"kernel": 3},
    {"kernel": 5, "padding": "VALID"},
    {"kernel": 2, "padding": ((1, 0), (0, 1))},
    {"kernel": 1, "stride": 2},
    {"kernel": 3, "stride": 2},
    {"kernel": 4, "stride": 2, "padding": ((1, 1), (1, 1))},
    {"kernel": 3, "stride": 3, "padding": "VALID"},
    {"kernel": 3, "dilation": 2, "precision": "highest"},
    {"kernel": 3, "groups": 2, "stride": 2},
    {"kernel": 3, "groups": 4},
    {"kernel": 3, "spatial": 1},
    {"kernel": 3, "spatial": 3, "stride": 2},
    {"kernel": 3, "layout": ("NCHW", "OIHW", "NCHW")},
    {"kernel": 3, "layout": ("CHWN", "IHWO", "HWNC"), "groups": 2},
]


def example(kernel, spatial=2, groups=1, layout=None, **options):
    x, w = normal(0, 2, *(6,) * spatial, 4), normal(1, *(kernel,) * spatial, 4 // groups, 8)
    if layout is not None:
        x = x.transpose(["NHWC".index(c) for c in layout[0]])
        w = w.transpose(["HWIO".index(c) for c in layout[1]])
    return functools.partial(conv, groups=groups, layout=layout, **options), x, w


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_values_and_gradients_are_those_of_the_plain_function(setting):
    fn, x, w = example(**setting)

    def loss(x, w):
        return jnp.sum(jnp.sin(fn(x, w)))

    gradients = jax.value_and_grad(loss, (0, 1))
    # Taken inside (rewritten) and through (autodiff of the rewritten function): both are exact.
    inside, through = canonical(gradients), jax.value_and_grad(canonical(loss), (0, 1))
    twice = lambda *args: (gradients(*args),) * 2  # noqa: E731
    both = lambda *args: (inside(*args), through(*args))  # noqa: E731
    assert_same(both, twice, x, w, tolerance=3e-6)
    if ON_CPU and setting.get("groups") != 4:
        assert_canonical(inside, x, w, at_least=3)


@only_cpu
def test_the_gradient_is_not_canonical_without_the_remedy():
    fn, x, w = example(3)
    for inside, program in (
        (True, jax.grad(lambda x: fn(x, w).sum())),
        (False, lambda x: lax.map(jax.grad(lambda x: fn(x[None], w).sum()), x)),
    ):
        with pytest.raises(AssertionError, match="dimension_numbers"):
            assert_canonical(program, x, inside=inside)


def test_transposed_and_reversed_convolutions():
    x, w = normal(0, 2, 5, 6, 3), normal(1, 4, 4, 3, 3)

    def fn(x):
        up = lax.conv_transpose(x, w, (2, 2), "SAME")
        return jax.grad(lambda x: jnp.sum(jnp.cos(lax.rev(conv(x, w), (1, 2)))))(up)

    assert_same(canonical(fn), fn, x)


def test_half_precision_and_accumulation_type():
    def fn(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", preferred_element_type=jnp.float32)

    x, w = normal(0, 2, 4, 6, 6).astype(jnp.bfloat16), normal(1, 5, 4, 3, 3).astype(jnp.bfloat16)
    assert_same(canonical(fn), fn, x, w)


WEIGHTS = tuple(0.2 * normal(i, 3, 3, 4, 4) for i in range(3))


def energy(weights, x):
    return jnp.sum(net(weights, x) ** 2)


@jax.custom_vjp
def _rule(x, w):
    return conv(x, w)


def _rule_backward(saved, g):
    x, w = saved
    # Three times the true gradient, so that a lost rule shows.
    return tuple(3 * v for v in jax.vjp(conv, x, w)[1](g))


_rule.defvjp(lambda x, w: (conv(x, w), (x, w)), _rule_backward)


@jax.custom_jvp
def _tangent_rule(x, w):
    return conv(x, w, layout=("NCHW", "OIHW", "NCHW"))


@_tangent_rule.defjvp
def _(primals, tangents):
    x, w = primals
    y = _tangent_rule(x, w)
    return y, 3 * _tangent_rule(tangents[0], w) + 0 * _tangent_rule(x, tangents[1])


def _in_scan(weights, x):
    def body(x, w):
        return x - 0.1 * jax.grad(lambda x: energy((w,), x))(x), None

    return lax.scan(body, x, jnp.stack(weights))[0]


def _in_while(weights, x):
    def body(carry):
        i, x = carry
        return i + 1, x - 0.1 * jax.grad(energy, 1)(weights, x)

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, x))[1]


def _in_cond(weights, x):
    return lax.cond(x.sum() > 0, lambda: x, lambda: jax.grad(energy, 1)(weights, x))


def _in_map(weights, x):
    return lax.map(lambda x: jax.grad(energy, 1)(weights, x[None])[0], x)


def _in_jit(weights, x):
    return jax.jit(jax.grad(energy, 1))(weights, x)


def _in_remat(weights, x):
    return jax.grad(jax.checkpoint(energy), 1)(weights, x)


def _in_rules(weights, x):
    def loss(x):
        kernel = weights[1].transpose(3, 2, 0, 1)[..., :1, :1]
        return jnp.sum(_rule(x, weights[0]) + jnp.sin(_tangent_rule(x, kernel)))

    return jax.grad(loss)(x)


def _in_shard_map(weights, x):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, every = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()

    def local(weights, x):
        return jax.grad(energy, 1)(weights, x), lax.psum(energy(weights, x), "d")

    return jax.shard_map(local, mesh=mesh, in_specs=(every, spec), out_specs=(spec, every))(
        weights, x
    )


PLACES = [
    _in_scan, _in_while, _in_cond, _in_map, _in_jit, _in_remat, _in_rules, _in_shard_map
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda fn: fn.__name__)
def test_every_place_where_a_convolution_can_hide(place):
    x = normal(9, 2, 4, 4, 4)
    assert_same(canonical(place), place, WEIGHTS, x)
    if ON_CPU:
        assert_canonical(canonical(place), WEIGHTS, x)


def test_custom_rules_survive_the_rewriting():
    x, w = normal(0, 2, 4, 4, 4), normal(1, 4, 4, 3, 3)

    def both(x, w):
        return _tangent_rule(x, w) + _rule(x, w.transpose(2, 3, 1, 0))

    for fn in (_tangent_rule, both):

        def loss(x, fn=fn):
            return jnp.sum(jnp.sin(fn(x, w)))

        assert_same(jax.grad(canonical(loss)), jax.grad(loss), x)


def test_composes_with_jvp_vmap_remat_grad_and_hessian_products():
    x = normal(9, 2, 4, 4, 4)
    step, plain = canonical(jax.grad(energy, 1)), jax.grad(energy, 1)
    for transform in (
        lambda f: lambda x: jax.jvp(lambda x: f(WEIGHTS, x), (x,), (x + 1,)),
        lambda f: lambda x: jax.vmap(lambda x: f(WEIGHTS, x[None]))(x),
        lambda f: lambda x: jax.vmap(lambda s: f([s * w for w in WEIGHTS], x))(jnp.arange(2.0)),
        lambda f: lambda x: jax.grad(lambda x: jnp.sum(jax.checkpoint(f)(WEIGHTS, x) ** 2))(x),
        lambda f: lambda x: jax.linearize(lambda x: f(WEIGHTS, x), x)[1](x),
    ):
        assert_same(transform(step), transform(plain), x)


def test_a_named_axis_and_a_tracer_closed_over():
    x = normal(9, 2, 3, 4, 4, 4)

    def outer(transform, scale):
        def local(x):
            return lax.psum(jax.grad(energy, 1)(WEIGHTS, scale * x), "i")

        return jax.vmap(transform(local), axis_name="i")(x).sum()

    got, want = (functools.partial(outer, t) for t in (canonical, lambda f: f))
    assert_same(jax.value_and_grad(got), jax.value_and_grad(want), 0.5)


def test_trees_keys_weak_types_and_keyword_arguments():
    def fn(state, *, key, scale):
        x, count = state["x"], state["count"]
        g = jax.grad(energy, 1)(WEIGHTS, x)
        return {"x": x - scale * g + jax.random.normal(key, x.shape), "count": count + 1,
                "none": None, "key": jax.random.fold_in(key, count), "weak": scale * 1}  # fmt: skip

    args, key = {"x": normal(9, 2, 4, 4, 4), "count": 3}, jax.random.key(0)
    got, want = (jax.jit(f)(args, key=key, scale=0.1) for f in (canonical(fn), fn))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert got["weak"].weak_type and got["count"] == 4
    assert (jax.random.key_data(got["key"]) == jax.random.key_data(want["key"])).all()
    np.testing.assert_allclose(got["x"], want["x"], atol=1e-5)


def test_callbacks_run_once_a_step():
    seen = []

    def body(x, i):
        jax.debug.callback(lambda i: seen.append(int(i)), i)
        return x - 0.1 * jax.grad(energy, 1)(WEIGHTS, x), None

    jax.jit(lambda x: scan(body, x, jnp.arange(5)))(normal(9, 1, 4, 4, 4))[0].block_until_ready()
    jax.effects_barrier()
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_scan_has_the_values_of_lax_scan():
    def body(x, w):
        return x - 0.1 * jax.grad(lambda x: energy((w,), x))(x), x.mean()

    x, ws = normal(9, 2, 4, 4, 4), jnp.stack(WEIGHTS)
    for unroll in (1, 2):
        want = functools.partial(lax.scan, body)
        assert_same(functools.partial(scan, body, unroll=unroll), want, x, ws)
    assert scan(lambda c, _: (c + 1, None), 0, length=4) == (4, None)


def test_a_function_without_slow_convolutions_is_called_as_it_is():
    x = normal(9, 2, 4, 4, 4)
    for fn in (jnp.sin, lambda x: net(WEIGHTS, x)):
        got, want = jax.jit(canonical(fn)).lower(x), jax.jit(fn).lower(x)
        assert got.as_text().splitlines()[1:] == want.as_text().splitlines()[1:]


def _nnx_net():
    from flax import nnx

    class Small(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
            self.grouped = nnx.Conv(8, 8, (3, 3), feature_group_count=2, rngs=rngs)
            self.up = nnx.ConvTranspose(8, 3, (4, 4), strides=(2, 2), rngs=rngs)

        def __call__(self, x):
            return self.up(nnx.silu(self.grouped(nnx.silu(self.first(x)))))

    graph, params = nnx.split(Small(nnx.Rngs(0)))
    return (lambda params, x: nnx.merge(graph, params)(x)), params


def test_guidance_and_training_of_a_flax_net_inside_scan():
    apply, params = _nnx_net()

    def loss(params, x):
        return jnp.mean(apply(params, x) ** 2)

    def body(carry, _):
        params, x = carry
        value, (gp, gx) = jax.value_and_grad(loss, (0, 1))(params, x)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, gp), x - gx), value

    run = functools.partial(scan, body, length=3)
    start = (params, normal(9, 2, 8, 8, 3))
    assert_same(run, functools.partial(lax.scan, body, length=3), start)
    if ON_CPU:
        assert_canonical(run, start, at_least=9)


def _fastest(fn, *args, repeats=3):
    """Seconds of the fastest of a few runs after a first one that compiles."""
    best = np.inf
    jax.block_until_ready(fn(*args))
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        best = min(best, time.perf_counter() - start)
    return best


@only_cpu
@pytest.mark.slow
def test_a_loop_over_gradients_is_as_fast_as_a_python_loop():
    """Ratios of times in one process, so that the load of the machine cancels."""
    sizes, steps = [3, *[48] * 7, 3], 6
    weights = [0.05 * normal(i, 3, 3, a, b) for i, (a, b) in enumerate(itertools.pairwise(sizes))]

    def step(x, _):
        value, pull = jax.vjp(functools.partial(net, weights), x)
        return x - 1e-3 * pull(value)[0], None

    def python_loop(x):
        for _ in range(steps):
            x = jitted(x, None)[0]
        return x

    jitted, x = jax.jit(step), normal(9, 1, 32, 32, 3)
    loop = _fastest(python_loop, x)
    rewritten = _fastest(jax.jit(lambda x: scan(step, x, length=steps)[0]), x)
    plain = _fastest(jax.jit(lambda x: lax.scan(step, x, length=steps)[0]), x, repeats=1)
    assert rewritten < 3 * loop
    # If this fails, XLA has learned to canonicalise inside loops, and the module may go.
    assert plain > 5 * loop
