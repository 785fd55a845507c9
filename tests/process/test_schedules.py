"""alpha, sigma against the papers' formulas in the widest float, tables against their products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import process as pr
from tests.process.cases import (
    CONTINUOUS,
    PROCESSES,
    SIGNAL_ENDS,
    TABLES,
    TEXTBOOK,
    betas_of,
    relative,
    times_of,
    wide,
)


def _with_tiny(name, process):
    """Times of the interval and, where the process reaches to t_clean = 0, far below t_min."""
    times = times_of(name, process)
    if float(process.t_clean) == 0:
        small = np.logspace(-6, -3, 61).astype(times.dtype) * float(process.t_max)
        times = np.concatenate([small, times])
    return times


@pytest.mark.parametrize("name", CONTINUOUS)
def test_scales_keep_single_precision_everywhere(name):
    process = PROCESSES[name]()
    times = _with_tiny(name, process)
    alpha, sigma = pr.scales(process, jnp.asarray(times))
    truth = TEXTBOOK[name]
    # at the end of the cosine 1 - t is what counts, and the paper's own formula forgets it
    inner = wide(times) < (1 - 1e-6 if name in SIGNAL_ENDS else np.inf)
    assert relative(alpha, truth.alpha(wide(times)))[inner].max() < 1e-6
    assert relative(sigma, truth.sigma(wide(times))).max() < 1e-6


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.usefixtures("x64")
def test_scales_in_double_precision(name):
    process = PROCESSES[name]()
    times = times_of(name, process, ends=False)
    alpha, sigma = pr.scales(process, jnp.asarray(times))
    truth = TEXTBOOK[name]
    assert relative(alpha, truth.alpha(wide(times))).max() < 1e-11
    assert relative(sigma, truth.sigma(wide(times))).max() < 1e-11


@pytest.mark.parametrize("name", PROCESSES)
def test_ends_are_exact(name):
    process = PROCESSES[name]()
    alpha, sigma = pr.scales(process, process.t_clean)
    assert (float(alpha), float(sigma)) == (1.0, 0.0)
    alpha, sigma = pr.scales(process, process.t_max)
    assert (float(alpha) == 0.0) == (name in SIGNAL_ENDS)
    if name in SIGNAL_ENDS:
        assert float(sigma) == 1.0


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("double", [False, True])
def test_tables_reproduce_the_products(name, double):
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        alpha, sigma = pr.scales(process, jnp.arange(1000))
    product = np.cumprod(1 - wide(betas_of(name)))
    tolerance = 1e-13 if double else 1e-6
    floor = 1e-15 if double else 0  # 1 - (1 - b) keeps 16 digits of 1, not of the last alpha
    assert np.all(np.abs(wide(alpha) - np.sqrt(product)) <= tolerance * np.sqrt(product) + floor)
    assert relative(sigma, np.sqrt(1 - product)).max() < 1e3 * tolerance if double else 1e-6


def test_tables_against_printed_products():
    """alphas_cumprod of diffusers' DDPMScheduler in float64, linear and squaredcos_cap_v2."""
    with jax.enable_x64(True):
        linear = pr.from_betas(pr.linear_betas())
        cosine = pr.from_betas(pr.cosine_betas())
        zero = pr.from_betas(pr.zero_snr(pr.linear_betas()))
        at = [0, 1, 499, 998, 999]
        tables = (linear, cosine, zero)
        linear, cosine, zero = (np.asarray(p.alpha(jnp.asarray(at))) ** 2 for p in tables)
    expected = [0.9999, 0.99978009207207208, 0.078587242881778235]
    expected += [4.1181936381384443e-05, 4.0358297653756754e-05]
    np.testing.assert_allclose(linear, expected, rtol=1e-13)
    assert cosine[[0, 3, 4]] == pytest.approx(
        [0.99995871577517803, 2.4287669070348544e-06, 2.4287669070348567e-09], rel=1e-13
    )
    expected = [0.9999, 0.99977932543315307, 0.076028750547114776, 4.2132624650880725e-09, 0.0]
    np.testing.assert_allclose(zero, expected, rtol=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_tables_fall_between_the_integers(name):
    process = PROCESSES[name]()
    times = np.linspace(-1, 999, 8001).astype(np.float32)
    alpha, sigma = (np.asarray(a) for a in pr.scales(process, jnp.asarray(times)))
    # where a beta is small the cosine of a small angle stands still in single precision
    assert np.all(np.diff(sigma)[alpha[1:] > 1e-3] >= 0) and np.all(np.diff(alpha) <= 0)
    assert np.abs(alpha**2 + sigma**2 - 1).max() < 5e-7


@pytest.mark.parametrize("betas", [[0.1, 1.2], [0.1, -0.1], [0.1, float("nan")]])
def test_betas_out_of_range(betas):
    with pytest.raises(ValueError, match=r"betas\[1\].*\[0, 1\]"):
        pr.from_betas(betas)


def test_one_beta_is_no_table():
    with pytest.raises(ValueError, match="vector of at least two"):
        pr.from_betas([0.1])


def test_zero_snr_keeps_the_first_and_ends_at_zero():
    betas = pr.zero_snr(pr.linear_betas())
    product = np.cumprod(1 - betas)
    assert betas[0] == pytest.approx(1e-4, rel=1e-10)
    assert betas[-1] == 1.0 and product[-1] == 0.0
    root, old = np.sqrt(product), np.sqrt(np.cumprod(1 - pr.linear_betas()))
    # an affine map of sqrt(abar): second differences keep their ratios
    slopes = np.diff(root) / np.diff(old)
    assert np.ptp(slopes) < 1e-9 * slopes[0]


def test_cosine_betas_are_capped():
    betas = pr.cosine_betas()
    assert betas.max() == 0.999 and np.all(np.diff(betas) > 0)
    abar = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - betas[:-1]), abar[1:-1] / abar[0], rtol=1e-11)


def test_linear_betas():
    betas = pr.linear_betas(5, 0.1, 0.3)
    np.testing.assert_allclose(betas, [0.1, 0.15, 0.2, 0.25, 0.3], rtol=1e-15)


@pytest.mark.parametrize("make", [pr.ve, pr.edm])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_sigmas_must_grow(make, ends):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        make(*ends)


def test_numbers_may_be_integers_arrays_or_traced():
    """New numbers do not retrace, and whatever is a number will do."""
    traces = []

    @jax.jit
    def sigma(low, high, t):
        traces.append(1)
        return pr.ve(low, high).sigma(t)

    assert float(sigma(0.01, 50.0, 1.0)) == pytest.approx(50, rel=1e-6)
    assert float(sigma(0.02, 80.0, 1.0)) == pytest.approx(80, rel=1e-6)
    assert len(traces) == 1
    assert float(pr.edm(1, 80).t_max) == 80.0
    assert float(pr.edm(jnp.float32(1), jnp.float32(80)).t_min) == 1.0
