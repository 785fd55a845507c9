"""Every recipe at its known minimum: the exact posterior mean of a Gaussian, E_t weight(t) Var.

Given the exact x_0 the error that is left in x_0 is the posterior variance c sigma^2/(alpha^2 c +
sigma^2), averaged over the entries. What each paper's weight makes of it is integrated here over
the paper's own times, with the textbook's alpha and sigma; and no small change of the answer helps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff import exact, losses
from jaxdiff import process as pr
from jaxdiff.types import Batch
from tests.fakes import CLOCKS, exact_network
from tests.process.cases import TEXTBOOK, Wide, betas_of

_MEAN, _VARS = np.array([0.3, -0.5]), np.array([0.5, 0.04])
_BATCH, _REPEATS = 4096, 8


def _left(alpha, sigma):
    """Posterior variance of x_0, mean over the entries."""
    alpha, sigma = np.asarray(alpha)[..., None], np.asarray(sigma)[..., None]
    return (_VARS * sigma**2 / (alpha**2 * _VARS + sigma**2)).mean(-1)


def _over_time(name, weight, t_min, t_max=1.0):
    """Mean over uniform t of weight(t, alpha, sigma) * posterior variance, by the midpoint rule."""
    n = 200_000
    t = (t_min + (np.arange(n) + 0.5) / n * (t_max - t_min)).astype(Wide)
    alpha, sigma = TEXTBOOK[name].alpha(t), TEXTBOOK[name].sigma(t)
    return float((weight(t, alpha, sigma) * _left(alpha, sigma)).mean())


def _over_table(weight):
    """Mean over the thousand integers of DDPM's table of weight(snr) * posterior variance."""
    abar = np.cumprod(1 - betas_of("table_linear").astype(Wide))
    left = _left(np.sqrt(abar), np.sqrt(1 - abar))
    return float((weight(abar / (1 - abar)) * left).mean())


def _over_sigma(weight):
    """Mean over ln sigma ~ N(-1.2, 1.2^2), clipped to EDM's range."""
    u = (np.arange(100_000) + 0.5) / 100_000
    sigma = np.clip(np.exp(stats.norm.ppf(u, -1.2, 1.2)), 0.002, 80)
    return float((weight(sigma) * _left(np.ones_like(sigma), sigma)).mean())


def _sigmoid_weight(t, alpha, sigma):
    snr = (alpha / sigma) ** 2
    rate = TEXTBOOK["vp_cosine"].diffusion2(t) / sigma**2
    return rate / 2 / (1 + snr * np.exp(0.7)) * snr


def _information(snr):
    """I(x_0; x_t) in nats for independent Gaussian entries."""
    return 0.5 * np.log1p(snr * _VARS).sum()


def _likelihood_minimum():
    """de Bruijn: d I(x_0; x_t)/dt = -g^2/2 E||score of the kernel - score||^2, so it integrates."""
    book = TEXTBOOK["vp_linear"]
    first, last = ((book.alpha(t) / book.sigma(t)) ** 2 for t in (Wide(1e-3), Wide(1.0)))
    return float(_information(first) - _information(last)) / 2 / (1 - 1e-3)


class Case(NamedTuple):
    """A recipe, its default process, wiring and time-from-clock, and its minimum."""

    loss: Callable
    process: Callable
    wiring: Callable
    time: Callable
    minimum: Callable


_table = lambda: pr.from_betas(pr.linear_betas())  # noqa: E731
_own, _thousand, _edm = (CLOCKS[name] for name in ("own_time", "thousand", "edm"))

