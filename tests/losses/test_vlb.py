"""The bound against what it bounds, and each part against what it is known to be.

A Gaussian's chain with its exact denoiser and its exact variances IS the data's distribution, so
the bound is -log p(x) for any grid. The noise comes from a tape whose entries are the nodes of
Gauss-Hermite's rule: for terms that are quadratic in the noise three of them give the expectation
to rounding, and no test of these is statistical.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

from jaxdiff import denoise as dn
from jaxdiff import exact, losses
from jaxdiff import process as pr
from jaxdiff.denoise import Denoiser
from jaxdiff.trees import tape
from jaxdiff.types import Batch, Estimate

_KEY = jax.random.key(0)
_MEAN, _VAR = 0.3, 0.6


def hermite(n):
    """Nodes and weights of E over a standard normal."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    return z, w / w.sum()


# the decoder

masses = jax.jit(losses.discretised_gaussian, static_argnames="levels")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("levels", [2, 256])
def test_masses_sum_to_one(levels):
    """For every mean and spread, from far narrower than a level to far wider than all."""
    means, stds = [-3.0, -1.0, -0.37, 0.0, 0.996, 1.7], [1e-4, 3e-3, 0.02, 0.3, 5.0, 1e3]
    mean, log_std = (a.reshape(-1, 1) for a in np.meshgrid(means, np.log(stds)))
    x = np.broadcast_to(np.linspace(-1, 1, levels)[None], (36, levels))
    wide = x, np.broadcast_to(mean, x.shape), log_std
    logs = np.asarray(masses(*wide, levels=levels))
    np.testing.assert_allclose(np.exp(logs).sum(1), 1.0, atol=1e-9)
    single = np.asarray(masses(*(np.float32(a) for a in wide), levels=levels))
    assert single.dtype == np.float32
    np.testing.assert_allclose(np.exp(single).sum(1), 1.0, atol=1e-3)
    np.testing.assert_allclose(single, logs, rtol=2e-3, atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_masses_are_those_of_the_normal():
    """Against scipy's distribution function where it does not cancel; finite slopes beyond."""
    x, std = np.linspace(-1, 1, 256)[10:200], 0.07
    low, high = ((x + side / 255 - 0.1) / std for side in (-1, 1))
    wanted = np.log(np.where(low > 0, stats.norm.sf(low) - stats.norm.sf(high),
                             stats.norm.cdf(high) - stats.norm.cdf(low)))  # fmt: skip
    np.testing.assert_allclose(masses(x, np.full(190, 0.1), np.log([std])), wanted, rtol=1e-9)
    x, mean = (np.float32(a) for a in np.meshgrid([-1.0, 1 / 255, 1.0], [-1e3, 0.0, 50.0]))
    slope = jax.grad(lambda m, s: jnp.sum(masses(x, m, s)), (0, 1))
    for leaf in (masses(x, mean, 0 * mean - 7), *slope(mean, 0 * mean - 7)):
        assert np.all(np.isfinite(leaf))


# the chain

TIGHT = {
    "vp_cosine": pr.vp_cosine,
    "rectified_flow": pr.rectified_flow,
    "edm": pr.edm,
    "vp_linear": pr.vp_linear,
    "table": lambda: pr.from_betas(pr.linear_betas(20, 1e-2, 0.4)),
    "zero_table": lambda: pr.from_betas(pr.zero_snr(pr.linear_betas(20, 1e-2, 0.4))),
}


def gaussian(process):
    return exact.denoiser(exact.gaussian(jnp.array([_MEAN]), jnp.array([[_VAR]])), process)


def _with_v(inner, ts, values, x, t, now):
    v = values[jnp.argmin(jnp.abs(ts[:-1] - t))]
    return Estimate(inner(x, t, now).x0, None, {"v": jnp.broadcast_to(v, x.shape)})


def exact_v(process, ts):
    """The v at which each step has the variance of the true reverse kernel, by Gaussian algebra."""
    chain = jax.jit(lambda p, ts: pr.scales(p, ts) + losses.step_variances(p, ts))(process, ts)
    alpha, sigma, small, large = (np.asarray(a) for a in chain)
    prior = alpha**2 * _VAR + sigma**2  # Var x_t;  Cov(x_s, x_t) by the forward kernel
    shrink = alpha[:-1] / alpha[1:]
    true = prior[1:] - (shrink * prior[1:]) ** 2 / prior[:-1]
    return 2 * np.log(true / small) / np.log(large / small) - 1


def quadrature(x, n):
    """Rows (x_i, noise_j), the tape of n steps, and the weights over j."""
    z, w = hermite(3)
    noise = jnp.broadcast_to(jnp.tile(jnp.asarray(z), len(x))[None, :, None], (n, 3 * len(x), 1))
    return tape(noise), jnp.repeat(jnp.asarray(x), 3)[:, None], w


@functools.partial(jax.jit, static_argnums=1)
def fine(process, n):
    """n + 1 times, even in log-SNR from next to nothing to next to all."""
    return jnp.append(pr.time_of(process, jnp.linspace(-12.0, 9.0, n)), process.t_clean)


def averaged(values, w):
    return (np.asarray(values).reshape(-1, len(w)) * w).sum(1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "n"),
    [
        *((name, 7) for name in ("vp_cosine", "zero_table")),
        ("edm", 3),
        *(pytest.param(name, n, marks=pytest.mark.slow) for name in TIGHT for n in (3, 5)),
    ],
)
def test_the_exact_chain_of_a_gaussian_is_tight(name, n):
    """-log p(x) at every x for any grid; what is left is that the chain starts at N(0, sigma^2)."""
    process, x = TIGHT[name](), np.array([-1.0, 0.2, 2.0])
    ts = pr.uniform(process, n)
    keys, rows, w = quadrature(x, n)
    values = jnp.asarray(exact_v(process, ts))

    @jax.jit
    def asked(process, ts, values, keys, rows):
        made = Denoiser(process, Partial(_with_v, gaussian(process).fn, ts, values))
        return losses.variational_bound(keys, made, rows, ts, levels=None)

    bound = asked(process, ts, values, keys, rows)
    a, s = float(process.alpha(ts[0])), float(process.sigma(ts[0]))
    ratio = s**2 / (a**2 * _VAR + s**2)
    true_prior = (ratio - 1 - np.log(ratio) + (a * (x - _MEAN)) ** 2 / s**2 * ratio) / 2
    wanted = -stats.norm.logpdf(x, _MEAN, _VAR**0.5)
    np.testing.assert_allclose(
        averaged(bound.nats, w) - averaged(bound.prior, w) + true_prior, wanted, rtol=1e-9
    )
    np.testing.assert_allclose(averaged(bound.prior, w), (a * x / s) ** 2 / 2, atol=1e-12)
    assert bound.steps.shape == (9, n - 1) and bound.decoder.shape == (9,)
    np.testing.assert_allclose(bound.bits, bound.nats / np.log(2))


