"""Grids and tables against the numbers of the libraries that made them known, and in closed form.

`schedules.npz` holds what k-diffusion 0.1.1, diffusers 0.42.1 (in float64) and the published tables
of Align Your Steps give.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import betainc

from jaxdiff import process as pr
from jaxdiff.process.noise_grids import _beta_quantile

KNOWN = np.load(pathlib.Path(__file__).with_name("schedules.npz"))
BETAS = {
    "linear": pr.linear_betas,
    "scaled_linear_sd": pr.scaled_linear_betas,
    "squaredcos": pr.cosine_betas,
    "sigmoid": pr.sigmoid_betas,
    "laplace": pr.laplace_betas,
}
x64 = pytest.mark.usefixtures("x64")


def counts(prefix, suffix=""):
    """The numbers of steps for which a grid is known."""
    found = [k for k in KNOWN.files if k.startswith(prefix + "/") and k.endswith(suffix)]
    assert found, prefix
    return sorted(int(k.removeprefix(prefix + "/").removesuffix(suffix)) for k in found)


# Each number of steps is compiled anew.
some_or_all = pytest.mark.parametrize(
    "chosen", [slice(None, None, 3), pytest.param(slice(None), marks=pytest.mark.slow)]
)


def ratios(process, ts):
    alpha, sigma = pr.scales(process, ts)
    return np.asarray(sigma / alpha)


def close(found, key):
    np.testing.assert_allclose(found, KNOWN[key], rtol=1e-12, atol=0)


def stable_diffusion():
    return pr.from_betas(pr.scaled_linear_betas())


@x64
@pytest.mark.parametrize("name", BETAS)
def test_tables_are_those_of_diffusers(name):
    betas = BETAS[name]()
    close(betas, f"betas/{name}/f64")
    process = pr.from_betas(betas)
    close(process.alpha(jnp.arange(1000.0)) ** 2, f"alphas_cumprod/{name}/f64")


@x64
@pytest.mark.parametrize("name", ["linear", "scaled_linear_sd", "squaredcos"])
def test_tables_without_signal_at_their_end_are_those_of_diffusers(name):
    betas = pr.zero_snr(BETAS[name]())
    np.testing.assert_allclose(betas, KNOWN[f"betas_zsnr/{name}/f64"], rtol=0, atol=1e-12)
    alpha = pr.from_betas(betas).alpha(jnp.arange(1000.0))
    known = KNOWN[f"alphas_cumprod_zsnr/{name}/f64"]
    np.testing.assert_allclose(alpha**2, known, rtol=0, atol=1e-12)
    assert float(alpha[-1]) == 0


@x64
@some_or_all
@pytest.mark.parametrize("rho", [3, 5, 7, 9])
def test_karras_is_that_of_k_diffusion(rho, chosen):
    for n in counts(f"kdiff/karras_rho{rho}")[chosen]:
        close(pr.karras(pr.edm(), n, rho), f"kdiff/karras_rho{rho}/{n}")


@x64
@some_or_all
def test_the_other_grids_of_k_diffusion(chosen):
    edm, vp = pr.edm(), pr.vp_linear()
    for n in counts("kdiff/exponential")[chosen]:
        close(pr.uniform_lambda(edm, n), f"kdiff/exponential/{n}")
        close(ratios(vp, pr.linspace(vp, n)), f"kdiff/vp/{n}")
        for rho in ("1", "1.5", "0.7"):
            close(pr.polyexponential(edm, n, float(rho)), f"kdiff/polyexponential_rho{rho}/{n}")


@x64
@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("karras", pr.karras),
        ("exponential", pr.uniform_lambda),
        ("lu", pr.uniform_lambda),
        ("beta", pr.beta),
    ],
)
def test_noise_grids_on_a_table_are_those_of_diffusers(name, grid):
    process, place = stable_diffusion(), f"DPMSolverMultistepScheduler/{name}"
    for n in counts(place, "/sigmas"):
        close(ratios(process, grid(process, n)), f"{place}/{n}/sigmas")


@some_or_all
@pytest.mark.parametrize("scheduler", ["DDIM", "DDPM"])
def test_times_on_a_table_are_those_of_diffusers(scheduler, chosen):
    process, place = stable_diffusion(), f"{scheduler}Scheduler"
    spread = {
        "leading_off0": pr.leading,
        "leading_off1": lambda p, n: pr.leading(p, n, 1),
        "trailing_off0": pr.trailing,
        "linspace_off0": lambda p, n: jnp.round(pr.linspace(p, n)),
    }
    for name, grid in spread.items():
        for n in counts(f"{place}/{name}", "/timesteps")[chosen]:
            known = KNOWN[f"{place}/{name}/{n}/timesteps"]
            assert grid(process, n)[:-1].tolist() == known.tolist(), (name, n)


def test_times_of_distilled_models_are_those_of_diffusers():
    process = stable_diffusion()
    for name, grid in (("LCM", pr.lcm_times), ("TCD", pr.trailing)):
        for n in counts(f"{name}/orig50", "/timesteps"):
            known = KNOWN[f"{name}/orig50/{n}/timesteps"]
            assert grid(process, n)[:-1].tolist() == known.tolist(), (name, n)


@x64
@some_or_all
@pytest.mark.parametrize("s", ["1", "1.15", "3"])
def test_shifted_times_are_those_of_diffusers(s, chosen):
    """Diffusers shifts its smallest time as well, and then all of them."""
    flow = pr.rectified_flow(t_min=pr.shift(jnp.array(0.001), float(s)))
    for n in counts(f"FlowMatchEuler/shift{s}", "/sigmas")[chosen]:
        close(pr.shifted(float(s))(flow, n), f"FlowMatchEuler/shift{s}/{n}/sigmas")


@x64
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("StableDiffusionSigmas", "stable_diffusion"),
        ("StableDiffusionXLSigmas", "stable_diffusion_xl"),
        ("StableDiffusionVideoSigmas", "stable_video"),
    ],
)
def test_align_your_steps(key, name):
    process = pr.edm(0.002, 1000.0)
    close(pr.align_your_steps(process, 10, pr.AYS[name]), f"AYS/{key}")
    wide = np.asarray(pr.align_your_steps(process, 19, pr.AYS[name]))
    np.testing.assert_allclose(wide[:-1:2], KNOWN[f"AYS/{key}"][:-1], rtol=1e-12)
    between = np.sqrt(wide[0:-3:2] * wide[2:-1:2])  # halfway in the logarithm
    np.testing.assert_allclose(wide[1:-2:2], between, rtol=1e-12)


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
    [pr.polyexponential, pr.uniform_ratio, pr.kl_optimal, pr.beta, pr.trailing, pr.quadratic],
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
