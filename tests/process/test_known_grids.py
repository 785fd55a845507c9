"""Grids and tables against the numbers of the libraries that made them known.

`schedules.npz` holds what k-diffusion 0.1.1, diffusers 0.42.1 (also in float64, by replacing its
float32 constants) and the published tables of Align Your Steps give: 514 arrays. `ours` says which
of our functions is meant by a name, so an array that nothing here explains fails.
"""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import process as pr
from jaxdiff import samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate, Now

KNOWN = np.load(pathlib.Path(__file__).with_name("schedules.npz"))
SINGLE = 2.0**-24  # half a unit in the last place of single precision
BETAS = {
    "linear": pr.linear_betas,
    "scaled_linear_sd": pr.scaled_linear_betas,
    "squaredcos": pr.cosine_betas,
    "sigmoid": pr.sigmoid_betas,
    "laplace": pr.laplace_betas,
}
OPEN = {  # DDIM, DDPM, PNDM and the samplers of k-diffusion
    "leading_off0": pr.leading,
    "leading_off1": lambda p, n: pr.leading(p, n, 1),
    "trailing_off0": pr.trailing,
    "linspace_off0": pr.linspace,
}
HALF_OPEN = {  # the multistep solvers of diffusers: the same words, other times
    "leading_off0": pr.discard_penultimate(pr.leading),
    "leading_off1": pr.discard_penultimate(OPEN["leading_off1"]),
    "trailing_off0": pr.trailing,
    "linspace_off0": lambda p, n: jnp.round(pr.discard_penultimate(pr.linspace)(p, n)),
}
NOISE = {
    "karras": pr.karras,
    "exponential": pr.uniform_lambda,
    "lu": pr.uniform_lambda,
    "beta": pr.beta,
}
CONTINUOUS = ("EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete")
STAGED = {"HeunDiscrete": samplers.heun, "KDPM2Discrete": samplers.dpm_2}
WHOLE = ("DDIM", "DDPM")
ENDS_AT_T_MIN = ("DEISMultistep", "SASolver")
FAMILIES = sorted({"/".join(name.split("/")[:2]) for name in KNOWN.files})


def table(between=None):
    return pr.from_betas(pr.scaled_linear_betas(), between)


def ratios(process, ts):
    alpha, sigma = pr.scales(process, ts)
    return np.asarray(sigma / alpha)


@functools.cache
def spaced(half_open, spacing, n):
    """Times on Stable Diffusion's table, and sigma/alpha there as diffusers interpolates it."""
    process = table(pr.by_ratio)
    ts = (HALF_OPEN if half_open else OPEN)[spacing](process, n)
    return np.asarray(ts), ratios(process, ts)


@functools.cache
def by_noise(grid, n):
    """The same for grids in sigma/alpha, where diffusers reads the times off a log-linear curve."""
    process = table(pr.by_log_ratio)
    ts = NOISE[grid](process, n)
    return np.asarray(ts), ratios(process, ts)


@functools.cache
def watched(sampler):
    """(one step of a sampler, compiled; the times at which it asked its denoiser so far)."""
    found = []

    def keep(bits):
        found.append(np.asarray(bits, np.uint32).view(np.float64)[0])

    def answer(x, t, now):
        # as bits: the callback's own thread may not know of double precision
        jax.debug.callback(keep, jax.lax.bitcast_convert_type(t, jnp.uint32))
        return Estimate(jnp.zeros_like(x))

    @jax.jit
    def step(process, keys, t, s):
        now = Now(t, s, jnp.array(0), jnp.array(1), keys, {})
        denoise, x = Denoiser(process, answer), jnp.ones((1, 1))
        return sampler().step(now, denoise, sampler().init(x))[0].x

    return step, found


def asked(sampler, process, ts):
    """The times at which a sampler asks its denoiser on a grid."""
    step, found = watched(sampler)
    found.clear()
    keys = jax.random.split(jax.random.key(0), 1)
    for t, s in itertools.pairwise(ts):
        step(process, keys, t, s)
    jax.effects_barrier()
    return -np.sort(-np.array(found))


def runge_kutta(ts, n):
    """Where PNDM asks: thrice four stages, then once a step.

    The middle of a step is taken to lie floor(N/n)/2 before its end. For leading and trailing it
    does; in its linspace, where the steps are longer, that is no middle.
    """
    half = 1000 // n // 2
    stages = [[t, s + half, s + half, s] for t, s in zip(ts[:3], ts[1:4], strict=True)]
    return np.concatenate([*stages, ts[3:]])


def diffusers(name, spacing, n, what):
    n, name = int(n), name.removesuffix("Scheduler")
    if spacing in NOISE:
        ts, sigmas = by_noise(spacing, n)
        return _of_noise(name, spacing, ts, sigmas) if what == "timesteps" else _last(name, sigmas)
    if name in (*WHOLE, "PNDM"):
        ts = np.round(spaced(False, spacing, n)[0][:-1])
        return runge_kutta(ts, n) if name == "PNDM" else ts
    ts, sigmas = spaced(name not in (*CONTINUOUS, *STAGED), spacing, n)
    if name in STAGED:
        return _staged(name, ts, sigmas, what)
    if name in ENDS_AT_T_MIN:
        sigmas = np.append(sigmas[:-1], ratios(table(), jnp.zeros(1)))
    return ts[:-1] if what == "timesteps" else sigmas


def _of_noise(name, grid, ts, sigmas):
    """What the network is told: Euler the time itself, the multistep solvers a whole number."""
    if name in CONTINUOUS:
        return ts[:-1]
    return np.round(ts[:-1]) if grid in ("karras", "lu") else np.floor(ts[:-1])


