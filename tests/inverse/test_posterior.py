"""PiGDM and MMPS against the exact posteriors of Gaussians; how measurements combine."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import exact, inverse, process
from jaxdiff.guidance import add, chain, pulled
from jaxdiff.samplers import sample
from tests.problems import PROCESSES, flow_map, gaussian, vector

A = vector(20, 2, 3)
Y = jnp.array([0.4, -0.7])
NOISE, V0 = 0.3, 0.8


def isotropic():
    return exact.gaussian(vector(1, 3), V0 * jnp.eye(3))


def row(i):
    """The i-th measurement alone, as an operator and its y for a batch of one."""
    return inverse.matrix(A[i : i + 1]), Y[None, i : i + 1]


def exact_pull(dist, i, est, at):
    """The gradient of log p(y_i | x_t) for a Gaussian, from its own covariance."""
    cov, a = exact.covariance(dist), A[i : i + 1]
    left = cov @ jnp.linalg.inv(at.alpha**2 * cov + at.sigma**2 * jnp.eye(3)) * at.sigma**2
    inner = a @ left @ a.T + NOISE**2 * jnp.eye(1)
    return (jnp.linalg.inv(inner) @ (Y[i : i + 1] - a @ est.x0[0]) @ a)[None]


@jax.jit
def every_way(proc, x, t):
    """x_0 by each method, and the exact one of its prior."""
    flat, dense = exact.denoiser(isotropic(), proc), exact.denoiser(gaussian(), proc)
    whole, y = inverse.matrix(A), Y[None]
    stacked = inverse.stack(row(0)[0], row(1)[0])
    two = [inverse.mmps(*row(i), noise=NOISE, steps=1) for i in range(2)]
    longer = [inverse.mmps(*row(i), noise=NOISE, steps=4) for i in range(2)]
    guides = {
        "pigdm": inverse.pigdm(whole, y, noise=NOISE, v0=V0)(flat),
        "mmps": inverse.mmps(whole, y, noise=NOISE, steps=2)(dense),
        "mmps longer": inverse.mmps(whole, y, noise=NOISE, steps=5)(dense),
        "chain": chain(*two)(dense),
        "chain longer": chain(*longer)(dense),
        "stack": inverse.mmps(stacked, (row(0)[1], row(1)[1]), noise=NOISE, steps=2)(dense),
        "chain of exact pulls": chain(
            pulled(functools.partial(exact_pull, gaussian(), 0)),
            inverse.mmps(*row(1), noise=NOISE, steps=1),
        )(dense),
        "add": pulled(add(*(functools.partial(exact_pull, gaussian(), i) for i in range(2))))(
            dense
        ),
    }
    truths = [
        exact.denoiser(exact.condition(d, A, Y, NOISE), proc)(x, t).x0
        for d in (isotropic(), gaussian())
    ]
    return {name: guided(x, t).x0 for name, guided in guides.items()}, truths


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    [n if n == "flow" else pytest.param(n, marks=pytest.mark.slow)
     for n in PROCESSES],
)  # fmt: skip
def test_every_way_to_an_exact_posterior(name):
    proc = PROCESSES[name]()
    for lam in (3.0, 0.0, -3.0):
        t = process.time_of(proc, lam)
        alpha, sigma = process.scales(proc, t)
        found, (of_isotropic, of_dense) = every_way(proc, alpha * 0.3 + sigma * vector(2, 1, 3), t)
        for way, x0 in found.items():
            truth = of_isotropic if way == "pigdm" else of_dense
            error = jnp.max(jnp.abs(x0 - truth))
            if way == "add":  # not for measurements: p(y1, y2 | x_t) is no product
                assert error > 0.01, (lam, error)
            else:
                assert error < 1e-10, (way, lam, error)


def posterior(dist):
    return exact.condition(dist, A, Y, NOISE)


@pytest.mark.parametrize("name", ["pigdm", "mmps"])
def test_samples_have_the_moments_of_the_posterior(name):
    prior = isotropic() if name == "pigdm" else gaussian()
    y = jnp.broadcast_to(Y, (2000, 2))
    guide = (
        inverse.pigdm(inverse.matrix(A), y, noise=NOISE, v0=V0)
        if name == "pigdm"
        else inverse.mmps(inverse.matrix(A), y, noise=NOISE, steps=2)
    )
    denoise = guide(exact.denoiser(prior, process.rectified_flow()))
    start, truth = vector(2, 2000, 3), posterior(prior)
    x = jax.jit(lambda x: sample(jax.random.key(0), denoise, start=x, steps=60))(start)
    exactly = flow_map(truth, process.rectified_flow(), start, 1.0, 0.0)
    assert jnp.max(jnp.abs(x - exactly)) < 0.03
    width = jnp.sqrt(jnp.diagonal(exact.covariance(truth)))
    assert jnp.all(jnp.abs(x.mean(0) - exact.mean(truth)) < 0.1 * width)
    scaled = (jnp.cov(x.T) - exact.covariance(truth)) / (width[:, None] * width[None])
    assert jnp.all(jnp.abs(scaled) < 0.13), scaled


def test_the_default_number_of_steps_of_mmps_may_exceed_the_dimension():
    """One measured number and two steps of conjugate gradient, nested, in single precision."""
    dense = exact.denoiser(gaussian(), process.rectified_flow())
    guided = chain(*(inverse.mmps(*row(i), noise=NOISE) for i in range(2)))(dense)
    truth = exact.denoiser(posterior(gaussian()), process.rectified_flow())
    both = jax.jit(lambda x, t: (guided(x, t).x0, truth(x, t).x0))
    for t in (0.1, 0.5, 0.9):
        got, expected = both(vector(2, 1, 3), t)
        assert jnp.max(jnp.abs(got - expected)) < 1e-4


def test_a_number_may_be_a_function_or_one_per_sample():
    dense, whole = exact.denoiser(gaussian(), process.edm()), inverse.matrix(A)
    x, y = vector(2, 2, 3), jnp.stack([Y, -Y])
    noise, v0 = jnp.array([0.1, 0.5]), jnp.array([0.5, 2.0])

    @jax.jit
    def each(x):
        both = inverse.pigdm(whole, y, noise=noise, v0=v0)(dense)(x, 0.7).x0
        late = inverse.pigdm(whole, y, noise=lambda at: 2 * at.sigma, v0=1.0)(dense)(x, 0.7).x0
        fixed = inverse.pigdm(whole, y, noise=1.4, v0=1.0)(dense)(x, 0.7).x0
        alone = [
            inverse.pigdm(whole, y[i : i + 1], noise=noise[i], v0=v0[i])(dense)(x[i : i + 1], 0.7)
            for i in range(2)
        ]
        return both, jnp.concatenate([a.x0 for a in alone]), late, fixed

    both, alone, late, fixed = each(x)
    assert jnp.max(jnp.abs(both - alone)) < 1e-5
    assert jnp.max(jnp.abs(late - fixed)) < 1e-5
