"""Stochastic samplers draw from an exact mixture, to within what exact draws differ by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from tests.problems import PROCESSES, keys_of, mixture, vector

B = 1500
STEPS = 80
SOLVERS = {
    "ddpm": samplers.ddpm(),
    "ddpm large": samplers.ddpm(samplers.fixed_large),
    "ddim 1": samplers.ddim(1.0),
    "dpmpp_2m 1": samplers.dpmpp_2m(1.0),
    "dpmpp_3m 1": samplers.dpmpp_3m(1.0),
    "dpmpp_2s 1": samplers.dpmpp_2s(1.0),
    "dpm_2 1": samplers.dpm_2(1.0),
    "ito 1": samplers.ito(),
    "churn": samplers.churn(40.0, noise=1.0)(samplers.heun()),
    "dpmpp_2m 0.5": samplers.dpmpp_2m(0.5, midpoint=False),
}


def sliced(x, y, n=32):
    """Sliced Wasserstein-1 distance of two samples of one size."""
    directions = np.asarray(vector(9, x.shape[1], n))
    directions = directions / np.linalg.norm(directions, axis=0)
    a, b = (np.sort(np.asarray(z) @ directions, axis=0) for z in (x, y))
    return float(np.abs(a - b).mean())


def draws(count):
    """Exact draws, and the largest distance between two of them."""
    many = [exact.draw(jax.random.key(i), mixture(), B) for i in range(count)]
    floor = max(sliced(a, b) for i, a in enumerate(many) for b in many[:i])
    return many, floor


def close(samples, bound_over_floor=1.2):
    many, floor = draws(5)
    off = np.median([sliced(samples, exactly) for exactly in many])
    assert off < bound_over_floor * floor, (off, floor)


@pytest.mark.parametrize("name", ["vp_linear", pytest.param("edm", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_ancestral_samplers_reach_a_mixture(name):
    proc = PROCESSES[name]()
    x = proc.sigma(proc.t_max) * vector(0, B, 2)

    @jax.jit
    def all_samples(denoise):
        rows = samplers.grid(process.karras(proc, STEPS))
        return {k: samplers.run(keys_of(B), denoise, s, rows, x) for k, s in SOLVERS.items()}

    for samples in all_samples(exact.denoiser(mixture(), proc)).values():
        close(samples)


@pytest.mark.parametrize("name", ["edm", pytest.param("flow", marks=pytest.mark.slow)])
def test_the_reverse_sde_reaches_a_mixture(name):
    proc = PROCESSES[name]()
    x = proc.sigma(proc.t_max) * vector(0, B, 2)

    @jax.jit
    def samples(denoise):
        times = process.karras(proc, STEPS)
        return samplers.integrate(denoise, x, keys=keys_of(B), times=times)

    close(samples(exact.denoiser(mixture(), proc)))


@pytest.mark.slow
def test_travel_keeps_the_distribution():
    """Noising back and walking again draws from the same law: RePaint without a picture."""
    proc = PROCESSES["flow"]()
    dist = exact.gaussian(jnp.array([0.5, -1.0]), jnp.diag(jnp.array([1.0, 0.25])))

    @jax.jit
    def samples(denoise):
        rows = samplers.travel(process.karras(proc, 30), repeat=2, jump=5)
        return samplers.run(keys_of(B), denoise, samplers.heun(), rows, vector(0, B, 2))

    got = samples(exact.denoiser(dist, proc))
    assert jnp.allclose(got.mean(0), exact.mean(dist), atol=0.1)
    assert jnp.allclose(jnp.cov(got.T), exact.covariance(dist), atol=0.1)
