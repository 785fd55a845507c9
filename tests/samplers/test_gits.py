"""GITS against every choice there is, against closed-form misses, and against grids it replaces."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.samplers.gits import _best, _costs, _walk
from tests.problems import flow_map, gaussian, keys_of, mixture, tree_denoiser, vector


@pytest.mark.parametrize("gamma", [0.8, 1.15])
def test_no_choice_is_cheaper(gamma):
    """All walks of n of 9 steps, with costs that obey no rule."""
    costs = np.random.default_rng(0).uniform(size=(9, 10))
    costs[np.tril_indices(9)] = np.inf
    for n in (1, 2, 4, 7, 9):
        walks = [(0, *middle, 9) for middle in itertools.combinations(range(1, 9), n - 1)]
        price = [
            sum(gamma**k * costs[i, j] for k, (i, j) in enumerate(itertools.pairwise(walk)))
            for walk in walks
        ]
        found = _best(jnp.asarray(costs), n, jnp.asarray(gamma))
        assert found.tolist() == list(walks[int(np.argmin(price))])


@pytest.mark.usefixtures("x64")
def test_costs_are_what_an_euler_step_misses():
    """On a Gaussian, with the teacher's points replaced by its flow in closed form."""
    dist, proc = gaussian(), process.vp_linear()
    denoise, ts, x = exact.denoiser(dist, proc), process.uniform(proc, 6), vector(3, 5, 3)

    @jax.jit
    def found_and_known(denoise, ts, x):
        xs = jax.vmap(lambda t: flow_map(dist, proc, x, ts[0], t))(ts)
        x0 = jax.vmap(lambda y, t: denoise(y, t).x0)(xs[:-1], ts[:-1])

        def miss(i, j):
            rows = samplers.grid(jnp.stack([ts[i], ts[j]]))
            end = samplers.run(keys_of(5), denoise, samplers.euler(), rows, xs[i])
            return jnp.mean(jnp.linalg.norm(end - xs[j], axis=1)) / proc.alpha(ts[j])

        return _costs(proc, ts, xs, x0), jax.vmap(miss)(*PAIRS)

    costs, known = found_and_known(denoise, ts, x)
    assert np.isinf(np.asarray(costs)[np.tril_indices(6)]).all()
    np.testing.assert_allclose(costs[PAIRS], known, rtol=1e-10)


PAIRS = jnp.array([0, 0, 2, 5]), jnp.array([1, 6, 4, 6])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_process_does_not_count():
    """The same levels of noise, the same samples: the same choice, from alpha = 0 too."""
    edm = process.edm(0.02, 150.0)
    levels, found = process.karras(edm, 14), []
    choose = jax.jit(lambda d, x, fine: samplers.gits(d, x, fine, 5, teacher=samplers.euler()))
    for proc in (edm, process.rectified_flow(), process.from_betas(process.linear_betas())):
        lam = process.log_snr(edm, levels[1:-1])
        ts = jnp.concatenate([proc.t_max[None], process.time_of(proc, lam), proc.t_clean[None]])
        x = proc.sigma(proc.t_max) * vector(0, 16, 2)
        chosen = choose(exact.denoiser(mixture(), proc), x, ts)
        found.append(jnp.searchsorted(-ts, -chosen).tolist())
    assert found[0] == found[1] == found[2]
    assert found[0][0] == 0 and found[0][-1] == 14


@pytest.mark.usefixtures("x64")
def test_its_grids_beat_those_they_are_made_of():
    """End-point error of Euler's method on noise that the choice has not seen."""
    proc = process.edm()
    denoise, fine = exact.denoiser(mixture(), proc), process.karras(proc, 40)

    @jax.jit
    def errors(denoise, fine):
        x, new = (80.0 * vector(seed, 64, 2) for seed in (0, 1))
        truth = walk(denoise, samplers.heun(), process.karras(proc, 200), new)
        grids = samplers.gits(denoise, x, fine, 6), process.karras(proc, 6)
        grids += (process.uniform_lambda(proc, 6),)
        ends = [walk(denoise, samplers.euler(), ts, new) for ts in grids]
        return [jnp.sqrt(jnp.mean((end - truth) ** 2)) for end in ends]

    chosen, *others = errors(denoise, fine)
    assert chosen < 0.7 * min(others)


def walk(denoise, sampler, ts, x):
    return samplers.run(keys_of(len(x)), denoise, sampler, samplers.grid(ts), x)


def test_trees_and_new_numbers():
    """Samples may be trees; another gamma or fine grid is no new trace; all steps are all times."""
    flow, traces = process.rectified_flow(), []
    x = {"image": vector(0, 4, 3, 2), "kernel": vector(1, 4, 5)}

    @jax.jit
    def choose(denoise, x, fine, gamma):
        traces.append(1)
        return [samplers.gits(denoise, x, fine, n, gamma=gamma) for n in (1, 3, 8)]

    for s, gamma in ((1.0, 1.15), (3.0, 1.0)):
        fine = process.shift(process.linspace(flow, 8), s)
        one, three, every = choose(tree_denoiser(flow), x, fine, gamma)
        assert one.tolist() == [1.0, 0.0] and every.tolist() == fine.tolist()
        process.check_grid(three, flow)
        assert set(three.tolist()) <= set(fine.tolist())
    assert len(traces) == 1


def test_the_teacher_walks_the_fine_grid():
    flow = process.rectified_flow()
    ts, x = process.linspace(flow, 5), vector(0, 3, 2)
    xs, x0 = _walk(tree_denoiser(flow), x, ts, samplers.euler())
    assert xs.shape == (6, 3, 2) and x0.shape == (5, 3, 2)
    np.testing.assert_array_equal(xs[0], x)
    np.testing.assert_allclose(xs[-1], x0[-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "options", "words"),
    [
        (0, {}, "steps=0"),
        (6, {}, "steps=6 of a fine grid of 5"),
        (3, {"gamma": 0.0}, "gamma=0.0"),
    ],
)
def test_bad_numbers_are_named(n, options, words):
    flow = process.rectified_flow()
    with pytest.raises(ValueError, match=words):
        samplers.gits(tree_denoiser(flow), vector(0, 2, 2), process.linspace(flow, 5), n, **options)


def test_a_fine_grid_of_another_process_is_refused():
    flow = process.rectified_flow()
    with pytest.raises(ValueError, match="lies outside"):
        samplers.gits(tree_denoiser(flow), vector(0, 2, 2), process.karras(process.edm(), 9), 3)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (jnp.array([1.0, 0.2, 0.5, 0.0]), "times must decrease"),
        (jnp.array([1.2, 0.5, 0.0]), r"grid\[0\]=1.2\d* lies outside .*= \[0, 1\]"),
        (jnp.array([1.0, 0.5, -0.5]), r"grid\[2\]=-0.5 lies outside"),
        (lambda proc, n: process.karras(process.edm(), n), r"grid\[0\]=80.0 lies outside"),
    ],
)
def test_sample_refuses_grids_that_leave_the_process(times, words):
    denoise = tree_denoiser(process.rectified_flow())
    with pytest.raises(ValueError, match=words):
        samplers.sample(jax.random.key(0), denoise, shape=(2, 2), times=times)
    with pytest.raises(ValueError, match="steps=0"):
        samplers.sample(jax.random.key(0), denoise, shape=(2, 2), steps=0)
