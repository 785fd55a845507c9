"""Adams, DPM-Solver, EDM's churn: against k-diffusion's numbers, their orders, their first steps.

`k_diffusion.npz` holds what k-diffusion 0.1.1 makes of 64 starts, in float64, on the exact denoiser
of a mixture of five Gaussians: sampler/grid/number of steps.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.types import Now, State
from tests.problems import PROCESSES, flow_map, gaussian, keys_of, vector

KNOWN = np.load(pathlib.Path(__file__).with_name("k_diffusion.npz"))
PEERS = {
    "dpm_2": samplers.dpm_2(),
    "dpmpp_2s": samplers.dpmpp_2s(),
    "euler": samplers.euler(),
    "heun": samplers.heun(0.0),
    "lms2": samplers.adams(2, c=0.0),
    "lms3": samplers.adams(3, c=0.0),
    "lms4": samplers.adams(4, c=0.0),
    "dpmpp_2m": samplers.dpmpp_2m(),
    "dpmpp_2m_sde_midpoint_eta0": samplers.dpmpp_2m(jnp.zeros(())),
    "dpmpp_2m_sde_heun_eta0": samplers.dpmpp_2m(midpoint=False),
    "dpmpp_3m_sde_eta0": samplers.dpmpp_3m(published=True),
}
GRIDS = {"karras": process.karras, "exponential": process.uniform_lambda}
x64 = pytest.mark.usefixtures("x64")


def test_every_peer_is_known():
    assert {k.split("/")[0] for k in KNOWN.files} - {"in"} == set(PEERS)


@x64
@pytest.mark.parametrize("name", PEERS)
def test_samplers_are_those_of_k_diffusion(name):
    weights, means, covs = (jnp.asarray(KNOWN[f"in/gmm_{k}"]) for k in ("w", "mu", "cov"))
    denoise = exact.denoiser(exact.mixture(weights, means, covs), process.edm())
    start = jnp.asarray(KNOWN["in/z2"])

    @jax.jit
    def walk(ts):
        return samplers.run(keys_of(64), denoise, PEERS[name], samplers.grid(ts), start * ts[0])

    for key in KNOWN.files:
        if key.startswith(name + "/"):
            _, grid, n = key.split("/")
            found = walk(GRIDS[grid](process.edm(), int(n)))
            np.testing.assert_allclose(found, KNOWN[key], rtol=0, atol=1e-9, err_msg=key)


def graded(places, start):
    """Even places behind `start` tiny steps: the first ones, of low order, then cost nothing."""
    tiny = (places[1] - places[0]) * abs(places[1] - places[0])
    return jnp.concatenate([places[0] + tiny * jnp.arange(start), places[1:]])


ORDERS = {
    "adams 1": (samplers.adams(1, c=0.0), 1),
    "adams 2": (samplers.adams(2, c=0.0), 2),
    "adams 3": (samplers.adams(3, c=0.0), 3),
    "adams 4": (samplers.adams(4, c=0.0), 4),
    "adams 3 in a flow's frame": (samplers.adams(3, c=1.0), 3),
    "dpm_2": (samplers.dpm_2(), 2),
    "dpmpp_2s": (samplers.dpmpp_2s(), 2),
    "dpmpp_2m heun": (samplers.dpmpp_2m(midpoint=False), 2),
    "dpmpp_3m": (samplers.dpmpp_3m(), 3),
    "dpmpp_3m as published": (samplers.dpmpp_3m(published=True), 2),
}


@x64
@pytest.mark.parametrize("name", ORDERS)
def test_order(name):
    """On a Gaussian, whose flow is known; even in log-SNR for DPM-Solver++, in tau for Adams."""
    solver, order = ORDERS[name]
    proc, dist = process.edm(), gaussian(2)
    denoise, x = exact.denoiser(dist, proc), 4.0 * vector(5, 8, 2)

    def errors(n):
        if name.startswith("adams"):
            ts = graded(jnp.linspace(4.0, 0.5, n + 1), 5)
        else:
            ts = process.time_of(proc, graded(jnp.linspace(-2 * jnp.log(4.0), 2.0, n + 1), 5))
        found = samplers.run(keys_of(8), denoise, solver, samplers.grid(ts), x)
        return jnp.max(jnp.abs(found - flow_map(dist, proc, x, ts[0], ts[-1])))

    counts = np.array([64, 128, 256])
    found = np.array([float(jax.jit(errors, static_argnums=0)(int(n))) for n in counts])
    measured = -np.polyfit(np.log(counts), np.log(found), 1)[0]
    assert abs(measured - order) < 0.25, (measured, found)


@pytest.mark.parametrize("name", ["edm", "vp_linear", "flow", "zero_table"])
def test_the_first_step_has_no_past(name):
    """Adams begins with Euler's step, DPM-Solver++ with DDIM's of the same eta and noise."""
    proc = PROCESSES[name]()
    denoise, keys = exact.denoiser(gaussian(2), proc), keys_of(4)
    ts = process.uniform(proc, 8)[:2]
    x = proc.sigma(ts[0]) * vector(1, 4, 2)

    @jax.jit
    def one(x, ts):
        kinds = {
            "euler": samplers.euler(),
            "adams": samplers.adams(4),
            "dpmpp": samplers.dpmpp_3m(),
            "ddim 1": samplers.ddim(1.0),
            "sde 2": samplers.dpmpp_2m(1.0),
            "sde 3": samplers.dpmpp_3m(1.0),
        }
        rows = samplers.grid(ts)
        return {k: samplers.run(keys, denoise, s, rows, x) for k, s in kinds.items()}

    found = one(x, ts)
    scale = jnp.max(jnp.abs(found["euler"]))
    for plain, others in (("euler", ("adams", "dpmpp")), ("ddim 1", ("sde 2", "sde 3"))):
        for other in others:
            assert jnp.max(jnp.abs(found[plain] - found[other])) < 1e-5 * scale, other
    assert jnp.max(jnp.abs(found["euler"] - found["ddim 1"])) > 1e-2 * scale


def test_numbers_are_arguments():
    traces = []
    denoise = exact.denoiser(gaussian(2), process.edm())

    @jax.jit
    def walk(x, eta, c):
        traces.append(1)
        ts = process.karras(process.edm(), 3)
        kinds = [f(eta) for f in (samplers.dpmpp_2m, samplers.dpmpp_3m, samplers.dpm_2)]
        kinds += [samplers.adams(2, c=c), samplers.churn(eta)(samplers.euler())]
        return [samplers.run(keys_of(2), denoise, s, samplers.grid(ts), x) for s in kinds]

    x = 80 * vector(0, 2, 2)
    one, two = walk(x, 0.5, 0.0), walk(x, 1.0, 0.5)
    assert len(traces) == 1 and all(jnp.any(a != b) for a, b in zip(one, two))


@pytest.mark.parametrize("order", [0, 5])
def test_adams_has_four_orders(order):
    with pytest.raises(ValueError, match="1, 2, 3 or 4"):
        samplers.adams(order)


@pytest.mark.parametrize("make", [samplers.dpmpp_2m, samplers.dpmpp_3m])
def test_noise_is_not_negative(make):
    with pytest.raises(ValueError, match="give eta >= 0"):
        make(-0.5)


@pytest.mark.parametrize("make", [samplers.dpm_2, samplers.dpmpp_2s])
def test_noise_is_at_most_all_there_is(make):
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"give eta in \[0, 1\]"):
            make(eta)
    ts = jnp.ones((3, 2)) * jnp.array([80.0, 1.0, 0.0])[:, None]
    denoise = exact.denoiser(gaussian(2), process.edm())
    with pytest.raises(ValueError, match="one time for the whole batch"):
        samplers.run(keys_of(2), denoise, make(), samplers.grid(ts), jnp.ones((2, 2)))


def churned(amount, low=0.0, n=4):
    """One row of EDM's grid, churned, at t = 10 of a point: where it goes, and whence it began."""
    proc = process.edm()
    seen = []

    def spy(now, denoise, state):
        seen.append((now.t, state.x))
        return samplers.euler().step(now, denoise, state)

    sampler = samplers.churn(amount, low=low, noise=1.0)(samplers.euler()._replace(step=spy))
    x = jnp.zeros((4000, 1))
    now = Now(jnp.array(10.0), jnp.array(5.0), 0, n, keys_of(4000), {})
    sampler.step(now, exact.denoiser(gaussian(1), proc), State(x))
    return float(seen[0][0]), np.asarray(seen[0][1])


def test_churn_raises_the_noise_by_what_it_says():
    t, x = churned(1.0)  # gamma = 1/4: from sigma = 10 to 12.5
    assert t == pytest.approx(12.5, rel=1e-5)
    assert x.std() == pytest.approx((12.5**2 - 10**2) ** 0.5, rel=0.04) and abs(x.mean()) < 0.4
    t, _ = churned(40.0)  # at most sqrt(2) - 1
    assert t == pytest.approx(10 * 2**0.5, rel=1e-5)
    for amount, low in ((0.0, 0.0), (1.0, 11.0)):
        t, x = churned(amount, low)
        assert t == 10.0 and np.all(x == 0)


def test_churn_refuses_a_history():
    with pytest.raises(ValueError, match="keeps a history"):
        rows = samplers.grid(jnp.array([1.0, 0.0]))
        denoise = exact.denoiser(gaussian(2), process.edm())
        samplers.run(
            keys_of(2), denoise, samplers.churn()(samplers.dpmpp_2m()), rows, jnp.ones((2, 2))
        )