def _last(name, sigmas):
    """DEIS repeats its last sigma, so that its last step goes nowhere. Ours ends at 0."""
    return np.append(sigmas[:-1], sigmas[-2]) if name in ENDS_AT_T_MIN else sigmas


def _staged(name, ts, sigmas, what):
    """Two evaluations a step: what these lists repeat is where our solvers ask.

    The stage of DPM2 lies half-way in log(sigma), and diffusers reads its time off a log-linear
    curve, though it read the sigmas of the grid off a linear one.
    """
    process = table(pr.by_log_ratio)
    if what == "timesteps" and name == "KDPM2Discrete":
        same = pr.time_of(process, -2 * jnp.log(sigmas[:-1]))
        found = asked(STAGED[name], process, np.append(same, -1.0))
        found[::2] = ts[:-1]
        return found
    if what == "timesteps":
        return asked(STAGED[name], process, ts)
    ends = [0.0, 0.0] if name == "KDPM2Discrete" else []
    return np.concatenate([sigmas[:1], np.repeat(sigmas[1:-1], 2), sigmas[-1:], ends])


def tables(kind, name, precision):
    return table_of(kind, name)


@functools.cache
def table_of(kind, name):
    betas = BETAS[name]()
    betas = pr.zero_snr(betas) if kind.endswith("_zsnr") else betas
    if kind.startswith("betas"):
        return betas
    return np.asarray(pr.from_betas(betas).alpha(jnp.arange(1000.0))) ** 2


def k_diffusion(grid, n):
    kind, _, rho = grid.partition("_rho")
    if kind == "vp":
        vp = pr.vp_linear()
        return ratios(vp, pr.linspace(vp, int(n)))
    grids = {
        "karras": lambda p, n: pr.karras(p, n, float(rho)),
        "polyexponential": lambda p, n: pr.polyexponential(p, n, float(rho)),
        "exponential": pr.uniform_lambda,
    }
    return grids[kind](pr.edm(), int(n))


def flow(shift, n, _):
    """Diffusers shifts its smallest time as well, and then all of them."""
    s = float(shift.removeprefix("shift"))
    process = pr.rectified_flow(t_min=pr.shift(jnp.array(0.001), s))
    return pr.shifted(s)(process, int(n))


def distilled(grid, _, n, what):
    return grid(table(), int(n))[:-1]


MODELS = {"": "stable_diffusion", "XL": "stable_diffusion_xl", "Video": "stable_video"}


def align_your_steps(name):
    model = MODELS[
        name.removeprefix("StableDiffusion").removesuffix("Sigmas").removesuffix("Timesteps")
    ]
    if name.endswith("Timesteps"):
        return pr.AYS_TIMES[model]
    return pr.align_your_steps(pr.edm(0.002, 1000.0), 10, pr.AYS[model])


OTHERS = {
    "kdiff": k_diffusion,
    "FlowMatchEuler": flow,
    "LCM": functools.partial(distilled, pr.lcm_times),
    "TCD": functools.partial(distilled, pr.trailing),
    "AYS": align_your_steps,
}


def ours(name):
    head, *rest = name.split("/")
    if head in OTHERS:
        return OTHERS[head](*rest)
    of = diffusers if head.endswith("Scheduler") else tables
    return of(head, *rest)


def slack(name, known):
    """What a number may differ by: nothing for integers, 1e-12 in double precision.

    Sums of a thousand roundings in single precision walk some 128 half units away, or 4 where there
    is no sum. A table that ends at alpha = 0 has no relative accuracy there in anyone's arithmetic.
    """
    if np.issubdtype(known.dtype, np.integer):
        return 0.0
    if name.endswith("/f32"):
        return SINGLE * (4 * known if name.startswith("betas/") else 128)
    scale = np.maximum(np.abs(known), 1.0 if "_zsnr" in name or "timesteps" in name else 0.0)
    return 1e-12 * scale


def size(name):
    """Steps of a grid; 0 for what is none."""
    parts = [int(part) for part in name.split("/") if part.isdigit()]
    return parts[0] if parts else 0


# Each number of steps is compiled anew.
least_or_all = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])


@least_or_all
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("x64")
def test_every_array(family, every):
    names = [n for n in KNOWN.files if n.startswith(f"{family}/") or n == family]
    least = min(map(size, names))
    for name in (n for n in names if every or size(n) == least):
        known, found = KNOWN[name], np.asarray(ours(name))
        assert found.shape == known.shape, name
        assert np.all(np.abs(found - known) <= slack(name, known)), name


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", pr.AYS_TIMES)
def test_align_your_steps_in_times_and_in_noise(model):
    """The published times are whole; sigma = 0.399 of the first model lies between two of them."""
    ts = pr.align_your_steps(table(), 10, pr.AYS[model])[:-1]
    np.testing.assert_allclose(pr.AYS_TIMES[model], ts, atol=0.57, rtol=0)


@pytest.mark.usefixtures("x64")
def test_align_your_steps_between_its_entries():
    process, known = pr.edm(0.002, 1000.0), pr.AYS["stable_video"]
    wide = np.asarray(pr.align_your_steps(process, 19, known))
    np.testing.assert_allclose(wide[:-1:2], known, rtol=1e-12)
    between = np.sqrt(wide[0:-3:2] * wide[2:-1:2])  # halfway in the logarithm
    np.testing.assert_allclose(wide[1:-2:2], between, rtol=1e-12)
