"""Laws against scipy's normal quantiles, draws against uniformity, grids against k-diffusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff import process as pr
from jaxdiff.process.grids import check_steps
from jaxdiff.process.times import _fraction
from tests.process.cases import PROCESSES, SIGNAL_ENDS, TABLES, span_of

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


GRIDS = {
    "uniform": pr.uniform,
    "linspace": pr.linspace,
    "uniform_lambda": pr.uniform_lambda,
    "karras": pr.karras,
}


@pytest.mark.parametrize("grid", GRIDS)
@names
def test_grids_walk_from_noise_to_data(name, grid):
    process = PROCESSES[name]()
    for n in (1, 5):
        ts = GRIDS[grid](process, n)
        assert ts.shape == (n + 1,) and ts.dtype == jnp.float32
        assert float(ts[0]) == float(process.t_max) and float(ts[-1]) == float(process.t_clean)
        pr.check_grid(ts)
        # the network is asked inside the interval, to single precision of its length
        slack = 1e-6 * float(process.t_max - process.t_min)
        assert float(ts[-2]) >= float(process.t_min) - (slack if n > 1 else 0)


@pytest.mark.parametrize("name", TABLES)
def test_grids_of_tables_have_every_length(name):
    """What divides 1000 and what does not."""
    process = PROCESSES[name]()
    for n in (1, 3, 7, 50):
        for grid in (pr.uniform, pr.linspace, pr.leading):
            ts = grid(process, n)
            assert ts.shape == (n + 1,) and float(ts[-1]) == -1.0
            pr.check_grid(ts)
            assert float(ts[-2]) >= 0 and float(ts[0]) <= 999.0


def test_grids_of_tables_are_those_of_diffusers():
    """timesteps of diffusers' DDIMScheduler with timestep_spacing trailing, linspace, leading."""
    process = pr.from_betas(pr.linear_betas())
    assert pr.uniform(process, 4).tolist() == [999, 749, 499, 249, -1]
    assert pr.uniform(process, 10).tolist() == [*range(999, 0, -100), -1]
    assert pr.linspace(process, 10).tolist() == [*range(999, -1, -111), -1]
    assert pr.leading(process, 4).tolist() == [750, 500, 250, 0, -1]
    assert pr.leading(process, 10, 1).tolist() == [*range(901, 0, -100), -1]
    twenty = np.asarray(pr.linspace(process, 20))  # diffusers rounds, we interpolate the table
    assert np.abs(twenty[:3] - [999, 946, 894]).max() <= 0.5


def test_uniform_never_asks_below_t_min():
    """Where a spread to t_clean would, the last of the n times asked is t_min itself."""
    np.testing.assert_allclose(pr.uniform(pr.ve(), 3), [1.0, 0.5, 0.0, -1.0])
    np.testing.assert_allclose(pr.uniform(pr.rectified_flow(), 4), [1.0, 0.75, 0.5, 0.25, 0.0])
    assert float(pr.uniform(pr.vp_linear(), 2000)[-2]) == float(pr.vp_linear().t_min)


@pytest.mark.usefixtures("x64")
def test_karras_is_k_diffusions():
    """get_sigmas_karras(5, 0.002, 80, rho) in float64; rho 7 and 3."""
    seven = [80.0, 17.527831964644111, 2.5152189761471591, 0.16975275626876413, 0.002, 0.0]
    np.testing.assert_allclose(pr.karras(pr.edm(), 5), seven, rtol=1e-12)
    three = [80.0, 34.746505851346882, 10.903104960664006, 1.6086515896491163, 0.002, 0.0]
    np.testing.assert_allclose(pr.karras(pr.edm(), 5, 3), three, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_karras_on_other_processes_has_the_same_ratios():
    """sigma/alpha is even in its 7th root between the ends of the process."""
    for process in (pr.vp_linear(), pr.ve(), pr.from_betas(pr.linear_betas())):
        ts = pr.karras(process, 12)[:-1]
        ratio = np.exp(-np.asarray(pr.log_snr(process, ts)) / 2)
        steps = np.diff(ratio ** (1 / 7))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-8)
        assert float(ts[-1]) == pytest.approx(float(process.t_min), abs=1e-9)


