"""Laws against scipy's normal quantiles, draws against uniformity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff import process as pr
from jaxdiff.process.times import _fraction
from tests.process.cases import PROCESSES, span_of

names = pytest.mark.parametrize("name", PROCESSES)
draws = pytest.mark.parametrize("draw", [pr.independent, pr.low_discrepancy])

_ROWS = jnp.arange(4096)


@draws
def test_draws_are_open_at_both_ends(draw):
    u = draw(jax.random.key(0), _ROWS)
    assert u.dtype == jnp.float32 and float(u.min()) > 0 and float(u.max()) < 1
    ends = _fraction(jnp.array([0, 2**32 - 1], jnp.uint32))
    assert 0 < float(ends[0]) < 1e-7 and 1 - 1e-7 < float(ends[1]) < 1


@draws
def test_rows_do_not_know_the_batch(draw):
    """Row i draws the same number in any batch, shard or order; another key, another number."""
    key = jax.random.key(3)
    whole = np.asarray(draw(key, _ROWS[:64]))
    np.testing.assert_array_equal(draw(key, _ROWS[:5]), whole[:5])
    np.testing.assert_array_equal(draw(key, jnp.array([40, 7])), whole[[40, 7]])
    assert not np.any(np.asarray(draw(jax.random.key(4), _ROWS[:64])) == whole)


def test_independent_is_uniform():
    u = np.asarray(pr.independent(jax.random.key(1), _ROWS))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 4 / 64


def test_low_discrepancy_rows_are_uniform_over_keys():
    keys = jax.random.split(jax.random.key(2), 3000)
    u = np.asarray(jax.vmap(lambda key: pr.low_discrepancy(key, jnp.array([0, 7, 100000])))(keys))
    for row in u.T:
        assert stats.kstest(row, "uniform").pvalue > 1e-3


def _star(u):
    """The star discrepancy sup_x |#(u < x)/n - x|."""
    u, n = np.sort(u), len(u)
    return max((np.arange(1, n + 1) / n - u).max(), (u - np.arange(n) / n).max())


@pytest.mark.parametrize("start", [0, 1000])
def test_low_discrepancy_spreads_every_run_of_rows(start):
    """The golden rotation has star discrepancy of order log(n)/n; independent draws n^-1/2."""
    rows = start + jnp.arange(2048)
    worst = 0.0
    for seed in range(4):
        u = np.asarray(pr.low_discrepancy(jax.random.key(seed), rows))
        for n in (4, 16, 64, 256, 1024, 2048):
            worst = max(worst, _star(u[:n]) * n / (1 + np.log(n)))
    assert worst < 1.0
    independent = np.asarray(pr.independent(jax.random.key(0), rows))
    assert _star(independent) > 3 * _star(u)


_U = np.array([1e-4, 0.02, 0.3, 0.5, 0.9, 0.999])


@pytest.mark.parametrize("name", ["edm", "vp_linear", "rectified_flow", "table_linear"])
@pytest.mark.usefixtures("x64")
def test_log_normal_is_normal_in_log_ratio(name):
    """The quantiles of log(sigma/alpha) are those of N(mean, std^2), clipped to the process."""
    process = PROCESSES[name]()
    t = pr.log_normal(-1.2, 1.2)(process, jnp.asarray(_U))
    alpha, sigma = pr.scales(process, t)
    low, high = (float(-pr.log_snr(process, end) / 2) for end in span_of(process))
    expected = np.clip(stats.norm.ppf(_U, -1.2, 1.2), low, high)
    np.testing.assert_allclose(np.log(sigma / alpha), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["edm", "rectified_flow", "vp_cosine"])
@pytest.mark.usefixtures("x64")
def test_logit_normal_is_normal_in_logit(name):
    process = PROCESSES[name]()
    low, high = span_of(process)
    share = (np.asarray(pr.logit_normal(0.3, 0.8)(process, jnp.asarray(_U))) - low) / (high - low)
    np.testing.assert_allclose(np.log(share / (1 - share)), stats.norm.ppf(_U, 0.3, 0.8), rtol=1e-9)


@names
def test_uniform_law_is_uniform(name):
    process = PROCESSES[name]()
    low, high = span_of(process)
    t = pr.uniform_law(process, jnp.asarray(_U, jnp.float32))
    np.testing.assert_allclose(t, stats.uniform.ppf(_U, low, high - low), rtol=1e-5, atol=1e-6)
    extremes = pr.uniform_law(process, jnp.array([2.0**-24, 1 - 2.0**-24]))
    assert low <= float(extremes[0]) and float(extremes[1]) <= high


def test_integer_law_draws_every_integer_alike():
    process = pr.from_betas(pr.linear_betas())
    u = (jnp.arange(8000) + 0.5) / 8000
    t, counts = np.unique(pr.integer_law(process, u), return_counts=True)
    np.testing.assert_array_equal(t, np.arange(1000))
    assert set(counts) == {8}
    assert pr.integer_law(process, jnp.array([2.0**-24, 1 - 2.0**-24])).tolist() == [0.0, 999.0]


@pytest.mark.parametrize("make", [pr.log_normal, pr.logit_normal])
def test_laws_are_arguments_under_jit(make):
    traces = []

    @jax.jit
    def median(law):
        traces.append(1)
        return law(pr.edm(), jnp.float32(0.5))

    assert float(median(make(0.0, 1.0))) != float(median(make(-1, jnp.float32(2))))
    assert len(traces) == 1