def _total(v, process, ts):
    """E over data and noise of the bound of the Gaussian, exact: all is quadratic in both."""
    z, weights = hermite(3)
    keys, rows, w = quadrature(_MEAN + _VAR**0.5 * z, len(ts) - 1)
    made = Denoiser(process, Partial(_with_v, gaussian(process).fn, ts, v))
    nats = losses.variational_bound(keys, made, rows, ts, levels=None).nats
    return jnp.sum(nats.reshape(3, 3) * (weights[:, None] * w[None]))


@pytest.mark.usefixtures("x64")
def test_the_exact_variance_is_the_best():
    """Slopes in every step's v vanish at the variance of the true kernel, and nowhere near it."""
    process = pr.vp_cosine()
    ts = pr.uniform(process, 4)
    v = jnp.asarray(exact_v(process, ts))
    slope = jax.jit(jax.grad(functools.partial(_total, process=process, ts=ts)))
    assert np.abs(slope(v)).max() < 1e-10
    assert np.all(slope(v + 0.2) > 1e-4) and np.all(slope(v - 0.2) < -1e-4)


@pytest.mark.usefixtures("x64")
def test_many_steps_need_no_learned_variance():
    """Small or large, the bound falls to the entropy, twice as near at twice the steps."""
    process = pr.vp_cosine()
    entropy = 0.5 * np.log(2 * np.pi * np.e * _VAR)
    total = jax.jit(lambda v, ts: _total(v, process, ts))
    for v in (-1.0, 1.0):
        excess = []
        for n in (100, 200):
            ts = fine(process, n)
            excess.append(float(total(jnp.full(n, v).at[-1].set(1.0), ts)) - entropy)
        assert excess[0] > excess[1] > 0
        assert abs(2 * excess[1] - excess[0]) < 0.1 * excess[1]


