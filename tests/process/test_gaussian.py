"""The SDE against the textbook, kernels by composing them, time_of by going there and back."""

import functools

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
    span_of,
    times_of,
    wide,
)

both = pytest.mark.parametrize("double", [False, True], ids=["f32", "x64"])
_time_of = jax.jit(pr.time_of)


@both
@pytest.mark.parametrize("name", CONTINUOUS)
def test_sde_is_the_textbooks(name, double):
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        times = times_of(name, process, ends=False)
        times = np.minimum(times, 0.99) if name in SIGNAL_ENDS else times
        f = pr.drift(process, jnp.asarray(times))
        g2 = pr.diffusion2(process, jnp.asarray(times))
    tolerance = 1e-10 if double else 1e-5
    assert relative(f, TEXTBOOK[name].drift(wide(times))).max() < tolerance
    assert relative(g2, TEXTBOOK[name].diffusion2(wide(times))).max() < tolerance


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.usefixtures("x64")
def test_kernels_and_levels_are_the_textbooks(name):
    """q(x_t | x_s), q(x_s | x_t, x_0) and log-SNR from the papers' alpha and sigma alone."""
    process = PROCESSES[name]()
    s, t = _pairs(process)
    (a_s, a_t), (v_s, v_t) = (
        [fn(wide(u)) for u in (s, t)] for fn in (TEXTBOOK[name].alpha, TEXTBOOK[name].sigma)
    )
    shrink = a_t / a_s
    var = v_t**2 - shrink**2 * v_s**2
    kernel, bridge = pr.transition(process, s, t), pr.posterior(process, s, t)
    assert relative(kernel.shrink, shrink).max() < 1e-11
    assert relative(kernel.var, var).max() < 1e-11
    assert relative(bridge.on_x0, a_s * var / v_t**2).max() < 1e-11
    assert relative(bridge.on_xt, shrink * v_s**2 / v_t**2).max() < 1e-11
    assert relative(bridge.var, var * v_s**2 / v_t**2).max() < 1e-11
    level = 2 * np.log(a_t / v_t)
    assert np.abs(wide(pr.log_snr(process, t)) - level).max() < 1e-11


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.usefixtures("x64")
def test_sde_of_tables_integrates_to_the_betas(name):
    """Over one step g^2 integrates to -log(1 - beta) (variance is preserved, so g^2 = -2 f)."""
    process = PROCESSES[name]()
    nodes, weights = np.polynomial.legendre.leggauss(12)
    steps = np.array([1, 2, 10, 500, 900, 990])
    times = jnp.asarray(steps[:, None] - 0.5 + nodes / 2)
    g2 = np.asarray(pr.diffusion2(process, times))
    np.testing.assert_allclose(g2, -2 * np.asarray(pr.drift(process, times)), rtol=1e-9)
    found = (g2 * weights / 2).sum(1)
    np.testing.assert_allclose(found, -np.log1p(-betas_of(name)[steps]), rtol=1e-8)


