"""Log-likelihoods against closed forms; traces against Jacobians; bits that add up to one byte."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from jaxdiff import exact, process, samplers
from jaxdiff.samplers import bits_per_dim, dequantise, log_likelihood
from jaxdiff.samplers.continuous.solve import ends
from jaxdiff.samplers.continuous.trace import basis, drawn, traced
from tests.problems import PROCESSES, flow_map, gaussian, keys_of, mixture, tree_denoiser, vector
from tests.samplers.test_convolutions import denoiser as convolutional
from tests.samplers.test_convolutions import slow as slow_convolutions
from tests.test_canonical import only_cpu
from tests.test_retrace import traces_of


def blurred(dist, proc, x):
    """log-density of x_e/alpha_e at the clean end, and the ends."""
    high, low = ends(exact.denoiser(dist, proc), None, None, True)
    alpha, _ = process.scales(proc, low)
    return exact.log_density(dist, proc, alpha * x, low) + x.shape[1] * jnp.log(alpha), high


def gap(dist, proc):
    x = exact.draw(jax.random.key(1), dist, 8)
    truth, high = blurred(dist, proc, x)
    prior = functools.partial(exact.log_density, dist, proc, t=high)
    found = log_likelihood(exact.denoiser(dist, proc), x, prior=prior)
    assert found.shape == (8,) and found.dtype == x.dtype
    return jnp.max(jnp.abs(found - truth))


NAMES = [n if n == "table" else pytest.param(n, marks=pytest.mark.slow) for n in PROCESSES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_the_log_likelihood_in_single_precision(name):
    proc = PROCESSES[name]()
    gaps = jax.jit(lambda proc: (gap(gaussian(), proc), gap(mixture(), proc)))(proc)
    assert max(gaps) < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PROCESSES)
def test_the_log_likelihood_in_double_precision(name):
    proc = PROCESSES[name]()
    gaps = jax.jit(lambda proc: (gap(gaussian(), proc), gap(mixture(), proc)))(proc)
    assert max(gaps) < 2e-5


@pytest.mark.slow
def test_the_default_prior_is_that_of_the_samplers():
    """What the flow makes of N(0, sigma_T^2 I), which for edm is not the law of the data."""
    dist, proc = gaussian(), PROCESSES["edm"]()
    x = exact.draw(jax.random.key(1), dist, 8)
    high, low = ends(exact.denoiser(dist, proc), None, None, True)
    back = flow_map(dist, proc, x, low, high)
    linear = jax.jacobian(lambda x: flow_map(dist, proc, x[None], low, high)[0])(x[0])
    wide = proc.sigma(high)
    drawn_from = jnp.sum(jax.scipy.stats.norm.logpdf(back / wide) - jnp.log(wide), axis=1)
    truth = drawn_from + jnp.linalg.slogdet(linear)[1]
    found = jax.jit(lambda x: log_likelihood(exact.denoiser(dist, proc), x))(x)
    assert jnp.max(jnp.abs(found - truth)) < 1e-4
    assert jnp.max(jnp.abs(blurred(dist, proc, x)[0] - truth)) > 1e-3


FLOW = process.rectified_flow()
COARSE = jnp.linspace(1.0, 0.01, 6)
FEW = functools.partial(log_likelihood, times=COARSE, t_end=0.01, solver=diffrax.Euler())


@pytest.mark.slow
def test_hutchinson_has_no_bias():
    """The same coarse steps with both traces: the means agree, the variance falls with probes."""
    denoise = exact.denoiser(gaussian(), PROCESSES["flow"]())
    x = jnp.broadcast_to(vector(3, 1, 3), (400, 3))

    @jax.jit
    def all_ways(x):
        ways = [(1, jax.random.rademacher), (4, jax.random.rademacher)]
        found = [FEW(denoise, x, keys=keys_of(400), probes=n, probe=p, chunk=2) for n, p in ways]
        return FEW(denoise, x[:1], chunk=2), found, FEW(denoise, x[7:8], keys=keys_of(400)[7:8])

    (truth,), found, (alone,) = all_ways(x)
    assert jnp.abs(found[0][7] - alone) < 1e-4  # a sample does not see its batch
    for nats in found:
        assert nats.std() > 1e-3
        assert jnp.abs(nats.mean() - truth) < 4 * nats.std() / 20
    assert 0.8 < found[1].std() * 2 / found[0].std() < 1.2


@pytest.mark.slow
def test_rademacher_probes_are_exact_for_a_diagonal_and_normal_ones_are_not():
    denoise = exact.denoiser(exact.gaussian(vector(0, 4), jnp.diag(jnp.arange(1.0, 5.0))), FLOW)
    x = vector(1, 3, 4)

    @jax.jit
    def all_ways(x):
        normal = FEW(denoise, x, keys=keys_of(3), probe=jax.random.normal)
        return FEW(denoise, x), FEW(denoise, x, keys=keys_of(3)), normal

    truth, once, normal = all_ways(x)
    assert jnp.max(jnp.abs(once - truth)) < 1e-4 < 1e-2 < jnp.max(jnp.abs(normal - truth))


def twisted(x):
    """Not linear, not symmetric, and on a tree."""
    a, b = x["a"], x["b"]
    return {"a": jnp.sin(a) * b.sum(1)[:, None, None] + a[:, ::-1], "b": b**3 + a[:, 0, :1]}


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_trace_is_that_of_the_jacobian(chunk):
    x = {"a": vector(0, 2, 2, 2), "b": vector(1, 2, 3)}
    value, trace = jax.jit(lambda x: traced(twisted, x, basis(x, chunk)))(x)
    assert jax.tree.all(jax.tree.map(jnp.allclose, value, twisted(x)))
    for i in range(2):
        flat, back = ravel_pytree(jax.tree.map(lambda leaf, i=i: leaf[i], x))

        def one(flat, back=back):
            alone = twisted(jax.tree.map(lambda leaf: leaf[None], back(flat)))
            return ravel_pytree(alone)[0]

        assert jnp.allclose(trace[i], jnp.trace(jax.jacobian(one)(flat)), rtol=1e-5)


def test_the_trace_of_many_dimensions_goes_by_chunks():
    """d = 784: no tangent of more than a chunk of directions is ever made."""
    x = vector(0, 2, 28, 28, 1)
    squares = lambda x: traced(jnp.square, x, basis(x, 16))  # noqa: E731
    made = [v.aval.size for eqn in equations(jax.make_jaxpr(squares)(x).jaxpr) for v in eqn.outvars]
    assert x.size < max(made) <= 16 * x.size
    assert jnp.allclose(jax.jit(squares)(x)[1], 2 * x.sum((1, 2, 3)), rtol=1e-4)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from equations(getattr(inner, "jaxpr", inner))


def test_the_probes_have_unit_covariance():
    x = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2, 1))}
    for probe in (jax.random.rademacher, jax.random.normal):
        found = drawn(keys_of(2), x, 4000, probe, 1).probes
        assert jax.tree.map(jnp.shape, found) == {"a": (4000, 2, 2), "b": (4000, 2, 1)}
        u = jnp.concatenate([found["a"], found["b"]], axis=2).reshape(4000, 6)
        assert jnp.max(jnp.abs(u.T @ u / 4000 - jnp.eye(6))) < 0.1


def test_the_likelihood_of_a_tree():
    x = {"image": vector(0, 2, 2, 2, 1), "kernel": vector(1, 2, 3)}
    denoise = tree_denoiser(FLOW)
    found = jax.jit(lambda x: log_likelihood(denoise, x))(x)
    _, low = ends(denoise, None, None, True)
    var = 1 + jnp.exp(-process.log_snr(FLOW, low))
    squares = (x["image"] ** 2).sum((1, 2, 3)) + (x["kernel"] ** 2).sum(1)
    assert jnp.allclose(found, -(squares / var + 7 * jnp.log(2 * jnp.pi * var)) / 2, atol=1e-4)


@pytest.mark.slow
def test_its_gradient_is_the_score():
    dist = mixture()
    x = exact.draw(jax.random.key(2), dist, 4)
    flow = exact.denoiser(dist, FLOW)
    found = jax.jit(jax.grad(lambda x: log_likelihood(flow, x).sum()))(x)
    truth = jax.grad(lambda x: blurred(dist, FLOW, x)[0].sum())(x)
    assert jnp.max(jnp.abs(found - truth)) < 1e-2 * jnp.max(jnp.abs(truth))


@only_cpu
def test_no_convolution_is_slow():
    assert slow_convolutions(functools.partial(FEW, convolutional())) == []
    assert slow_convolutions(functools.partial(FEW, convolutional(), keys=keys_of(2))) == []


def test_a_new_model_or_key_is_one_trace():
    def of_model(mean):
        return FEW(exact.denoiser(exact.gaussian(mean, jnp.eye(3)), FLOW), vector(0, 2, 3))

    assert traces_of(of_model, (vector(0, 3), vector(1, 3))) == 1
    noisy = functools.partial(FEW, exact.denoiser(gaussian(), FLOW), vector(0, 2, 3))
    assert traces_of(lambda keys: noisy(keys=keys), (keys_of(2), keys_of(2, 1))) == 1


def test_the_bytes_of_a_density_add_up_to_one():
    """sum_k E_u[2^-bits] = int p over all bins: they tile the line, and the Jacobian is theirs."""
    mean, std, span = 0.6, 0.15, (0.0, 1.0)
    every = jnp.tile(jnp.arange(256, dtype=jnp.uint8)[:, None], (64, 1))

    @jax.jit
    def total(keys):
        x = dequantise(keys, every, span=span)
        nats = jax.scipy.stats.norm.logpdf(x[:, 0], mean, std)
        return jnp.sum(2.0 ** -bits_per_dim(nats, 1, span=span)) / 64

    low, high = jax.scipy.stats.norm.cdf(jnp.array([-1, 511]) / 510, mean, std)
    assert abs(total(keys_of(len(every))) - (high - low)) < 1e-3


def test_dequantised_bytes_are_found_again():
    every = jnp.arange(256, dtype=jnp.uint8)[None]
    x = dequantise(keys_of(1), every)
    assert jnp.all(jnp.round((x + 1) * 127.5) == every)
    assert 0.2 < jnp.std(x * 127.5 - jnp.round(x * 127.5 + 127.5) + 127.5) < 0.4
    few = dequantise(keys_of(1), every[:, :2], levels=2)
    assert jnp.all((few > 0) == jnp.array([[False, True]]))


def test_what_is_refused():
    denoise, x = exact.denoiser(gaussian(), FLOW), vector(0, 2, 3)
    with pytest.raises(ValueError, match="probes=0"):
        log_likelihood(denoise, x, keys=keys_of(2), probes=0)
    with pytest.raises(ValueError, match="chunk=0"):
        log_likelihood(denoise, x, chunk=0)
    with pytest.raises(TypeError, match=r"one typed key per sample, \[2\]"):
        log_likelihood(denoise, x, keys=jax.random.key(0))
    with pytest.raises(TypeError, match="denoise is a Sampler"):
        log_likelihood(samplers.heun(), x)
    with pytest.raises(ValueError, match="decrease"):
        log_likelihood(denoise, x, times=jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="d=0"):
        bits_per_dim(jnp.zeros(2), 0)
    with pytest.raises(ValueError, match="levels=1"):
        dequantise(keys_of(1), jnp.zeros((1, 2), jnp.uint8), levels=1)
    with pytest.raises(ValueError, match="low < high"):
        bits_per_dim(jnp.zeros(2), 3, span=(1.0, -1.0))