@pytest.mark.usefixtures("x64")
def test_bits_of_a_discrete_distribution():
    """Four levels with known probabilities: above the entropy, and to first order down to it."""
    weights, process = np.array([0.1, 0.2, 0.3, 0.4]), pr.vp_cosine()
    entropy = -(weights * np.log2(weights)).sum()
    levels = jnp.linspace(-1, 1, 4)[:, None]
    denoise = exact.denoiser(exact.points(levels, jnp.asarray(weights)), process)
    z, w = hermite(40)
    rows = jnp.repeat(levels, 40, axis=0)
    found = []
    for n in (200, 400):
        noise = jnp.broadcast_to(jnp.tile(jnp.asarray(z), 4)[None, :, None], (n, 160, 1))
        bound = jax.jit(lambda *args: losses.variational_bound(*args, levels=4))
        bits = bound(tape(noise), denoise, rows, fine(process, n)).bits
        found.append((weights * averaged(bits, w)).sum())
    assert found[0] > found[1] > entropy
    assert 2 * found[1] - found[0] == pytest.approx(entropy, rel=0.002)


def test_variances_of_a_table():
    """DDPM's: beta_t, and (1 - abar_{t-1})/(1 - abar_t) beta_t with the second for the first."""
    betas = pr.linear_betas(50, 1e-3, 0.1)
    process = pr.from_betas(betas)
    small, large = losses.step_variances(process, pr.uniform(process, 50))
    abar = np.cumprod(1 - betas)
    posterior = betas[1:] * (1 - abar[:-1]) / (1 - abar[1:])
    np.testing.assert_allclose(small[::-1], [posterior[0], *posterior], rtol=1e-4)
    np.testing.assert_allclose(large[::-1], betas, rtol=1e-4)


# the losses that train it


def constant(params, x, time, cond):
    """x_0 = 0.2 and v = 0.5 whatever it sees: every term is then known without noise."""
    return jnp.concatenate([0 * x + 0.2, 0 * x + 0.5], axis=-1)


def evenly(n, b):
    return lambda key, rows: (jnp.arange(b) % n + 0.5) / n


see = jax.jit(losses.observed)
KINDS: dict[str, Any] = dict(process=pr.vp_cosine(), wiring=pr.wiring(pr.x0))
TS = pr.uniform(pr.vp_cosine(), 8)
IMAGE = (2 * jax.random.randint(_KEY, (1, 2, 2, 3), 0, 256) - 255) / 255


@jax.jit
def constant_bound(v=None):
    model = dn.learned_variance(constant, {}, *KINDS.values())
    return losses.variational_bound(jax.random.split(_KEY, 1), dn.bind(model, None), IMAGE, TS, v=v)


def compiled(loss, **kinds):
    """loss(params, key, batch, v=..., resampler=...) as one program; the rest is fixed."""
    return jax.jit(functools.partial(loss, **kinds))


