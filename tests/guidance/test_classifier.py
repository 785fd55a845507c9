"""Classifier guidance: Bayes' rule is exact, and algorithm 1 is the guide at another scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import bind, exact, guidance, process, samplers
from tests.guidance.problems import calls, waves
from tests.guidance.test_kernel import MATRIX, NOISE, Y, inside, log_likelihood
from tests.problems import PROCESSES, keys_of, mixture, tree_denoiser, vector
from tests.samplers.moments import moments


def _misfit(proc, x, t):
    return -log_likelihood(x, *process.scales(proc, t))


def _parts(dist, k):
    return exact.Mixture(
        jnp.zeros(1), dist.means[k][None], dist.values[k][None], dist.vectors[k][None]
    )


def _logits(proc, x, t):
    """log p(k) + log p_t(x | k): the exact noise-aware classifier of the components."""
    dist = mixture()
    logs = [exact.log_density(_parts(dist, k), proc, x[None], t)[0] for k in range(3)]
    return dist.logits + jnp.stack(logs)


def points(proc):
    """Four points and times inside the interval."""
    t = jnp.array([*inside(proc), inside(proc)[1]])
    alpha, sigma = process.scales(proc, t)
    return alpha[:, None] * jnp.array([[0.5, 0.2]]) + sigma[:, None] * vector(3, 4, 2), t


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["flow", pytest.param("edm", marks=pytest.mark.slow)])
def test_bayes_rule_is_exact(name):
    """A classifier of the components: each sample gets the denoiser of its own."""
    proc, labels = PROCESSES[name](), jnp.array([0, 1, 2, 1])
    parts = [exact.denoiser(_parts(mixture(), k), proc) for k in labels.tolist()]

    @jax.jit
    def gap(x, t):
        guide = guidance.classifier(Partial(_logits, proc), labels)
        guided = guide(exact.denoiser(mixture(), proc))(x, t).x0
        truth = [d(x[i : i + 1], t[i : i + 1]).x0 for i, d in enumerate(parts)]
        return jnp.max(jnp.abs(guided - jnp.concatenate(truth)))

    assert gap(*points(proc)) < 1e-10


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["flow", "edm", "vp_linear"])
def test_bayes_rule_is_exact_for_a_measurement(name):
    proc = PROCESSES[name]()
    truth = exact.denoiser(exact.condition(mixture(), MATRIX, Y, NOISE), proc)
    guided = guidance.noisy(Partial(_misfit, proc))(exact.denoiser(mixture(), proc))
    gap = jax.jit(lambda x, t: jnp.max(jnp.abs(guided(x, t).x0 - truth(x, t).x0)))
    assert gap(*points(proc)) < 1e-10


def _sums(x, t):
    return jnp.stack([jnp.sum(x), jnp.sum(x**2) * t, 0.3 * t])


@pytest.mark.usefixtures("x64")
def test_algorithm_1_is_the_guide_at_another_scale():
    """Sigma alpha_t / (alpha_s r sigma_t^2) times the scale, for both variances."""
    proc, label, x = process.vp_linear(), jnp.array([0, 1, 2]), vector(0, 3, 2)
    rows, denoise = samplers.grid(jnp.array([0.6, 0.4])), tree_denoiser(process.vp_linear())
    (a_t, v_t), (a_s, v_s) = process.scales(proc, 0.6), process.scales(proc, 0.4)
    cases = (samplers.fixed_large, a_t / a_s), (samplers.fixed_small, a_t / a_s * (v_s / v_t) ** 2)

    @jax.jit
    def both(scale):
        out = []
        for variance, factor in cases:
            plain = samplers.ddpm(variance)
            fix = guidance.ancestral_classifier(_sums, label, scale, variance=variance)
            guided = guidance.classifier(_sums, label, scale * factor)(denoise)
            out.append(
                [
                    samplers.run(keys_of(3), d, s, rows, x)
                    for d, s in ((denoise, fix(plain)), (guided, plain), (denoise, plain))
                ]
            )
        return out

    for moved, guided, plain in both(jnp.array([1.0, 2.0, 0.5])):
        assert jnp.max(jnp.abs(moved - guided)) < 1e-10
        assert jnp.min(jnp.max(jnp.abs(moved - plain), axis=1)) > 1e-3


def _quadratic(proc, x, t):
    """log p(y | x_t) for x_0 ~ N(0, 1), y = x_0 + n/2 = 1, as one of two classes."""
    alpha, sigma = process.scales(proc, t)
    total = alpha**2 + sigma**2
    var = 0.25 + sigma**2 / total
    log_p = -0.5 * (1.0 - alpha / total * x[0]) ** 2 / var - 0.5 * jnp.log(var) - 4.0
    return jnp.stack([log_p, jnp.log1p(-jnp.exp(log_p))])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_algorithm_1_converges_to_the_conditional():
    """Moments of the whole walk, without a sample: posterior mean 0.8, variance 0.2."""
    proc = process.vp_linear()
    prior = exact.gaussian(jnp.zeros(1), jnp.eye(1))
    denoise, label = exact.denoiser(prior, proc), 0
    fix = guidance.ancestral_classifier(
        Partial(_quadratic, proc), label, variance=samplers.fixed_large
    )
    alpha, sigma = process.scales(proc, 1.0)

    def error(n):
        rows = samplers.grid(process.uniform_lambda(proc, n))
        sampler = fix(samplers.ddpm(samplers.fixed_large))
        found = moments(denoise, sampler, rows, alpha * 0.8, alpha**2 * 0.2 + sigma**2)
        return jnp.max(jnp.abs(jnp.stack(found) - jnp.array([0.8, 0.2])))

    coarse, fine = (jax.jit(error, static_argnums=0)(n) for n in (20, 80))
    assert fine < 0.4 * coarse and fine < 0.03


def test_no_jacobian_of_the_network():
    x, guided = vector(0, 2, 3), guidance.classifier(_sums, 1, 2.0)(bind(waves()))
    assert calls(lambda x: guided(x, 0.5).x0, x) == (1, 0)
    start = jax.jit(lambda x: (guided(x, 1.0).x0, bind(waves())(x, 1.0).x0))
    assert np.array_equal(*start(x))  # alpha = 0: x_t knows nothing


def test_errors():
    for label in (1.0, jnp.ones((2, 2), int), jnp.array([True])):
        with pytest.raises(ValueError, match="label is"):
            guidance.classifier(_sums, label)
        with pytest.raises(ValueError, match="label is"):
            guidance.ancestral_classifier(_sums, label)
    with pytest.raises(ValueError, match="each: a leaf of shape"):
        guidance.classifier(_sums, jnp.zeros(3, int))(bind(waves()))(vector(0, 2, 3), 0.5)
