"""Restart sampling and DPM-Solver's adaptive steps: against Gaussians, and k-diffusion's count."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.trees import Tape
from jaxdiff.types import RENOISE, Estimate, Sampler, State
from tests.problems import PROCESSES, flow_map, gaussian, keys_of, point, vector

KNOWN = np.load(pathlib.Path(__file__).with_name("k_diffusion.npz"))
x64 = pytest.mark.usefixtures("x64")


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


def test_rows_of_restarts_are_one_path():
    """Three intervals: the noisiest first, wherever it is given; two at one point, in turn."""
    proc = process.edm()
    ts = jnp.array([80.0, 10.0, 3.0, 1.0, 0.3, 0.0])
    intervals = [(0.3, 0.9, 2, 2), (3.0, 20.0, 3, 1), (0.31, 0.4, 1, 1)]
    rows = jax.jit(functools.partial(samplers.restart, process=proc, intervals=intervals))(ts)
    t, s, u = (np.asarray(a) for a in (rows.t, rows.s, rows.u))
    assert len(t) == 5 + 4 + 3 + 1 and np.all(t > s) and np.all(u[:-1] == t[1:]) and u[-1] == s[-1]
    jumps = np.flatnonzero(u > s)
    assert s[jumps].tolist() == pytest.approx([3.0, 0.3, 0.3, 0.3])
    # 0.9 and 0.4 lie below the point before, 1.0: an interval is a step of the grid at least
    assert u[jumps].tolist() == pytest.approx([20.0, 1.0, 1.0, 1.0])
    assert np.all(np.asarray(ts)[rows.i] >= t) and np.all(np.diff(rows.k) == 1)


def exact_flow(dist):
    """A sampler whose steps are the probability flow itself."""

    def step(now, denoise, state):
        x = flow_map(dist, denoise.process, state.x, now.t, now.s)
        return State(x), Estimate(state.x)

    return Sampler(State, step)


@x64
@pytest.mark.parametrize("name", [slow("edm"), "vp_linear"])
def test_a_restart_keeps_the_law_and_forgets_errors(name):
    """What is left of x at the start shrinks by the flow from high to low; the law stays."""
    proc, variance, low, high = PROCESSES[name](), 0.6, 0.5, 2.0
    dist = exact.gaussian(jnp.zeros(1), variance * jnp.eye(1))
    denoise = exact.denoiser(dist, proc)
    ts = process.time_of(proc, -2 * jnp.log(jnp.array([4.0, 1.5, low, 0.2])))

    def law(repeat):
        rows = samplers.restart(ts, proc, [(low, high, 3, repeat)])

        def end(x, z):
            return samplers.run(Tape({RENOISE: z}), denoise, exact_flow(dist), rows, x)[0, 0]

        still = jnp.zeros((len(rows.t), 1, 1))
        kept, drawn = jax.grad(end, argnums=(0, 1))(jnp.ones((1, 1)), still)
        return kept[0, 0], jnp.sum(drawn**2)

    (begun_at, begun_by), (at, by) = process.scales(proc, ts[0]), process.scales(proc, ts[-1])
    begun, ended = (a**2 * variance + v**2 for a, v in ((begun_at, begun_by), (at, by)))
    kept, drawn = jax.jit(law, static_argnums=0)(3)
    shrunk = np.sqrt((variance + low**2) / (variance + high**2))  # of x/alpha
    assert kept == pytest.approx(np.sqrt(ended / begun) * shrunk**3, rel=1e-9)
    assert kept**2 * begun + drawn == pytest.approx(float(ended), rel=1e-9)


@pytest.mark.parametrize("name", ["flow", slow("zero_table")])
def test_restarts_leave_no_noise(name):
    proc, target = PROCESSES[name](), jnp.array([0.7, -0.4])
    x = proc.sigma(proc.t_max) * vector(0, 2, 2)
    again = functools.partial(samplers.restart, process=proc, intervals=[(0.1, 1.0, 2, 2)])

    @jax.jit
    def walks():
        draw = functools.partial(samplers.sample, jax.random.key(0), point(target, proc), start=x)
        return [draw(samplers.dpmpp_2m(), steps=n, rows=again) for n in (1, 7)]

    for found in walks():
        assert jnp.max(jnp.abs(found - target[None])) < 1e-4


def test_bad_intervals_are_refused():
    proc, ts = process.edm(), jnp.array([80.0, 1.0, 0.0])
    for bad in ((0.0, 1.0, 1, 1), (2.0, 1.0, 1, 1)):
        with pytest.raises(ValueError, match="0 < low < high"):
            samplers.restart(ts, proc, [bad])
    for bad in ((0.1, 1.0, 0, 1), (0.1, 1.0, 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            samplers.restart(ts, proc, [bad])


def known_mixture():
    return exact.mixture(*(jnp.asarray(KNOWN[f"in/gmm_{k}"]) for k in ("w", "mu", "cov")))


@x64
def test_adaptive_takes_the_steps_of_k_diffusion():
    """48 evaluations, rms 4.7e-3 for its 64 starts, as measured there; and few more are enough."""
    denoise, x = exact.denoiser(known_mixture(), process.edm()), 80 * jnp.asarray(KNOWN["in/z2"])

    @jax.jit
    def walk(rtol, atol):
        return samplers.dpm_adaptive(
            denoise, x, rtol=rtol, atol=atol, shared=True, clean=False, limit=4000
        )

    truth, found, close = walk(1e-8, 1e-8), walk(0.05, 0.0078), walk(1e-4, 1e-5)
    assert all(jnp.all(w.done) for w in (truth, found, close))
    rms = [float(jnp.sqrt(jnp.mean((w.x - truth.x) ** 2))) for w in (found, close)]
    assert found.evaluations.tolist() == [48] * 64 and rms[0] == pytest.approx(4.7e-3, rel=0.01)
    assert close.evaluations[0] == 195 and rms[1] == pytest.approx(1.6e-5, rel=0.05)


@pytest.mark.parametrize(
    "name, order",
    [("zero_table", 3), slow("edm", 2), slow("edm", 3), slow("flow", 2), slow("flow", 3)],
)
def test_adaptive_ends_where_the_flow_ends(name, order):
    """From alpha = 0 too; and a sample does not see its batch."""
    proc, dist = PROCESSES[name](), gaussian(2)
    denoise, x = exact.denoiser(dist, proc), proc.sigma(proc.t_max) * vector(1, 3, 2)

    @jax.jit
    def walk(x):
        return samplers.dpm_adaptive(denoise, x, order=order, rtol=1e-3, atol=1e-3)

    found, again = walk(x), walk(x.at[0].multiply(2.0))
    assert jnp.all(found.done) and jnp.all(found.rejected < found.evaluations)
    truth = flow_map(dist, proc, x, proc.t_max, proc.t_clean)
    assert jnp.max(jnp.abs(found.x - truth)) < 2e-2
    assert jnp.all(again.x[1:] == found.x[1:]) and jnp.all(again.x[0] != found.x[0])
    assert jnp.all(again.evaluations[1:] == found.evaluations[1:])


def test_adaptive_draws_noise_and_keeps_the_law():
    dist, proc = gaussian(2), process.edm()
    denoise, x = exact.denoiser(dist, proc), 80 * vector(1, 4000, 2)

    @jax.jit
    def walk(keys):
        return samplers.dpm_adaptive(denoise, x, keys=keys, rtol=0.02, atol=0.02)

    one, two = walk(keys_of(4000)).x, walk(keys_of(4000, seed=1)).x
    assert jnp.mean(jnp.abs(one - two)) > 0.1
    off = jnp.cov(one.T) - exact.covariance(dist)
    assert jnp.max(jnp.abs(off)) < 0.1 and jnp.max(jnp.abs(one.mean(0) - dist.means[0])) < 0.1


def test_adaptive_that_does_not_arrive_says_so():
    denoise = exact.denoiser(gaussian(2), process.edm())
    found = jax.jit(lambda x: samplers.dpm_adaptive(denoise, x, limit=2))(80 * vector(1, 2, 2))
    assert not jnp.any(found.done) and found.evaluations.tolist() == [7, 7]
    cases: list[tuple[dict[str, Any], str]] = [({"order": 1}, "order=1"), ({"limit": 0}, "limit=0")]
    for bad, match in cases:
        with pytest.raises(ValueError, match=match):
            samplers.dpm_adaptive(denoise, jnp.ones((2, 2)), **bad)