def test_one_step_a_sample_is_the_whole_bound():
    """Eight rows of one image, each its own step: their mean is the sum over all steps."""
    batch = Batch(jnp.tile(IMAGE, (8, 1, 1, 1)))
    kinds: dict[str, Any] = KINDS | dict(ts=TS, draw=evenly(8, 8))
    loss, metrics = compiled(losses.vlb_loss, apply=constant, **kinds)({}, _KEY, batch)
    assert float(loss) == pytest.approx(float(constant_bound().bits[0]), rel=1e-5)
    assert set(metrics) == {"loss"}
    plain = lambda *args: constant(*args)[..., :3]  # noqa: E731
    fixed = compiled(losses.vlb_loss, apply=plain, **kinds)
    for v in (-1.0, 0.5, 1.0):
        loss, _ = fixed({}, _KEY, batch, v=v)
        assert float(loss) == pytest.approx(float(constant_bound(v).bits[0]), rel=1e-5)


def test_a_resampler_leaves_the_bound_as_it_is():
    """Steps drawn by their losses and divided by their shares: the mean is the same."""
    b, state = 8192, losses.resampler(8, history=2)
    batch = Batch(jnp.tile(IMAGE, (b, 1, 1, 1)))
    for _ in range(2):
        state = see(state, jnp.arange(8), jnp.array([9.0, 4, 3, 1, 1, 2, 2, 30]))
    loss = compiled(losses.vlb_loss, apply=constant, ts=TS, draw=evenly(b, b), **KINDS)
    loss, metrics = loss({}, _KEY, batch, resampler=state)
    assert float(loss) == pytest.approx(float(constant_bound().bits[0]), rel=2e-3)
    counts = np.bincount(metrics["index"], minlength=8) / b
    np.testing.assert_allclose(counts, losses.shares(state), atol=2e-4)
    bound = constant_bound()
    terms = np.append(bound.steps[0], bound.decoder[0]) / (12 * np.log(2))
    np.testing.assert_allclose(metrics["term"], terms[metrics["index"]], rtol=1e-4)


def affine(params, x, time, cond):
    mean, v = params["mean"] * x + params["shift"], params["v"] * x
    return jnp.concatenate([mean, v + params["shift_v"]], axis=-1)


@pytest.mark.parametrize("prediction", [pr.v, pytest.param(pr.x0, marks=pytest.mark.slow)])
def test_the_hybrid_trains_mean_and_variance_apart(prediction):
    """The mean has the slope of L_simple, v that of lambda L_vlb, where L_vlb alone has both."""
    params = {"mean": 0.3, "shift": 0.1, "v": 0.2, "shift_v": -0.4}
    params = {name: jnp.float32(value) for name, value in params.items()}
    x = (2 * jax.random.randint(_KEY, (16, 2, 2, 1), 0, 256) - 255) / 255
    process = pr.vp_cosine(t_min=0.01)
    kinds: dict[str, Any] = dict(apply=affine, process=process, wiring=pr.wiring(prediction))
    kinds["ts"] = pr.uniform(process, 8)[1:]
    batch, lam = Batch(x), 0.25

    def slopes(loss):
        return jax.value_and_grad(functools.partial(loss, **kinds), has_aux=True)

    @jax.jit
    def all_three(*args):
        made = [functools.partial(losses.hybrid_loss, lam=value) for value in (lam, 0.0)]
        return [slopes(loss)(*args) for loss in (*made, losses.vlb_loss)]

    found = all_three(params, _KEY, batch)
    ((loss, metrics), both), (_, simple), ((bits, _), bound) = found
    for name in ("mean", "shift"):
        assert float(both[name]) == pytest.approx(float(simple[name]), rel=1e-5)
        assert abs(float(bound[name])) > 1e-3
    for name in ("v", "shift_v"):
        assert float(simple[name]) == 0.0
        assert float(both[name]) == pytest.approx(lam * float(bound[name]), rel=1e-4)
    assert float(metrics["bits"]) == pytest.approx(float(bits), rel=1e-5)
    assert float(metrics["loss"]) == float(loss)


