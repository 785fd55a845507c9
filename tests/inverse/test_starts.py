"""SDEdit, ES-DDPM and CCDF are `sample(image=, strength=)`: their laws on a Gaussian are known."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import exact, inverse, process, samplers
from tests.problems import vector

PROC, STEPS, B = process.edm(), 150, 12_000
MEAN, COV = jnp.array([0.5, -1.0]), jnp.array([[1.0, 0.6], [0.6, 0.8]])


def halfway(strength):
    """alpha, sigma of the first time that is walked."""
    times = process.karras(PROC, STEPS)
    return process.scales(PROC, times[STEPS - round(STEPS * strength)])


def drawn(image, strength, sampler):
    """Two-dimensional samples from images [b, 2], by the exact denoiser."""
    denoise = exact.denoiser(exact.gaussian(MEAN, COV), PROC)
    draw = partial(
        samplers.sample, steps=STEPS, strength=strength, times=process.karras
    )  # fmt: skip
    return jax.jit(lambda x: draw(jax.random.key(0), denoise, sampler, image=x))(image)


def posterior(mean, cov, strength):
    """The law of x_0 drawn from p(x_0 | x_t), x_t = alpha x + sigma eps, x ~ N(mean, cov)."""
    alpha, sigma = halfway(strength)
    noisy = sigma**2 * jnp.eye(2)
    gain = alpha * COV @ jnp.linalg.inv(alpha**2 * COV + noisy)
    spread = gain @ (alpha**2 * cov + noisy) @ gain.T
    return MEAN + alpha * gain @ (mean - MEAN), COV - alpha * gain @ COV + spread


def flowed(mean, cov, strength):
    """The law of the flow's end: along each axis of COV a share of the deviation is kept."""
    alpha, sigma = halfway(strength)
    values, axes = jnp.linalg.eigh(COV)
    shrink = (axes * jnp.sqrt(values / (alpha**2 * values + sigma**2))[None]) @ axes.T
    spread = shrink @ (alpha**2 * cov + sigma**2 * jnp.eye(2)) @ shrink
    return MEAN + alpha * shrink @ (mean - MEAN), spread


LAWS = {
    "ancestral": (samplers.ddpm, posterior, 0.3),
    "flow": (samplers.heun, flowed, 0.3),
    "flow from far": (samplers.heun, flowed, 0.6),
}


@pytest.mark.parametrize("name", list(LAWS))
def test_sdedit_in_closed_form(name):
    sampler, law, strength = LAWS[name]
    image = jnp.array([-1.5, 2.0])
    x = drawn(jnp.broadcast_to(image, (B, 2)), strength, sampler())
    mean, cov = law(image, jnp.zeros((2, 2)), strength)
    assert jnp.allclose(x.mean(0), mean, atol=0.04), (x.mean(0), mean)
    assert jnp.allclose(jnp.cov(x.T), cov, atol=0.05), (jnp.cov(x.T), cov)


def test_es_ddpm_mends_another_generator():
    """Samples of a wrong law, noised and walked back, are nearer to the prior's law."""
    mean, std = jnp.array([1.5, 1.0]), jnp.array([0.4, 1.5])
    x = drawn(mean[None] + vector(3, B, 2) * std[None], 0.6, samplers.heun())
    there, cov = flowed(mean, jnp.diag(std**2), 0.6)
    assert jnp.allclose(x.mean(0), there, atol=0.05), (x.mean(0), there)
    assert jnp.allclose(jnp.cov(x.T), cov, atol=0.06), (jnp.cov(x.T), cov)
    assert jnp.linalg.norm(there - MEAN) < 0.6 * jnp.linalg.norm(mean - MEAN)


def test_ccdf_meets_the_measurement_and_leaves_the_rest_to_sdedit():
    """The first number is measured; where the prior's are independent the second is as edited."""
    operator = inverse.matrix(jnp.array([[2.0, 0.0]]))
    y = jnp.full((B, 1), 0.8)
    image = jnp.array([0.4, 2.0])
    prior = exact.gaussian(MEAN, jnp.diag(jnp.diag(COV)))

    @jax.jit
    def end(image):
        sampler = inverse.project(operator, y)(samplers.ddpm())
        denoise = exact.denoiser(prior, PROC)
        return samplers.sample(
            jax.random.key(1), denoise, sampler, image=image, steps=STEPS, strength=0.5,
            times=process.karras,
        )  # fmt: skip

    x = end(jnp.broadcast_to(image, (B, 2)))
    alpha, sigma = halfway(0.5)
    v = COV[1, 1]
    gain = alpha * v / (alpha**2 * v + sigma**2)
    assert jnp.max(jnp.abs(x[:, 0] - 0.4)) < 1e-4
    assert abs(x[:, 1].mean() - (MEAN[1] + alpha * gain * (2.0 - MEAN[1]))) < 0.04
    assert abs(x[:, 1].var() - (v - alpha * gain * v + gain**2 * sigma**2)) < 0.05
