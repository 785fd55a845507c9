"""Tables and their grids in closed form: between entries, in sections, strided, stretched."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import process as pr
from tests.process.cases import wide

x64 = pytest.mark.usefixtures("x64")
WAYS = {"ratio": pr.by_ratio, "log_ratio": pr.by_log_ratio}
BETAS = {
    "linear": pr.linear_betas(),
    "cosine": pr.cosine_betas(),
    "scaled_linear": pr.scaled_linear_betas(),
    "sigmoid": pr.sigmoid_betas(),
    "laplace": pr.laplace_betas(),
    "zero linear": pr.zero_snr(pr.linear_betas()),
    "zero scaled_linear": pr.zero_snr(pr.scaled_linear_betas()),
}


def products(betas):
    return np.concatenate([[1.0], np.cumprod(1 - wide(betas))])  # abar at -1, 0, ..., N - 1


@x64
@pytest.mark.parametrize("name", BETAS)
def test_tables_have_ddpms_transitions_and_posteriors(name):
    """Ho et al. 2020, eq. (2), (4) and (7), and the log-SNR log(abar/(1 - abar))."""
    betas, t = wide(BETAS[name]), np.array([0, 1, 2, 10, 500, 900, 998, 999])
    process, b = pr.from_betas(BETAS[name]), betas[t]
    before, abar = products(betas)[t], products(betas)[t + 1]
    s, t = jnp.asarray(t - 1.0), jnp.asarray(t * 1.0)
    kernel, bridge = pr.transition(process, s, t), pr.posterior(process, s, t)
    known: dict[str, Any] = dict(rtol=2e-10, atol=1e-16)
    left, new = (1 - before) / (1 - abar), np.sqrt(before) * b / (1 - abar)
    np.testing.assert_allclose(kernel.shrink, np.sqrt(1 - b).astype(float), **known)
    np.testing.assert_allclose(kernel.var, b.astype(float), **known)
    np.testing.assert_allclose(bridge.on_x0, new.astype(float), **known)
    np.testing.assert_allclose(bridge.on_xt, (np.sqrt(1 - b) * left).astype(float), **known)
    np.testing.assert_allclose(bridge.var, (left * b).astype(float), **known)
    with np.errstate(divide="ignore"):
        level = np.log(abar) - np.log(1 - abar)
    np.testing.assert_allclose(pr.log_snr(process, t), level.astype(float), rtol=1e-10)


@x64
@pytest.mark.parametrize("name", BETAS)
def test_the_sde_of_every_table_integrates_to_its_betas(name):
    """Over one step g^2 = -2 f integrates to -log(1 - beta): variance is preserved."""
    process, steps = pr.from_betas(BETAS[name]), np.array([1, 10, 500, 900])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    times = jnp.asarray(steps[:, None] - 0.5 + nodes / 2)
    g2 = np.asarray(pr.diffusion2(process, times))
    np.testing.assert_allclose(g2, -2 * np.asarray(pr.drift(process, times)), rtol=1e-8)
    np.testing.assert_allclose((g2 * weights / 2).sum(1), -np.log1p(-BETAS[name][steps]), rtol=1e-8)


@x64
@pytest.mark.parametrize("name", ["scaled_linear", "zero linear"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_between_entries_meets_them(way, name):
    process, abar = pr.from_betas(BETAS[name], WAYS[way]), products(BETAS[name])
    alpha, sigma = pr.scales(process, jnp.arange(-1.0, 1000.0))
    np.testing.assert_allclose(alpha, np.sqrt(abar).astype(float), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(sigma, np.sqrt(1 - abar).astype(float), rtol=1e-12)
    ts = jnp.linspace(-1, 999, 8001)
    alpha, sigma = (np.asarray(a) for a in pr.scales(process, ts))
    assert np.all(np.diff(alpha) <= 0) and np.all(np.diff(sigma) > 0)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
    slopes = [f(process, ts[1:-1]) for f in (pr.drift, pr.diffusion2)]
    assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes)


@x64
def test_ways_between_entries():
    """Half-way: the mean angle, the mean ratio, its geometric mean; and back by `time_of`."""
    for way, mean in (
        (None, lambda a, b: np.tan((np.arctan(a) + np.arctan(b)) / 2)),
        (pr.by_ratio, lambda a, b: (a + b) / 2),
        (pr.by_log_ratio, lambda a, b: np.sqrt(a * b)),
    ):
        process = pr.from_betas(pr.scaled_linear_betas(), way)
        at = jnp.array([0.0, 40.0, 998.0])
        low, half, high = (np.exp(-pr.log_snr(process, at + d) / 2) for d in (0, 0.5, 1))
        np.testing.assert_allclose(half, mean(low, high), rtol=1e-12)
        back = pr.time_of(process, -2 * jnp.log(half))
        np.testing.assert_allclose(back, at + 0.5, rtol=1e-12)


def test_a_table_with_its_way_is_an_argument_under_jit():
    traces = []

    @jax.jit
    def sigma(process):
        traces.append(1)
        return process.sigma(jnp.array(0.5))

    one, two = (
        sigma(pr.from_betas(make(), pr.by_ratio)) for make in (pr.linear_betas, pr.cosine_betas)
    )
    assert one != two and len(traces) == 1


@pytest.mark.parametrize("count", [1, 3, 7, 20, 999, 1000])
def test_simple_cuts_where_trailing_rounds(count):
    process = pr.from_betas(pr.linear_betas())
    cut, rounded = (np.asarray(grid(process, count)) for grid in (pr.simple, pr.trailing))
    assert cut[0] == 999 and np.all(cut == np.round(cut))
    assert set(cut - rounded) <= {0.0, 1.0}
    assert np.array_equal(cut, rounded) == (1000 % count == 0)
    pr.check_grid(cut, process)


def test_sections_spend_their_steps_where_they_say():
    """Of 300 times the first hundred give 10, the next 15, the noisiest 20; all reach both ends."""
    process = pr.from_betas(pr.linear_betas(300))
    ts = np.asarray(pr.sections(process, (10, 15, 20)))
    pr.check_grid(ts, process)
    for part, count in enumerate((10, 15, 20)):
        own = ts[(ts >= 100 * part) & (ts < 100 * part + 100)]
        assert len(own) == count and own[0] == 100 * part + 99 and own[-1] == 100 * part
        assert np.ptp(np.diff(own)) <= 1
    assert pr.sections(process, (300,)).tolist() == [*range(299, -2, -1)]
    odd = pr.sections(pr.from_betas(pr.linear_betas(7)), (1, 2))  # parts of 4 and 3
    assert odd.tolist() == [6, 4, 0, -1]


@x64
@pytest.mark.parametrize("name", ["linear", "zero linear"])
def test_a_strided_table_is_the_table_at_its_times(name):
    """Marginals, transitions and posterior variances of the chain that stops there only."""
    betas, times = BETAS[name], np.array([3, 4, 100, 500, 998, 999])
    process, strided = pr.from_betas(betas), pr.from_betas(pr.strided_betas(betas, times))
    t, s = jnp.asarray(times * 1.0), jnp.asarray(np.array([-1.0, *times[:-1]]))
    i = jnp.arange(len(times) * 1.0)
    last: dict[str, Any] = dict(atol=1e-12)  # 1 - beta has 16 digits of 1
    for a, b in zip(pr.scales(strided, i), pr.scales(process, t), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, **last)
    for law in (pr.transition, pr.posterior):
        for a, b in zip(law(strided, i - 1, i), law(process, s, t), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, **last)
    np.testing.assert_allclose(pr.strided_betas(betas, np.arange(1000)), betas, atol=1e-15)


@x64
def test_stretched_ends_where_it_says():
    flow, inner = pr.rectified_flow(), pr.shifted(3.0, pr.uniform)
    ts = np.asarray(pr.stretched(0.1, inner)(flow, 8))
    assert ts[0] == 1 and ts[-1] == 0
    assert ts[-2] == pytest.approx(0.1, abs=1e-15)
    plain = np.asarray(inner(flow, 8))[:-1]
    np.testing.assert_allclose((1 - ts[:-1]) / (1 - ts[-2]), (1 - plain) / (1 - plain[-1]))
    assert pr.stretched(0.1)(flow, 1).tolist() == [1, 0]  # not 0/0
    one, two = (jax.jit(lambda g: g(flow, 4))(pr.stretched(a)) for a in (0.1, 0.2))
    assert one[-2] == pytest.approx(0.1) and two[-2] == pytest.approx(0.2)


@x64
def test_a_shift_that_depends_on_the_image():
    """exp(mu) / (exp(mu) + 1/t - 1) at mu linear in the tokens: FLUX's form of the same shift."""
    ts = jnp.linspace(0.01, 0.99, 9)
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):
        assert pr.flux_mu(tokens) == pytest.approx(mu, rel=1e-12)
        found = pr.shift(ts, np.exp(pr.flux_mu(tokens)))
        np.testing.assert_allclose(found, np.exp(mu) / (np.exp(mu) + 1 / ts - 1), rtol=1e-12)


