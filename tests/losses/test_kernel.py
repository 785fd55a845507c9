"""The kernel: spaces exchanged, rows and keys, dropped conditions, and what is weighed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import losses
from jaxdiff import process as pr
from jaxdiff.trees import keys_for
from jaxdiff.types import Batch
from tests.process.cases import PREDICTIONS, PROCESSES

_KEY = jax.random.key(0)


def _answers(process, prediction, guess):
    """A network that speaks `prediction`, but always means x_0 = guess(x_t, t)."""

    def apply(params, x, time, cond):
        t = time[:, None]
        alpha, sigma = pr.scales(process, t)
        x0 = guess(x, t)
        return pr.encode(prediction, process, t, x0, (x - alpha * x0) / sigma)

    return apply


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("space", PREDICTIONS)
@pytest.mark.parametrize("make", [pr.vp_linear, pr.edm, lambda: pr.rectified_flow(t_min=1e-3)])
def test_the_loss_does_not_know_what_the_network_speaks(make, space):
    """One answer x_0 said in seven predictions: one loss in each space."""
    process, found = make(), []
    batch = Batch(jax.random.normal(jax.random.key(1), (16, 3)))
    for kind in PREDICTIONS:
        prediction = PREDICTIONS[kind]()
        net = _answers(process, prediction, lambda x, t: 0.3 * jnp.tanh(x) + 0.01 * t)
        loss, _ = losses.denoising_loss(
            {}, _KEY, batch, apply=net, process=process, wiring=pr.wiring(prediction),
            space=PREDICTIONS[space](), weight=Partial(_by_time),
        )  # fmt: skip
        found.append(float(loss))
    np.testing.assert_allclose(found, found[0], rtol=1e-8)


def _by_time(process, t):
    return 1 + t


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("p", PREDICTIONS)
@pytest.mark.parametrize("make", [pr.vp_linear, pr.edm, pr.rectified_flow])
def test_exchange_is_how_an_error_turns(make, p):
    """Change p by 1 at fixed x, decode, encode q: q changes by exchange(p, q)."""
    process, t, x = make(), jnp.asarray(0.4), jnp.asarray(0.7)
    low, high = (pr.decode(PREDICTIONS[p](), process, t, x, jnp.asarray(v)) for v in (0.3, 1.3))
    for q in PREDICTIONS:
        expected = pr.encode(PREDICTIONS[q](), process, t, high[0] - low[0], high[1] - low[1])
        found = losses.exchange(PREDICTIONS[p](), PREDICTIONS[q](), process, t)
        assert float(found) == pytest.approx(float(expected), rel=1e-10)


def test_exchange_at_the_ends():
    """A row against itself is 1 everywhere; where both rows are noise or data it is their ratio."""
    flow, ends = pr.rectified_flow(), jnp.array([0.0, 1.0])
    for kind in ("x0", "eps", "v", "velocity", "F(.5)"):
        same = losses.exchange(PREDICTIONS[kind](), PREDICTIONS[kind](), flow, ends)
        np.testing.assert_allclose(same, [1.0, 1.0])
    assert float(losses.exchange(pr.eps, pr.score, flow, jnp.float32(1.0))) == -1.0
    assert float(losses.exchange(pr.v, pr.eps, flow, jnp.float32(1.0))) == 0.0


def _last(process, u):
    return jnp.full_like(u, process.t_max)


@pytest.mark.parametrize("make", [pr.vp_cosine, PROCESSES["table_zero"]])
def test_losses_are_finite_at_zero_signal(make):
    """The last time of a zero-SNR process: eps in its own space, and weights that are infinite."""
    batch = Batch(jnp.ones((16, 3)))
    net = lambda params, x, time, cond: 0 * x + params  # noqa: E731
    for kind, space in (("eps", "eps"), ("v", "eps"), ("v", "score"), ("v", "v")):
        infinite = Partial(lambda process, t: 1 / process.alpha(t))
        value, slope = jax.value_and_grad(losses.denoising_loss, has_aux=True)(
            jnp.float32(0.5), _KEY, batch, apply=net, process=make(), law=_last,
            wiring=pr.wiring(PREDICTIONS[kind]()), space=PREDICTIONS[space](),
            weight=infinite if kind != space else None,
        )  # fmt: skip
        assert np.isfinite(float(value[0])) and np.isfinite(float(slope))


@pytest.fixture
def conditional():
    """A small network that uses all it gets, and a batch of 16 with labels."""

    def apply(params, x, time, cond):
        return params["w"] * x + time[:, None] + 0.1 * cond["label"][:, None]

    x = jax.random.normal(jax.random.key(1), (16, 3))
    batch = Batch(x, {"label": jnp.arange(16)}, jnp.arange(16))
    kinds = dict(apply=apply, process=pr.vp_linear(), wiring=pr.wiring(pr.eps))
    return {"w": jnp.float32(0.3)}, batch, kinds | dict(null={"label": 99}, drop=0.3)


@pytest.mark.parametrize("draw", [pr.low_discrepancy, pr.independent])
def test_a_split_batch_has_the_same_loss(conditional, draw):
    """Halves with their rows, in any order: times, noise and dropping are those of the whole."""
    params, batch, kinds = conditional
    grad = jax.value_and_grad(losses.denoising_loss, has_aux=True)
    (whole, _), slope = grad(params, _KEY, batch, draw=draw, **kinds)
    order = np.random.default_rng(0).permutation(16)
    halves = [jax.tree.map(lambda a, i=i: a[i], batch) for i in (order[:8], order[8:])]
    parts = [grad(params, _KEY, half, draw=draw, **kinds) for half in halves]
    assert np.mean([float(loss) for (loss, _), _ in parts]) == pytest.approx(float(whole), rel=1e-5)
    found = np.mean([float(part["w"]) for _, part in parts])
    assert found == pytest.approx(float(slope["w"]), rel=1e-5)
    plain = batch._replace(row=None)
    unnumbered = losses.denoising_loss(params, _KEY, plain, draw=draw, **kinds)[0]
    assert float(unnumbered) == pytest.approx(float(whole), rel=1e-6)
    other = losses.denoising_loss(params, jax.random.key(9), batch, draw=draw, **kinds)[0]
    assert float(other) != float(whole)


def test_metrics(conditional):
    params, batch, kinds = conditional
    loss, metrics = losses.denoising_loss(params, _KEY, batch, weight=Partial(_thrice), **kinds)
    assert set(metrics) == {"loss", "error"} and loss.shape == () and loss.dtype == jnp.float32
    assert float(metrics["loss"]) == float(loss)
    assert float(loss) == pytest.approx(3 * float(metrics["error"]), rel=1e-6)


def _thrice(process, t):
    return jnp.full_like(t, 3.0)


def test_what_the_network_sees():
    """Times, x_t and target belong together: answering 0, the error is the mean square of eps."""
    seen = []

    def apply(params, x, time, cond):
        seen.append((x, time, cond))
        return jnp.zeros_like(x)

    batch = Batch(jnp.full((4096, 1), 0.5), jnp.arange(4096))
    process = pr.vp_linear()
    _, metrics = losses.denoising_loss(
        {}, _KEY, batch, apply=apply, process=process, wiring=pr.wiring(pr.eps)
    )
    ((x, time, cond),) = seen
    alpha, sigma = pr.scales(process, time)
    eps = (np.asarray(x) - np.asarray(alpha)[:, None] * 0.5) / np.asarray(sigma)[:, None]
    assert float(metrics["error"]) == pytest.approx((eps**2).mean(), rel=1e-4)
    assert abs(eps.mean()) < 0.06 and abs(eps.var() - 1) < 0.09
    assert cond.tolist() == list(range(4096))
    gaps = np.diff(np.sort(np.asarray(time)))
    assert float(gaps.max()) < 1e-3


def test_centre_shifts_data_and_target():
    """With data at the centre, a network that answers x_0 - m = 0 is right."""
    wiring = pr.wiring(pr.x0, center=0.5)
    net = lambda params, x, time, cond: jnp.zeros_like(x)  # noqa: E731
    loss, _ = losses.denoising_loss(
        {}, _KEY, Batch(jnp.full((16, 3), 0.5)), apply=net, process=pr.vp_linear(), wiring=wiring
    )
    assert float(loss) == 0.0


def test_trees_of_data():
    x = {"image": jnp.ones((4, 3, 3)), "kernel": jnp.ones((4, 2))}
    net = lambda params, x, time, cond: jax.tree.map(jnp.zeros_like, x)  # noqa: E731
    loss, _ = losses.denoising_loss(
        {}, _KEY, Batch(x), apply=net, process=pr.vp_linear(), wiring=pr.wiring(pr.x0)
    )
    assert float(loss) == 1.0


def test_mean_square():
    x = {"a": jnp.array([[3.0], [0.0]]), "b": jnp.array([[[1.0, 2.0]], [[0.0, 2.0]]])}
    np.testing.assert_allclose(losses.mean_square(x), [14 / 3, 4 / 3], rtol=1e-6)


# dropping


def test_dropped_replaces_whole_rows():
    cond = {"label": jnp.arange(4096), "text": jnp.ones((4096, 5, 2))}
    keys = keys_for(_KEY, jnp.arange(4096))
    out = losses.dropped(keys, cond, {"label": -1, "text": jnp.zeros((5, 2))}, 0.2)
    gone = np.asarray(out["label"]) == -1
    assert abs(gone.mean() - 0.2) < 4 * (0.16 / 4096) ** 0.5
    assert out["label"].dtype == jnp.int32 and out["text"].shape == (4096, 5, 2)
    np.testing.assert_array_equal(np.asarray(out["text"])[:, 0, 0], np.where(gone, 0.0, 1.0))
    np.testing.assert_array_equal(np.asarray(out["label"])[~gone], np.arange(4096)[~gone])
    np.testing.assert_array_equal(
        losses.dropped(keys[:9], cond["label"][:9], -1, 0.2), out["label"][:9]
    )


@pytest.mark.parametrize("rate", [0, 0.0, 1.0, 1])
def test_never_and_always(rate):
    keys, cond = keys_for(_KEY, jnp.arange(16)), jnp.arange(16)
    out = losses.dropped(keys, cond, 77, rate)
    assert out.tolist() == ([77] * 16 if rate else list(range(16)))


def test_dropping_needs_a_null():
    keys = keys_for(_KEY, jnp.arange(2))
    for cond, null in ((None, 0), (jnp.arange(2), None)):
        with pytest.raises(ValueError, match=r"drop=0.1 needs a condition .* null="):
            losses.dropped(keys, cond, null, 0.1)
    assert losses.dropped(keys, None, None, 0.0) is None


def test_drop_rates_may_be_traced():
    keys, cond = keys_for(_KEY, jnp.arange(16)), jnp.arange(16)
    drop = jax.jit(lambda rate: losses.dropped(keys, cond, 77, rate))
    assert drop(0.0).tolist() == list(range(16)) and drop(1.0).tolist() == [77] * 16


def test_dropping_is_not_tied_to_time_or_noise():
    """Rows that are dropped have the times of the rest: three keys, three uses."""
    seen = []

    def apply(params, x, time, cond):
        seen.append((time, cond))
        return jnp.zeros_like(x)

    batch = Batch(jnp.zeros((4096, 1)), jnp.zeros(4096, jnp.int32))
    losses.denoising_loss(
        {}, _KEY, batch, apply=apply, process=pr.vp_linear(), wiring=pr.wiring(pr.eps),
        draw=pr.independent, null=1, drop=0.5,
    )  # fmt: skip
    time, cond = (np.asarray(a) for a in seen[0])
    assert abs(np.corrcoef(time, cond)[0, 1]) < 4 / 64
