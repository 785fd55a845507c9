"""The joint: the door, conditions, guidance in one call, blending."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import denoise as dn
from jaxdiff import exact
from jaxdiff import process as pr
from jaxdiff.trees import keys_for
from jaxdiff.types import NOWHERE, At, Estimate, GridOnly, Now, number
from tests.fakes import CLOCKS, exact_network, plane
from tests.process.cases import PREDICTIONS, PROCESSES, SIGNAL_ENDS


def _zero(params, x, time, cond):
    return jax.tree.map(jnp.zeros_like, x)


def _from_cond(params, x, time, cond):
    """x_0 = cond['label'] everywhere."""
    return 0 * x + cond["label"][:, None]


class Recorder:
    """A network that writes down what it was asked, and answers x_0 = label (or 0)."""

    def __init__(self):
        self.calls = []

    def __call__(self, params, x, time, cond):
        self.calls.append((x, time, cond))
        return 0 * x if cond is None else 0 * x + jax.tree.leaves(cond)[0].reshape(-1, 1)


# the door


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", sorted(SIGNAL_ENDS))
def test_the_door_refuses_what_cannot_be_decoded(kind, name):
    process, wiring = PROCESSES[name](), pr.wiring(PREDICTIONS[kind]())
    if kind in ("eps", "score"):
        with pytest.raises(ValueError, match=rf"{kind} at t=.*predict x0, v, velocity or F"):
            dn.model(_zero, {}, process, wiring)
    else:
        dn.model(_zero, {}, process, wiring)


@pytest.mark.parametrize("span", [(1.0, -1.0), (0.0, 0.0)])
def test_spans_are_ordered(span):
    with pytest.raises(ValueError, match=r"span=.*low < high"):
        dn.model(_zero, {}, pr.edm(), pr.wiring(pr.x0), span=span)


def test_spans_travel_to_every_denoiser():
    m = dn.model(_zero, {}, pr.edm(), pr.wiring(pr.x0), span=(0, 255))
    d = dn.bind(m)
    made: Any = (d, dn.cfg(m, None, None, 1.0), dn.blend((d, d), (0.5, 0.5)), dn.rebase(d, pr.ve()))
    assert all(tuple(map(float, each.span)) == (0.0, 255.0) for each in made)
    assert dn.model(_zero, {}, pr.edm(), pr.wiring(pr.x0), span=None).span is None


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (jnp.zeros((2, 2), jnp.uint8), "dtype uint8.*floating"),
        (jnp.array([0.0, jnp.nan]), "holds NaN"),
        (jnp.array([0.0, 255.0]), r"\[0, 255\].*\[-1, 1\].*span="),
        (jnp.array([-1.1, 0.0]), "rescale"),
        ({"a": jnp.zeros(2), "b": jnp.full(2, 3.0)}, r"\[3, 3\]"),
    ],
)
def test_range_of_data(x, words):
    with pytest.raises(ValueError, match=f"^image .*{words}"):
        dn.check_range(x, (number(-1), number(1)), "image")


def test_range_lets_good_data_and_traces_pass():
    span = number(-1), number(1)
    dn.check_range(jnp.array([-1.01, 1.01]), span, "x")
    dn.check_range(jnp.array([300.0]), None, "x")
    dn.check_range(jnp.zeros((0, 3)), span, "x")
    jax.jit(lambda x: (dn.check_range(x, span, "x"), x)[1])(jnp.full(2, 9.0))


# models


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("center", [0.0, 0.4])
def test_a_right_network_is_the_exact_denoiser(kind, center):
    """Through every prediction, input scale, clock and centre."""
    for name, clock in (("vp_linear", "thousand"), ("edm", "edm"), ("rectified_flow", "own_time")):
        process, (clock, time) = PROCESSES[name](), CLOCKS[clock]
        scale = pr.edm_wiring(0.5).scale_in
        wiring = pr.wiring(PREDICTIONS[kind](), scale_in=scale, clock=clock, center=center)
        net = exact_network(plane(), process, wiring, time)
        t_max = _stopped(process, 0.9) if name == "rectified_flow" else process
        d = dn.bind(dn.model(net, {}, t_max, wiring))
        x, t = jax.random.normal(jax.random.key(0), (3, 2)), jnp.array([0.2, 0.5, 0.8])
        np.testing.assert_allclose(d(x, t).x0, exact.denoiser(plane(), process)(x, t).x0, rtol=1e-8)


def _stopped(process, t_max):
    """The same process, stopped earlier: eps is decodable there."""
    return pr.from_scales(process.alpha, process.sigma, process.t_min, t_max, process.t_clean)


def test_edm_preconditioning_by_hand():
    """D(x) = c_skip x + c_out F(c_in x; c_noise), Karras et al. 2022, eq. (7)."""
    seen = Recorder()
    d = dn.bind(dn.model(seen, {}, pr.edm(), pr.edm_wiring(0.5)))
    x, s = jnp.array([[1.0, -2.0]]), 3.0
    np.testing.assert_allclose(d(x, s).x0, 0.25 / (s**2 + 0.25) * x, rtol=1e-6)
    asked, clock, _ = seen.calls[0]
    np.testing.assert_allclose(asked, x / (s**2 + 0.25) ** 0.5, rtol=1e-6)
    np.testing.assert_allclose(clock, [np.log(s) / 4], rtol=1e-6)


def test_predict_gives_the_centred_sample():
    wiring = pr.wiring(pr.v, center=0.5)
    x = {"image": jnp.ones((2, 3, 3)), "kernel": jnp.ones((2, 4))}
    net = lambda params, x, time, cond: x  # noqa: E731
    p, centred = dn.predict(net, {}, pr.rectified_flow(), wiring, x, jnp.array([0.0, 0.5]), None)
    np.testing.assert_allclose(centred["kernel"][:, 0], [0.5, 0.75])
    np.testing.assert_allclose(p["image"][:, 0, 0], [0.5, 0.75])


@pytest.mark.parametrize("t", [0.5, jnp.full(2, 0.5), jnp.full((2, 3), 0.5)])
def test_clocks_have_a_time_per_sample_or_token(t):
    seen = Recorder()
    d = dn.bind(dn.model(seen, {}, pr.vp_linear(), pr.wiring(pr.v)))
    x = jnp.ones((2, 3, 4))
    est = d(x, t)
    assert seen.calls[0][1].shape == ((2, 3) if jnp.ndim(t) == 2 else (2,))
    alpha, _ = pr.scales(pr.vp_linear(), 0.5)
    np.testing.assert_allclose(est.x0, np.full((2, 3, 4), float(alpha)), rtol=1e-6)


def test_samples_may_be_trees():
    x = {"image": jnp.ones((2, 3, 3)), "kernel": jnp.ones((2, 4))}
    d = dn.bind(dn.model(_zero, {}, pr.rectified_flow(), pr.wiring(pr.velocity)))
    est = d(x, jnp.array([0.25, 0.5]))  # p = eps - x_0 = 0: x_0 = x
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), est.x0, x)
    for fn in (dn.noise, dn.score, dn.velocity):
        assert jax.tree.map(jnp.shape, fn(d, x, 0.5)) == jax.tree.map(jnp.shape, x)
    moved = dn.rebase(d, pr.vp_linear())(x, jnp.array([0.25, 0.5]))
    assert jax.tree.map(jnp.shape, moved.x0) == jax.tree.map(jnp.shape, x)


# conditions


def test_conditions_are_trees_or_functions_of_now():
    m = dn.model(_from_cond, {}, pr.edm(), pr.wiring(pr.x0))
    label = jnp.array([0.25, 0.75])
    np.testing.assert_allclose(dn.bind(m, {"label": label})(jnp.ones((2, 3)), 1.0).x0[:, 0], label)
    table = jnp.array([[0.0, 0.0], [0.3, 0.6]])
    d = dn.bind(m, Partial(_step_label, table))
    now = Now(1.0, 0.5, jnp.int32(1), 2, keys_for(jax.random.key(0), jnp.arange(2)), {})
    np.testing.assert_allclose(d(jnp.ones((2, 3)), 1.0, now).x0[:, 0], table[1])
    with pytest.raises(GridOnly, match=r"now\.i"):
        d(jnp.ones((2, 3)), 1.0)


def _step_label(table, now):
    return {"label": table[now.i]}


# guidance in one call


def test_cfg_is_one_call_with_interleaved_rows():
    seen = Recorder()
    m = dn.model(seen, {}, pr.edm(), pr.edm_wiring())
    x = jnp.arange(6.0).reshape(3, 2)
    cond = {"label": jnp.array([1.0, 2.0, 3.0])}
    d = dn.cfg(m, cond, {"label": jnp.float32(9.0)}, 2.0)
    d(x, jnp.array([1.0, 2.0, 4.0]))
    assert len(seen.calls) == 1
    asked, clock, conds = seen.calls[0]
    assert asked.shape == (6, 2) and clock.shape == (6,)
    np.testing.assert_array_equal(asked[0::2], asked[1::2])
    np.testing.assert_allclose(clock, np.log([1, 1, 2, 2, 4, 4]) / 4, rtol=1e-6, atol=1e-7)
    assert conds["label"].tolist() == [9.0, 1.0, 9.0, 2.0, 9.0, 3.0]


def test_cfg_keeps_integer_labels_and_broadcasts_nulls():
    seen = Recorder()
    m = dn.model(seen, {}, pr.edm(), pr.edm_wiring())
    dn.cfg(m, jnp.array([1, 2]), 10, 2.0)(jnp.zeros((2, 2)), 1.0)
    labels = seen.calls[0][2]
    assert labels.dtype == jnp.int32 and labels.tolist() == [10, 1, 10, 2]
    tokens = {"tokens": jnp.ones((2, 4, 3))}
    dn.cfg(m, tokens, {"tokens": jnp.zeros((1, 4, 3))}, 2.0)
    seen.calls.clear()
    keep = lambda params, x, time, cond: (seen.calls.append(cond), 0 * x)[1]  # noqa: E731
    m = dn.model(keep, {}, pr.edm(), pr.edm_wiring())
    dn.cfg(m, tokens, {"tokens": jnp.zeros((1, 4, 3))}, 2.0)(jnp.zeros((2, 2)), 1.0)
    assert seen.calls[0]["tokens"].shape == (4, 4, 3)
    assert seen.calls[0]["tokens"][:, 0, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, jnp.array([0.0, 1.0, 3.0])])
def test_cfg_is_linear_in_its_scale(scale):
    """x_0 = x_0(null) + w (x_0(cond) - x_0(null)); w = 0 and 1 are the branches themselves."""
    m = dn.model(_from_cond, {}, pr.edm(), pr.wiring(pr.x0))
    cond, null = {"label": jnp.array([0.1, 0.2, 0.7])}, {"label": jnp.float32(0.5)}
    found = dn.cfg(m, cond, null, scale)(jnp.ones((3, 4)), 1.0).x0
    expected = 0.5 + np.asarray(scale) * (np.array([0.1, 0.2, 0.7]) - 0.5)
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 4, 1), rtol=1e-6)


def _by_sigma(at):
    return at.sigma / (at.alpha + at.sigma)


def test_scales_may_depend_on_the_point():
    m = dn.model(_from_cond, {}, pr.rectified_flow(), pr.wiring(pr.x0))
    d = dn.cfg(m, {"label": jnp.ones(2)}, {"label": jnp.zeros(())}, _by_sigma)
    np.testing.assert_allclose(d(jnp.ones((2, 1)), 0.25).x0, [[0.25], [0.25]], rtol=1e-6)
    per_sample = d(jnp.ones((2, 1)), jnp.array([0.25, 0.5])).x0
    np.testing.assert_allclose(per_sample, [[0.25], [0.5]], rtol=1e-6)
    with pytest.raises(TypeError, match="before the guides"):
        dn.cfg(m, {"label": jnp.ones(2)}, {"label": jnp.zeros(())}, lambda at: at.vjp(at.x))(
            jnp.ones((2, 1)), 0.25
        )


def test_value_at():
    at = At(jnp.ones((2, 1)), 0.5, jnp.float32(0.5), jnp.float32(0.5), lambda c: c, NOWHERE)
    assert float(dn.value_at(2, at)) == 2.0 and float(dn.value_at(_by_sigma, at)) == 0.5


def test_mix_of_three_and_conditions_by_step():
    m = dn.model(_from_cond, {}, pr.edm(), pr.wiring(pr.x0))
    conds: list[Any] = [{"label": jnp.float32(v)} for v in (0.1, 0.2)]
    conds.append(Partial(_step_label, jnp.array([[0.4, 0.8]])))
    d = dn.mix(m, conds, (0.5, 0.25, 0.25))
    now = Now(1.0, 0.5, jnp.int32(0), 1, keys_for(jax.random.key(0), jnp.arange(2)), {})
    found = d(jnp.ones((2, 1)), 1.0, now).x0[:, 0]
    np.testing.assert_allclose(found, [0.1 + 0.1, 0.1 + 0.2], rtol=1e-6)


def test_keys_and_memory_follow_the_rows():
    def fn(x, t, cond, now):
        assert now.key.shape == (4,) and now.memory["m"].shape == (4, 3)
        same = jax.random.key_data(now.key)
        np.testing.assert_array_equal(same[0::2], same[1::2])
        np.testing.assert_array_equal(now.t, [1.0, 1.0, 2.0, 2.0])
        return Estimate(x, aux={"m": now.memory["m"]})

    m = dn.Model(pr.edm(), Partial(fn), None)
    keys = keys_for(jax.random.key(0), jnp.arange(2))
    now = Now(jnp.array([1.0, 2.0]), 0.5, 0, 1, keys, {"m": jnp.arange(6.0).reshape(2, 3)})
    est = dn.mix(m, (None, None), (0.5, 0.5))(jnp.ones((2, 2)), now.t, now)
    np.testing.assert_allclose(est.x0, np.ones((2, 2)))
    assert est.aux["m"].shape == (2, 2, 3)


def test_mix_refuses_what_does_not_match():
    m = dn.model(_zero, {}, pr.edm(), pr.edm_wiring())
    with pytest.raises(ValueError, match=r"different structures.*same keys"):
        dn.cfg(m, {"label": jnp.ones(2)}, jnp.ones(2), 1.0)
    with pytest.raises(ValueError, match="2 conditions and 1 weights"):
        dn.mix(m, (None, None), (1.0,))
    with pytest.raises(ValueError, match="0 conditions and 0 weights"):
        dn.mix(m, (), ())


def test_no_retrace():
    """Scale, condition, null, parameters and process are arguments of a jitted function."""
    traces = []

    @jax.jit
    def ask(d, x):
        traces.append(1)
        return d(x, 1.0).x0

    def net(params, x, time, cond):
        return params["w"] * x + cond[:, None]

    net = Partial(net)
    for i in (1.0, 2.0):
        m = dn.model(net, {"w": jnp.float32(i)}, pr.edm(0.01 * i, 80.0), pr.edm_wiring(0.5 * i))
        d = dn.cfg(m, jnp.full(2, i), jnp.float32(-i), i)
        d = dn.blend((d, dn.bind(m, jnp.zeros(2))), (i, 1 - i))
        ask(dn.rebase(d, pr.vp_linear(0.1, 20.0 * i)), jnp.ones((2, 3)))
    assert len(traces) == 1


# blending


def test_blend():
    m = dn.model(_from_cond, {}, pr.edm(), pr.wiring(pr.x0))
    strong, weak = (dn.bind(m, {"label": jnp.full(2, v)}) for v in (0.2, 0.6))
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(
        dn.blend((weak, strong), (-1.0, 2.0))(x, 1.0).x0, -0.2 * x, atol=1e-6
    )
    half = dn.blend((weak, strong), (_by_sigma, lambda at: 1 - _by_sigma(at)))(x, 1.0).x0
    np.testing.assert_allclose(half, 0.4 * x, rtol=1e-6)
    with pytest.raises(ValueError, match="2 denoisers and 1 weights"):
        dn.blend((weak, strong), (1.0,))
    with pytest.raises(ValueError, match="0 denoisers"):
        dn.blend((), ())


def _with_aux(name):
    fn = Partial(lambda x, t, now: Estimate(x, aux={name: x}))
    return dn.Denoiser(pr.edm(), fn, Partial(lambda x: {name: x}))


def test_blend_keeps_everything_it_is_told():
    x = jnp.ones((2, 3))
    both = dn.blend((_with_aux("a"), _with_aux("b")), (0.5, 0.5))
    assert set(both(x, 1.0).aux) == {"a", "b"}
    assert both.memory is not None and set(both.memory(x)) == {"a", "b"}
    clash = dn.blend((_with_aux("a"), _with_aux("a")), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"\['a'\] under one name"):
        clash(x, 1.0)
    assert dn.all_memories([None, None]) is None
    assert dn.joined([{"a": 1}, {"b": 2}]) == {"a": 1, "b": 2}