@pytest.mark.usefixtures("x64")
def test_uniform_lambda_is_even_in_log_snr():
    """For EDM it is k-diffusion's exponential grid."""
    exponential = [80.0, 5.6568542494923788, 0.4, 0.028284271247461905, 0.002, 0.0]
    np.testing.assert_allclose(pr.uniform_lambda(pr.edm(), 5), exponential, rtol=1e-12)
    for name in ("vp_linear", "sub_vp", "ve", "table_linear"):
        process = PROCESSES[name]()
        lam = np.asarray(pr.log_snr(process, pr.uniform_lambda(process, 9)[:-1]))
        np.testing.assert_allclose(np.diff(lam), np.diff(lam)[0], rtol=1e-8)


@pytest.mark.parametrize("name", sorted(SIGNAL_ENDS))
@pytest.mark.parametrize("grid", ["karras", "uniform_lambda"])
def test_grids_from_alpha_zero_count_from_a_finite_ratio(name, grid):
    """t_max itself is exact; from there on the grid is that from sigma/alpha = 1000."""
    process = PROCESSES[name]()
    ratio = np.exp(-np.asarray(pr.log_snr(process, GRIDS[grid](process, 10)[:-1]), float) / 2)
    assert np.isinf(ratio[0]) and 10 < ratio[1] < 1000
    even = np.log(ratio[1:]) if grid == "uniform_lambda" else ratio[1:] ** (1 / 7)
    first = np.log(1e3) if grid == "uniform_lambda" else 1e3 ** (1 / 7)
    np.testing.assert_allclose(np.diff([first, *even]), even[1] - even[0], rtol=1e-2)


@pytest.mark.parametrize("grid", [*GRIDS.values(), pr.leading])
def test_grids_want_a_step(grid):
    with pytest.raises(ValueError, match=r"steps=0: .* at least one"):
        grid(pr.edm(), 0)
    check_steps(1)


@pytest.mark.parametrize(
    ("process", "n", "offset"),
    [
        (pr.vp_linear, 4, 0),
        (PROCESSES["table_linear"], 1001, 0),
        (PROCESSES["table_linear"], 1000, 1),
    ],
)
def test_leading_stays_on_its_table(process, n, offset):
    with pytest.raises(ValueError, match=rf"leading: steps={n}, offset={offset}"):
        pr.leading(process(), n, offset)


def test_check_grid_names_the_place():
    with pytest.raises(ValueError, match=r"grid\[1\]=0.5, grid\[2\]=0.5"):
        pr.check_grid(jnp.array([1.0, 0.5, 0.5, 0.0]))
    with pytest.raises(ValueError, match=r"grid\[0\]=0.0"):
        pr.check_grid(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"grid\[0\]"):
        pr.check_grid(jnp.array([[1.0, 1.0], [0.5, 1.5], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"grid\[0\]"):
        pr.check_grid(jnp.array([jnp.nan, 0.5]))
    with pytest.raises(ValueError, match="1 times"):
        pr.check_grid(jnp.array([1.0]))
    pr.check_grid(jnp.array([[1.0, 0.9], [0.5, 0.1]]))


def test_check_grid_lets_traces_pass():
    jax.jit(lambda ts: (pr.check_grid(ts), ts)[1])(jnp.array([0.0, 1.0]))


def test_a_grid_is_an_argument_under_jit():
    """Another process of the kind, another rho: no new trace."""
    traces = []

    def grid(process, rho):
        traces.append(1)
        return pr.karras(process, 4, rho)

    grid = jax.jit(grid)
    assert float(grid(pr.edm(0.002, 80.0), 7.0)[0]) == 80.0
    assert float(grid(pr.edm(0.01, 50), 5)[0]) == 50.0
    assert len(traces) == 2  # 7.0 and 5 differ in type; the process does not count