def test_simple_is_ddpm():
    """The same key draws the same noise: a network that answers 0 has E eps^2 in both."""
    batch = Batch(jnp.ones((16, 2, 2, 1)))
    zeros = lambda params, x, time, cond: jnp.zeros((*x.shape[:-1], params))  # noqa: E731
    (_, metrics), (wanted, _) = jax.jit(lambda: (
        losses.hybrid_loss(2, _KEY, batch, apply=zeros),
        losses.ddpm_loss(1, _KEY, batch, apply=zeros)))()  # fmt: skip
    assert float(metrics["simple"]) == pytest.approx(float(wanted), rel=1e-6)


def test_zero_signal_has_finite_slopes():
    """From alpha = 0, with v: both losses, with respect to all that a network says."""
    params = {name: jnp.float32(0.1) for name in ("mean", "shift", "v", "shift_v")}
    more: dict[str, Any] = dict(apply=affine, ts=TS, draw=evenly(8, 8), wiring=pr.wiring(pr.v))
    kinds: dict[str, Any] = KINDS | more

    def total(params):
        each = (losses.vlb_loss, losses.hybrid_loss)
        return sum(f(params, _KEY, Batch(jnp.ones((8, 2, 2, 1))), **kinds)[0] for f in each)

    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(params)))


def test_a_model_with_two_answers():
    """The first half is the model's, the second comes out as `v`; trees are split leaf by leaf."""
    x, t = jax.random.normal(_KEY, (4, 3)), 0.6
    process, wiring = pr.vp_linear(), pr.wiring(pr.v, center=0.5)
    two = lambda params, x, time, cond: jnp.concatenate([jnp.tanh(x), x + cond], axis=-1)  # noqa: E731
    one = lambda params, x, time, cond: jnp.tanh(x)  # noqa: E731
    est, wanted = jax.jit(lambda: (
        dn.bind(dn.learned_variance(two, {}, process, wiring), 2.0)(x, t),
        dn.bind(dn.model(one, {}, process, wiring))(x, t)))()  # fmt: skip
    np.testing.assert_allclose(est.x0, wanted.x0, rtol=1e-6)
    np.testing.assert_allclose(est.aux["v"], x - pr.scales(process, t)[0] * 0.5 + 2.0, rtol=1e-5)
    tree = {"a": jnp.ones((2, 1)), "b": jnp.ones((2, 4, 3))}
    both = jax.tree.map(lambda leaf: jnp.concatenate([leaf, -leaf], axis=-1), tree)
    p, v = dn.halves(both, tree)
    assert all(jnp.all(leaf == 1) for leaf in jax.tree.leaves(p))
    assert all(jnp.all(leaf == -1) for leaf in jax.tree.leaves(v))
    assert jax.tree.map(jnp.shape, v) == jax.tree.map(jnp.shape, tree)


# steps drawn by their losses


def test_a_resampler_warms_up_uniformly():
    """Uniform until EVERY step has a full history, then sqrt(E L^2); the oldest loss goes first."""
    state = losses.resampler(3, history=2, floor=1e-6)
    state = see(state, jnp.array([0, 1, 0, 1, 0, 2]), jnp.array([9.0, 0.0, 3.0, 2.0, 4.0, 1.0]))
    np.testing.assert_allclose(losses.shares(state), 1 / 3)
    state = see(state, jnp.array([2]), jnp.array([1.0]))
    size = np.sqrt([(9 + 16) / 2, 2.0, 1.0])
    np.testing.assert_allclose(losses.shares(state), size / size.sum(), rtol=1e-4)
    assert state.count.tolist() == [2, 2, 2]
    broken = see(state, jnp.array([1]), jnp.array([jnp.nan]))
    np.testing.assert_allclose(losses.shares(broken), 1 / 3)
    silent = see(losses.resampler(2, history=1), jnp.array([0, 1]), jnp.zeros(2))
    np.testing.assert_allclose(losses.shares(silent), 1 / 2)


