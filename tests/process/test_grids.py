"""Grids in closed form: where they are even, where they end, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import betainc

from jaxdiff import process as pr
from jaxdiff.process.noise_grids import _beta_quantile
from tests.process.cases import PROCESSES, SIGNAL_ENDS, TABLES

x64 = pytest.mark.usefixtures("x64")


def ratios(process, ts):
    alpha, sigma = pr.scales(process, ts)
    return np.asarray(sigma / alpha)


def stable_diffusion():
    return pr.from_betas(pr.scaled_linear_betas())


GRIDS = {
    "uniform": pr.uniform,
    "linspace": pr.linspace,
    "uniform_lambda": pr.uniform_lambda,
    "karras": pr.karras,
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PROCESSES)
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


def test_uniform_never_asks_below_t_min():
    """Where a spread to t_clean would, the last of the n times asked is t_min itself."""
    np.testing.assert_allclose(pr.uniform(pr.ve(), 3), [1.0, 0.5, 0.0, -1.0])
    np.testing.assert_allclose(pr.uniform(pr.rectified_flow(), 4), [1.0, 0.75, 0.5, 0.25, 0.0])
    assert float(pr.uniform(pr.vp_linear(), 2000)[-2]) == float(pr.vp_linear().t_min)


@x64
@pytest.mark.slow
def test_karras_on_other_processes_has_the_same_ratios():
    """sigma/alpha is even in its 7th root between the ends of the process."""
    for process in (pr.vp_linear(), pr.ve(), pr.from_betas(pr.linear_betas())):
        ts = pr.karras(process, 12)[:-1]
        ratio = np.exp(-np.asarray(pr.log_snr(process, ts)) / 2)
        steps = np.diff(ratio ** (1 / 7))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-8)
        assert float(ts[-1]) == pytest.approx(float(process.t_min), abs=1e-9)


@x64
def test_uniform_lambda_is_even_in_log_snr():
    """In all processes whose ends are finite there."""
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


@pytest.mark.parametrize(
    ("name", "ts", "words"),
    [
        ("rectified_flow", [1.5, 0.5, 0.0], r"grid\[0\]=1.5 lies outside .* = \[0, 1\]"),
        ("vp_linear", [1.0, 0.5, -0.1], r"grid\[2\]=-0.1"),
        ("edm", [81.0, 1.0, 0.0], r"grid\[0\]=81.0 .* \[0, 80\]"),
        ("table_linear", [1000.0, 10.0, -1.0], r"grid\[0\]=1000.0 .* \[-1, 999\]"),
        ("rectified_flow", [[1.0, 1.1], [0.5, 0.5]], r"grid\[0, 1\]=1.1"),
    ],
)
def test_check_grid_names_what_lies_outside(name, ts, words):
    process = PROCESSES[name]()
    pr.check_grid(jnp.array(ts))
    for times in (jnp.array(ts), np.array(ts)):
        with pytest.raises(ValueError, match=words):
            pr.check_grid(times, process)


@pytest.mark.parametrize("name", PROCESSES)
def test_check_grid_forgives_rounding(name):
    process = PROCESSES[name]()
    whole = jnp.stack([process.t_max, process.t_clean])
    pr.check_grid(jnp.nextafter(whole, jnp.array([jnp.inf, -jnp.inf])), process)
    jax.jit(lambda p, ts: (pr.check_grid(ts, p), ts)[1])(process, 2 * whole)  # traces pass


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


@x64
@pytest.mark.parametrize("name", ["edm", "vp_linear", "rectified_flow", "table"])
def test_noise_grids_are_even_where_they_say_so(name):
    process = stable_diffusion() if name == "table" else getattr(pr, name)()
    quantile = {
        "kl_optimal": np.arctan,
        "uniform_ratio": lambda r: r,
        "polyexponential": np.log,
        "beta": lambda r: np.asarray(betainc(0.6, 0.6, (r - low) / (high - low))),
    }
    high, low = (float(r) for r in _ends_of(process))
    for grid, even in quantile.items():
        ts = getattr(pr, grid)(process, 8)
        pr.check_grid(ts)
        assert ts[0] == process.t_max and ts[-1] == process.t_clean
        places = even(np.concatenate([[high], ratios(process, ts[1:-1])]))
        np.testing.assert_allclose(np.diff(places), np.diff(places)[0], rtol=1e-6)


def _ends_of(process):
    high, low = ratios(process, jnp.stack([process.t_max, process.t_min]))
    return min(high, 1e3), max(low, 2e-3)


@x64
@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (1.0, 1.0), (2.0, 5.0), (0.3, 4.0)])
def test_beta_quantiles_invert_their_distribution(a, b):
    u = jnp.linspace(0, 1, 41)
    found = _beta_quantile(u, jnp.array(a), jnp.array(b))
    assert found[0] == 0 and found[-1] == 1
    np.testing.assert_allclose(betainc(a, b, found[1:-1]), u[1:-1], rtol=1e-10)


@x64
@pytest.mark.parametrize("s", [0.5, 1.0, 3.0])
def test_a_shift_multiplies_the_ratio(s):
    flow, ts = pr.rectified_flow(), jnp.linspace(0.0, 0.99, 12)
    np.testing.assert_allclose(ratios(flow, pr.shift(ts, s)), s * ratios(flow, ts), rtol=1e-12)
    assert pr.shift(jnp.array([0.0, 1.0]), s).tolist() == [0, 1]


def test_every_whole_number_of_steps_of_a_table():
    process = pr.from_betas(pr.linear_betas(100))
    for n in (1, 2, 3, 16, 33, 99, 100):
        ts = pr.trailing(process, n)
        pr.check_grid(ts)
        assert ts[0] == 99 and ts[-2] >= 0 and np.all(np.asarray(ts) == np.round(ts))


def test_new_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def grids(process, rho, a, b, s):
        traces.append(1)
        found = pr.polyexponential(process, 4, rho), pr.beta(process, 4, a, b)
        return *found, pr.shift(jnp.array([0.5]), s)

    one = grids(pr.edm(), 1.0, 0.6, 0.6, 3.0)
    two = grids(pr.edm(0.01, 40.0), 1.5, 0.5, 0.8, 2.0)
    assert len(traces) == 1 and all(jnp.any(a != b) for a, b in zip(one, two))


@pytest.mark.parametrize(
    "grid",
    [
        *(pr.uniform, pr.linspace, pr.uniform_lambda, pr.karras, pr.polyexponential),
        *(pr.uniform_ratio, pr.kl_optimal, pr.beta, pr.leading, pr.trailing, pr.simple),
        *(pr.quadratic, pr.lcm_times, pr.shifted(3.0), pr.stretched(0.1)),
        *(pr.discard_penultimate(pr.karras), pr.discard_penultimate(pr.leading)),
    ],
)
def test_grids_want_a_step(grid):
    with pytest.raises(ValueError, match="steps=0: a grid needs at least one"):
        grid(stable_diffusion(), 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pr.trailing(stable_diffusion(), 1001), "trailing=1001 on times 0 ... 999"),
        (lambda: pr.trailing(pr.rectified_flow(), 4), "a grid of a continuous process"),
        (lambda: pr.quadratic(stable_diffusion(), 500), "times must decrease"),
        (lambda: pr.lcm_times(stable_diffusion(), 51), "take at most 50"),
        (lambda: pr.lcm_times(stable_diffusion(), 4, 2000), "original=2000 on times 0 ... 999"),
        (lambda: pr.align_your_steps(pr.edm(), 4, (1.0, 2.0)), "decreasing positive"),
        (lambda: pr.align_your_steps(pr.edm(), 4, (1.0,)), "at least two"),
        (lambda: pr.align_your_steps(pr.edm(), 0, pr.AYS["stable_diffusion"]), "steps=0"),
    ],
)
def test_bad_numbers_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
