"""DDRM and DDNM+: what the noise of y does over many steps, and what they are refused."""

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from jaxdiff import exact, inverse, process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.samplers import run
from jaxdiff.types import Estimate
from tests.inverse.problems import OPERATORS, SHAPE, example
from tests.problems import keys_of, tree_denoiser, vector

NOISE, VALUES = 0.3, jnp.array([2.0, 0.5, 0.15, 0.01, 0.0])
OPERATOR = inverse.matrix(jnp.diag(VALUES))
SAMPLERS = {
    "ddrm": inverse.ddrm,
    "ddnm_plus": inverse.ddnm_plus,
    "ddnm_plus, all fresh": lambda *args, noise: inverse.ddnm_plus(*args, noise=noise, eta=1.0),
}


def _known(target, x, t, now):
    return Estimate(jnp.broadcast_to(target, x.shape))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_noise_of_y_does_not_pile_up(name):
    """Where x_0 is known, x_s is N(alpha_s x_0, sigma_s^2) after nine steps as after one.

    y is measured once, so what each step takes of its noise is the same draw: if x_t kept it and a
    step added it again, deviations would add, not variances.
    """
    proc, b, truth = process.vp_linear(), 6000, jnp.array([0.5, -0.3, 0.2, 0.7, -0.6])
    times = process.time_of(proc, jnp.linspace(-4.0, 3.0, 10))
    y = (truth * VALUES)[None] + NOISE * vector(5, b, 5)

    @jax.jit
    def end(eps):
        x = process.perturb(proc, times[0], jnp.broadcast_to(truth, eps.shape), eps)
        sampler = SAMPLERS[name](OPERATOR, y, noise=NOISE)
        denoise = Denoiser(proc, Partial(_known, truth))
        return run(keys_of(b), denoise, sampler, samplers.grid(times), x)

    alpha, sigma = process.scales(proc, times[-1])
    off = (end(vector(4, b, 5)) - alpha * truth[None]) / sigma
    assert jnp.all(jnp.abs(off.mean(0)) < 0.06), off.mean(0)
    assert jnp.all(jnp.abs(off.std(0) - 1) < 0.04), off.std(0)


@pytest.mark.parametrize("name", ["ddrm", "ddnm_plus"])
def test_no_direction_of_a_gaussian_is_worse_than_a_blind_draw(name):
    """A draw that does not see y is off by 2 in the square; seen directions must be better.

    Singular values from 2 to 0.01 under noise of 0.3: y says nearly all, a part, nearly nothing.
    """
    proc, b = process.edm(), 3000
    truth = vector(3, b, 5)
    y = truth * VALUES[None] + NOISE * vector(4, b, 5)

    @jax.jit
    def end(x):
        sampler = SAMPLERS[name](OPERATOR, y, noise=NOISE)
        rows = samplers.grid(process.karras(proc, 30))
        prior = exact.gaussian(jnp.zeros(5), jnp.eye(5))
        return run(keys_of(b), exact.denoiser(prior, proc), sampler, rows, x)

    x = end(80.0 * vector(7, b, 5))
    off, spread = ((x - truth) ** 2).mean(0), x.std(0)
    assert off[0] < 0.06 and off[1] < 0.6 and off[2] < 1.8, off
    assert jnp.all(off[3:] < 2.4), off
    assert jnp.all((spread > 0.75) & (spread < 1.15)), spread


def test_ddnm_plus_is_ddrm_that_takes_all_of_y():
    """Two papers, two forms: the same step where eta_b = 1, and the estimate is what fits y."""
    proc, y, x = process.edm(), vector(1, 3, 5), 5.0 * vector(0, 3, 5)
    denoise = exact.denoiser(exact.gaussian(jnp.zeros(5), jnp.eye(5)), proc)
    rows = samplers.grid(process.karras(proc, 8))

    @jax.jit
    def ends(x):
        look = lambda now, x, est: est.x0  # noqa: E731
        plus = inverse.ddnm_plus(OPERATOR, y, noise=NOISE, eta=0.6)
        end, seen = run(keys_of(3), denoise, plus, rows, x, look=look)
        drm = inverse.ddrm(OPERATOR, y, noise=NOISE, eta=0.6, eta_b=1.0)
        return end, run(keys_of(3), denoise, drm, rows, x), seen

    plus, drm, seen = ends(x)
    assert jnp.max(jnp.abs(plus - drm)) < 1e-4
    # far from clean data y says more than x_s wherever it says anything at all
    assert jnp.allclose(seen[0, :, :3], (y[:, :3] / VALUES[None, :3]), atol=1e-3)


def test_a_tree_is_restored_through_a_matrix():
    """A measurement of two leaves at once, as a matrix: met without noise, by all three."""
    shape = {"a": (2, 2), "b": (3,)}
    operator, y = inverse.matrix(vector(20, 3, 7), shape), vector(1, 2, 3)
    denoise = tree_denoiser(process.rectified_flow())
    x = {"a": vector(2, 2, 2, 2), "b": vector(3, 2, 3)}

    @jax.jit
    def ends(x):
        start = inverse.ddrm_start(operator, y, x, denoise.process, 1.0, noise=0.0)
        rows = samplers.grid(jnp.array([1.0, 0.5, 0.0]))
        found = [make(operator, y, noise=0.0) for make in (inverse.ddrm, inverse.ddnm_plus)]
        return [run(keys_of(2), denoise, sampler, rows, start) for sampler in found]

    for end in ends(x):
        flat = jnp.concatenate([end["a"].reshape(2, 4), end["b"]], axis=1)
        assert jnp.max(jnp.abs(flat @ vector(20, 3, 7).T - y)) < 1e-4


def test_trees_without_singular_values_say_how_to_get_some():
    operator = OPERATORS["linear on a tree"]()
    y = jax.tree.map(lambda leaf: leaf[None], operator.A(example(operator)))
    pool = inverse.average_pool(2, SHAPE)
    for make in (inverse.ddrm, inverse.ddnm_plus):
        with pytest.raises(ValueError, match=r"flattened examples, inverse\.matrix"):
            make(operator, y, noise=0.1)
        sampler = make(pool, {"seen": jnp.zeros((1, 2, 2, 2))}, noise=0.1)
        rows = samplers.grid(jnp.array([1.0, 0.0]))
        with pytest.raises(ValueError, match="y has shapes"):
            run(
                keys_of(1),
                tree_denoiser(process.rectified_flow()),
                sampler,
                rows,
                vector(0, 1, *SHAPE),
            )