@pytest.mark.usefixtures("x64")
def test_drawn_steps_are_unbiased_and_vary_less():
    """Over all u: the mean of weight * L is that of L, its variance about 0 for what was seen."""
    terms = jnp.array([5.0, 0.1, 0.7, 2.0])
    state = see(losses.resampler(4, history=1), jnp.arange(4), terms)
    share = np.asarray(losses.shares(state))
    np.testing.assert_allclose(share, 0.999 * terms / terms.sum() + 0.001 / 4)
    index, weight = losses.drawn(state, (jnp.arange(100_000) + 0.5) / 100_000)
    np.testing.assert_allclose(np.bincount(index) / 1e5, share, atol=2e-5)
    np.testing.assert_allclose(weight, 1 / (4 * share[index]))
    values = np.asarray(weight * terms[index])
    assert (share * terms / (4 * share)).sum() == pytest.approx(float(terms.mean()))
    assert values.mean() == pytest.approx(float(terms.mean()), rel=1e-4)
    assert values.std() < 0.05 * float(terms.std())
    ends, _ = losses.drawn(state, jnp.array([0.0, 1.0]))
    assert ends.tolist() == [0, 3]


# bad input


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (dict(x=jnp.full((1, 2), 0.5)), r"x holds 0.5: not one of the 256 levels"),
        (dict(x=jnp.full((1, 2), 257 / 255)), r"x holds 1.00784"),
        (dict(x=jnp.full((1, 2), jnp.nan)), r"x holds nan"),
        (dict(levels=1), r"levels=1: at least two"),
        (dict(ts=jnp.array([1.0, 1.0, 0.0])), r"times must decrease"),
        (dict(ts=jnp.array([1.0])), r"a grid of 1 times"),
        (dict(ts=jnp.array([1.0, 0.5])), r"ts ends at 0.5, where sigma=0.*t=0.0"),
        (dict(ts=jnp.ones((3, 2))), r"ts of shape \(3, 2\)"),
    ],
)
def test_bad_data_and_chains(call, why):
    kinds: dict[str, Any] = dict(x=jnp.ones((1, 2)), ts=TS, levels=256) | call
    x, ts = kinds.pop("x"), kinds.pop("ts")
    with pytest.raises(ValueError, match=why):
        losses.variational_bound(
            jax.random.split(_KEY, 1), exact.denoiser(exact.points(jnp.ones((1, 2))),
                                                      pr.vp_cosine()), x, ts, **kinds)  # fmt: skip
    for loss in (losses.vlb_loss, losses.hybrid_loss):
        with pytest.raises(ValueError, match=why):
            loss({}, _KEY, Batch(x), apply=constant, ts=ts, **KINDS, **kinds)


def test_bad_networks_and_resamplers():
    batch, plain = Batch(jnp.ones((2, 3))), lambda params, x, time, cond: x

    def traced(loss, **kinds):
        jax.eval_shape(lambda: loss({}, _KEY, batch, ts=TS, **KINDS, **kinds)[0])

    for loss in (losses.vlb_loss, losses.hybrid_loss):
        with pytest.raises(ValueError, match=r"answers \(2, 3\) for samples \(2, 3\): .* twice"):
            traced(loss, apply=plain)
        with pytest.raises(ValueError, match="resampler of 9 steps for a chain of 8"):
            traced(loss, apply=constant, resampler=losses.resampler(9))
    bad: Any = {"n=0": dict(n=0), "history=0": dict(n=3, history=0)}
    bad |= {f"floor={floor}": dict(n=3, floor=floor) for floor in (0.0, 1.5)}
    for why, kinds in bad.items():
        with pytest.raises(ValueError, match=why):
            losses.resampler(**kinds)


def test_traced_data_are_not_looked_at():
    """Off the levels, but traced: a number comes out, and slopes are finite."""
    loss = jax.jit(lambda x: losses.vlb_loss({}, _KEY, Batch(x), apply=constant, ts=TS, **KINDS)[0])
    assert np.isfinite(float(loss(jnp.full((2, 3), 0.123))))