def test_without_the_penultimate_two_steps_are_one():
    process = pr.edm()
    ts = np.asarray(pr.karras(process, 6))
    found = pr.discard_penultimate(pr.karras)(process, 5)
    np.testing.assert_array_equal(found, np.delete(ts, -2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pr.sections(pr.from_betas(pr.linear_betas(10)), ()), "counts=\\(\\)"),
        (lambda: pr.sections(pr.from_betas(pr.linear_betas(10)), (2, 6)), "parts of \\[5, 5\\]"),
        (lambda: pr.sections(pr.from_betas(pr.linear_betas(10)), (0, 2)), "counts=\\(0, 2\\)"),
        (lambda: pr.sections(pr.rectified_flow(), (2, 3)), "counts=\\(2, 3\\)"),
        (lambda: pr.simple(pr.from_betas(pr.linear_betas(10)), 11), "simple=11 on times 0 ... 9"),
        (lambda: pr.strided_betas(pr.linear_betas(10), [3, 3]), "times=\\[3 3\\]"),
        (lambda: pr.strided_betas(pr.linear_betas(10), [3, 10]), "in 0 ... 9"),
        (lambda: pr.strided_betas(pr.linear_betas(10), np.array([0.5, 3])), "whole numbers"),
        (lambda: pr.strided_betas(pr.linear_betas(10), []), "whole numbers"),
        (lambda: pr.stretched(0.0)(pr.rectified_flow(), 4), "terminal=0: .*in \\(0, 1\\)"),
        (lambda: pr.stretched(1.5)(pr.rectified_flow(), 4), "terminal=1.5"),
    ],
)
def test_bad_numbers_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