CASES = {
    "ddpm": Case(
        losses.ddpm_loss, _table, lambda: pr.wiring(pr.eps), _own[1],
        lambda: _over_table(lambda snr: snr),
    ),
    "x0": Case(
        losses.x0_loss, pr.vp_cosine, lambda: pr.wiring(pr.x0, clock=pr.thousand), _thousand[1],
        lambda: _over_time("vp_cosine", lambda t, alpha, sigma: 1, 1e-3),
    ),
    "v": Case(
        losses.v_loss, pr.vp_cosine, lambda: pr.wiring(pr.v, clock=pr.thousand), _thousand[1],
        lambda: _over_time("vp_cosine", lambda t, alpha, sigma: sigma**-2, 1e-3),
    ),
    "edm": Case(
        losses.edm_loss, pr.edm, pr.edm_wiring, _edm[1],
        lambda: _over_sigma(lambda s: (s**2 + 0.25) / (s * 0.5) ** 2),
    ),
    "flow_matching": Case(
        losses.flow_matching_loss, pr.rectified_flow,
        lambda: pr.wiring(pr.velocity, clock=pr.thousand), _thousand[1],
        lambda: _over_time("rectified_flow", lambda t, alpha, sigma: t**-2, 0.0),
    ),
    "min_snr": Case(
        losses.min_snr_loss, _table, lambda: pr.wiring(pr.eps), _own[1],
        lambda: _over_table(lambda snr: np.minimum(snr, 5)),
    ),
    "p2": Case(
        losses.p2_loss, _table, lambda: pr.wiring(pr.eps), _own[1],
        lambda: _over_table(lambda snr: snr / (1 + snr)),
    ),
    "sigmoid": Case(
        functools.partial(losses.sigmoid_loss, bias=-0.7), pr.vp_cosine,
        lambda: pr.wiring(pr.v, clock=pr.thousand), _thousand[1],
        lambda: _over_time("vp_cosine", _sigmoid_weight, 1e-3),
    ),
    "likelihood": Case(
        losses.likelihood_loss, pr.vp_linear, lambda: pr.wiring(pr.eps, clock=pr.thousand),
        _thousand[1], _likelihood_minimum,
    ),
}  # fmt: skip


@functools.cache
def _measured(name):
    """Losses and gradients at zero perturbation of the exact answer, for independent batches."""
    case = CASES[name]
    dist = exact.gaussian(jnp.asarray(_MEAN), jnp.diag(jnp.asarray(_VARS)))
    net = exact_network(dist, case.process(), case.wiring(), case.time)

    def one(key):
        draw, noise = jax.random.split(key)
        batch = Batch(exact.draw(draw, dist, _BATCH))
        zero = {"scale": jnp.zeros(()), "shift": jnp.zeros((1, 2))}
        loss = functools.partial(case.loss, apply=net)
        (value, _), slope = jax.value_and_grad(loss, has_aux=True)(zero, noise, batch)
        return value, slope

    # op by op: nothing is compiled anew for the next recipe
    each = [one(key) for key in jax.random.split(jax.random.key(7), _REPEATS)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def _check(found, expected):
    found = np.asarray(found, float)
    error = found.std(0, ddof=1) / _REPEATS**0.5
    assert np.all(np.abs(found.mean(0) - expected) < 4 * error + 1e-9)
    return error


@pytest.mark.parametrize("name", CASES)
def test_minimum_is_the_posterior_variance(name):
    values, _ = _measured(name)
    expected = CASES[name].minimum()
    assert _check(values, expected) < 0.05 * expected  # sharp enough to tell weights apart


@pytest.mark.parametrize("name", CASES)
def test_gradient_vanishes_at_the_exact_answer(name):
    _, slopes = _measured(name)
    _check(slopes["scale"], 0.0)
    _check(slopes["shift"], 0.0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "edm"])
def test_other_wirings_have_the_same_minimum(name):
    """Speak x_0 to every recipe: its space and weight are its own, not the network's (EDM's is)."""
    case = CASES[name]
    wiring = pr.wiring(pr.x0, clock=case.wiring().clock)
    dist = exact.gaussian(jnp.asarray(_MEAN), jnp.diag(jnp.asarray(_VARS)))
    batch = Batch(exact.draw(jax.random.key(1), dist, _BATCH))
    found = []
    for each in (wiring, case.wiring()):
        net = exact_network(dist, case.process(), each, case.time)
        loss = functools.partial(case.loss, apply=net, wiring=each, process=case.process())
        found.append(float(loss({}, jax.random.key(2), batch)[0]))
    assert found[0] == pytest.approx(found[1], rel=2e-3)