def _pairs(process, n=64):
    """Times s < t inside the interval, some far apart and some close."""
    low, high = span_of(process)
    rng = np.random.default_rng(0)
    s, t = np.sort(rng.uniform(0.0, 0.999, (2, n)), axis=0)
    t[: n // 2] = s[: n // 2] + 0.01 * (1 - s[: n // 2])
    cast = lambda u: jnp.asarray((low + u * (high - low)).astype(process.t_max.dtype))  # noqa: E731
    return cast(s), cast(t)


@both
@pytest.mark.parametrize("name", PROCESSES)
def test_kernels_carry_marginals_to_marginals(name, double):
    tolerance = 1e-12 if double else 2e-6
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        s, t = _pairs(process)
        shrink, var = (wide(a) for a in pr.transition(process, s, t))
        (a_s, s_s), (a_t, s_t) = ([wide(a) for a in pr.scales(process, u)] for u in (s, t))
    assert np.all(var > 0)
    assert relative(shrink * a_s, a_t).max() < tolerance
    assert relative(shrink**2 * s_s**2 + var, s_t**2).max() < tolerance


@both
@pytest.mark.parametrize("name", PROCESSES)
def test_kernels_compose(name, double):
    """Chapman-Kolmogorov: r -> s -> t is r -> t."""
    tolerance = 1e-12 if double else 3e-6
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        s, t = _pairs(process)
        r = process.t_min + (s - process.t_min) / 2
        (k1, v1), (k2, v2), (k, v) = (
            [wide(a) for a in pr.transition(process, *ends)] for ends in ((r, s), (s, t), (r, t))
        )
    assert relative(k1 * k2, k).max() < tolerance
    # the variances carry the rounding of log-SNR, which is about 20 at the data's end
    assert relative(k2**2 * v1 + v2, v).max() < 20 * tolerance


@both
@pytest.mark.parametrize("name", PROCESSES)
def test_bridges_recover_the_marginal(name, double):
    """Averaging q(x_s | x_t, x_0) over q(x_t | x_0) gives q(x_s | x_0), mean and variance."""
    tolerance = 1e-12 if double else 2e-6
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        s, t = _pairs(process)
        on_x0, on_xt, var = (wide(a) for a in pr.posterior(process, s, t))
        (a_s, s_s), (a_t, s_t) = ([wide(a) for a in pr.scales(process, u)] for u in (s, t))
        shrink = wide(pr.transition(process, s, t).shrink)
    assert relative(on_x0 + on_xt * a_t, a_s).max() < tolerance
    assert relative(var + on_xt**2 * s_t**2, s_s**2).max() < tolerance
    # Bayes: Cov(x_s, x_t | x_0) / Var(x_t | x_0), the covariance being carried by the kernel
    assert relative(on_xt, shrink * s_s**2 / s_t**2).max() < tolerance


@pytest.mark.parametrize("name", PROCESSES)
def test_bridge_at_its_ends(name):
    process = PROCESSES[name]()
    middle = (process.t_min + process.t_max) / 2
    for t in (middle, process.t_max):
        assert [float(a) for a in pr.posterior(process, process.t_clean, t)] == [1.0, 0.0, 0.0]
        assert [float(a) for a in pr.posterior(process, t, t)] == [0.0, 1.0, 0.0]
        shrink, var = pr.transition(process, process.t_clean, t)
        alpha, sigma = pr.scales(process, t)
        assert float(shrink) == float(alpha) and float(var) == pytest.approx(float(sigma) ** 2)
        assert [float(a) for a in pr.transition(process, middle, middle)] == [1.0, 0.0]
    assert all(np.isfinite(float(a)) for a in pr.posterior(process, middle, process.t_max))


@both
@pytest.mark.parametrize("name", PROCESSES)
def test_log_snr_falls(name, double):
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        low, high = span_of(process)
        lam = pr.log_snr(process, jnp.linspace(low, high, 1001))
        assert np.all(np.diff(np.asarray(lam)) < 0)
        assert float(pr.log_snr(process, process.t_clean)) == np.inf
        assert (float(lam[-1]) == -np.inf) == (name in SIGNAL_ENDS)


def test_log_snr_values():
    assert float(pr.log_snr(pr.edm(), 4.0)) == pytest.approx(-2 * np.log(4), rel=1e-6)
    assert float(pr.log_snr(pr.rectified_flow(), 0.75)) == pytest.approx(-2 * np.log(3), rel=1e-6)


def _levels(process):
    """Log-SNR over the whole range, [-20, 20] where that is infinite."""
    ends = (float(pr.log_snr(process, t)) for t in (process.t_max, process.t_min))
    low, high = np.clip([*ends], -20, 20)
    return jnp.linspace(low + 1e-3, high - 1e-3, 257)


@both
@pytest.mark.parametrize("name", PROCESSES)
def test_time_of_is_the_inverse(name, double):
    tolerance = 1e-12 if double else 1e-5
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        lam = _levels(process)
        times = _time_of(process, lam)
        back = pr.log_snr(process, times)
        assert times.shape == lam.shape and times.dtype == lam.dtype
        again = _time_of(process, back)
        # where alpha(t) nears 0 two neighbouring floats t differ by more than that in lambda
        grain = np.spacing(np.asarray(times)) * pr.diffusion2(process, times)
        grain = np.abs(wide(grain / process.sigma(times) ** 2))
        span = float(process.t_max - process.t_min)
    error = np.abs(wide(back) - wide(lam))
    assert np.all(error <= tolerance * np.maximum(np.abs(wide(lam)), 1) + grain)
    assert np.median(grain) < tolerance
    assert np.abs(wide(again) - wide(times)).max() <= tolerance * span


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.usefixtures("x64")
def test_time_of_has_the_derivative_of_the_inverse(name):
    """dt/dlambda = -sigma^2 / g^2, with the textbook's g^2 and sigma where there is a textbook."""
    process = PROCESSES[name]()
    lam = _levels(process)[1:-1:16]
    slope = jax.jit(jax.vmap(jax.grad(pr.time_of, argnums=1), in_axes=(None, 0)))(process, lam)
    times = wide(_time_of(process, lam))
    if name in TEXTBOOK:
        expected = -(TEXTBOOK[name].sigma(times) ** 2) / TEXTBOOK[name].diffusion2(times)
        assert relative(slope, expected).max() < 1e-9
    else:
        h = 1e-4
        rise = wide(_time_of(process, lam + h)) - wide(_time_of(process, lam - h))
        keep = np.abs(times - np.round(times)) > 0.01  # tables have kinks at the integers
        assert relative(slope, rise / (2 * h))[keep].max() < 1e-4


@pytest.mark.parametrize("name", PROCESSES)
def test_time_of_stops_at_the_ends(name):
    process = PROCESSES[name]()
    lam = jnp.array([-jnp.inf, -80.0, 80.0, jnp.inf])
    value = jax.value_and_grad(lambda lam: _time_of(process, lam))
    times, slopes = jax.vmap(value)(lam)
    span = float(process.t_max - process.t_min)
    low, high = span_of(process)
    np.testing.assert_allclose(times, [high, high, low, low], atol=2e-7 * span)
    assert np.all(np.isfinite(slopes)) and np.all(np.asarray(slopes) <= 0)


def test_perturb_fits_times_to_samples():
    process = pr.rectified_flow()
    x0 = {"image": jnp.ones((2, 3, 4)), "kernel": jnp.ones((2, 5))}
    eps = jax.tree.map(lambda leaf: -leaf, x0)
    x = pr.perturb(process, jnp.array([0.25, 1.0]), x0, eps)
    assert x["image"].shape == (2, 3, 4)
    np.testing.assert_allclose(x["image"][:, 0, 0], [0.5, -1.0])
    np.testing.assert_allclose(x["kernel"][:, 0], [0.5, -1.0])
    tokens = pr.perturb(process, jnp.full((2, 3), 0.25), x0["image"], eps["image"])
    np.testing.assert_allclose(tokens, np.full((2, 3, 4), 0.5))


def test_perturb_draws_the_marginal():
    """Mean alpha x_0 and variance sigma^2, from noise."""
    process, n = pr.vp_linear(), 20000
    noise = jax.random.normal(jax.random.key(0), (n,))
    x = np.asarray(pr.perturb(process, 0.3, jnp.full((n,), 2.0), noise))
    alpha, sigma = (float(a) for a in pr.scales(process, 0.3))
    assert abs(x.mean() - 2 * alpha) < 4 * sigma / n**0.5
    assert abs(x.var() / sigma**2 - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.parametrize("ends", [(1.0, 0.5, 0.0), (0.0, 1.0, 0.5), (1.0, 1.0, 0.0)])
def test_from_scales_wants_growing_times(ends):
    with pytest.raises(ValueError, match="t_clean <= t_min < t_max"):
        pr.from_scales(jnp.ones_like, lambda t: t, *ends)


def _tilted(slope, t):
    return slope * t


def test_a_process_is_an_argument_under_jit():
    traces = []

    @jax.jit
    def sigma(process, t):
        traces.append(1)
        return pr.scales(process, t)[1]

    for slope in (1.0, 2.0):
        scale = jax.tree_util.Partial(_tilted, jnp.float32(slope))
        process = pr.from_scales(jnp.ones_like, scale, 0.01, 10.0 * slope)
        assert float(sigma(process, 3.0)) == 3 * slope
    assert len(traces) == 1


def test_from_scales_has_all_that_follows():
    """An own process: alpha = 1/(1 + t), sigma = t: f = -1/(1 + t), g^2 = 2t + 2t^2/(1 + t)."""
    process = pr.from_scales(lambda t: 1 / (1 + t), lambda t: t, 0.0, 9.0)
    t = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(pr.drift(process, t), -1 / (1 + t), rtol=1e-6)
    np.testing.assert_allclose(pr.diffusion2(process, t), 2 * t + 2 * t**2 / (1 + t), rtol=1e-6)
    lam = functools.partial(pr.log_snr, process)
    np.testing.assert_allclose(pr.time_of(process, lam(t)), t, rtol=1e-5)