def test_edm_weight_in_x0():
    """Unit weight on F is (sigma^2 + sigma_data^2)/(sigma sigma_data)^2 in x_0."""
    sigma = jnp.array([0.01, 0.5, 30.0])
    for data in (0.5, 0.9):
        found = losses.exchange(pr.x0, pr.F(data), pr.edm(), sigma) ** 2
        np.testing.assert_allclose(found, (sigma**2 + data**2) / (sigma * data) ** 2, rtol=1e-5)


def test_edm_law_and_data():
    """mean and std place the noise; sigma_data and center are the wiring's."""
    seen = []

    def apply(params, x, time, cond):
        seen.append(np.exp(4 * np.asarray(time)))
        return jnp.zeros_like(x)

    batch = Batch(jnp.zeros((_BATCH, 2)))
    losses.edm_loss({}, jax.random.key(0), batch, apply=apply, mean=0.5, std=0.4)
    logs = np.log(seen[0])
    assert (logs.mean(), logs.std()) == pytest.approx((0.5, 0.4), abs=0.01)


def test_min_snr_is_x0_loss_below_gamma_and_eps_loss_above():
    """gamma = inf leaves SNR, the loss of eps; a tiny gamma is gamma times the loss of x_0."""
    batch = Batch(jax.random.normal(jax.random.key(0), (_BATCH, 2)))
    net = lambda params, x, time, cond: 0.5 * x  # noqa: E731
    key = jax.random.key(1)
    kinds: dict[str, Any] = dict(apply=net, process=pr.from_betas(pr.linear_betas()))
    ddpm = losses.ddpm_loss({}, key, batch, **kinds)[0]
    high = losses.min_snr_loss({}, key, batch, gamma=jnp.inf, **kinds)[0]
    assert float(high) == pytest.approx(float(ddpm), rel=1e-4)
    low = losses.min_snr_loss({}, key, batch, gamma=1e-6, **kinds)[0]
    plain = losses.denoising_loss(
        {}, key, batch, wiring=pr.wiring(pr.eps), law=pr.integer_law, space=pr.x0, **kinds
    )[0]
    assert float(low) == pytest.approx(1e-6 * float(plain), rel=1e-4)


def test_p2_without_gamma_is_ddpm():
    batch = Batch(jax.random.normal(jax.random.key(0), (_BATCH, 2)))
    net = lambda params, x, time, cond: 0.5 * x  # noqa: E731
    key = jax.random.key(1)
    found = losses.p2_loss({}, key, batch, apply=net, gamma=0.0)[0]
    expected = losses.ddpm_loss({}, key, batch, apply=net)[0]
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_flow_matching_takes_a_law():
    """Logit-normal times put the mass in the middle."""
    seen = []

    def apply(params, x, time, cond):
        seen.append(np.asarray(time) / 1000)
        return jnp.zeros_like(x)

    batch = Batch(jnp.zeros((_BATCH, 2)))
    losses.flow_matching_loss({}, jax.random.key(0), batch, apply=apply, law=pr.logit_normal())
    assert stats.kstest(np.log(seen[0] / (1 - seen[0])), "norm").pvalue > 0.5


@pytest.mark.parametrize("name", CASES)
def test_every_recipe_drops_conditions(name):
    def apply(params, x, time, cond):
        seen.append(cond)
        return jnp.zeros_like(x)

    labels = jnp.arange(_BATCH)
    batch = Batch(jnp.zeros((_BATCH, 2)), {"label": labels})
    for drop, expected in ((1.0, 0 * labels + 9), (0.0, labels)):
        seen = []
        CASES[name].loss({}, jax.random.key(0), batch, apply=apply, null={"label": 9}, drop=drop)
        np.testing.assert_array_equal(seen[0]["label"], expected)
