"""The terminal rule: however few the steps, what comes out is finite and holds no noise."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import exact, process, samplers, trees
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate
from tests.problems import PROCESSES, ends, keep_x, keys_of, passes, point, vector


def level(x):
    """Ever the same one: the steps are wrong, and yet nothing but data comes out."""
    return jnp.zeros(len(x))


EVERYWHERE = samplers.Statistics(
    jnp.array([-3.0, 3.0]), jnp.array([0.5, 1.0]), jnp.array([-0.4, 0.1]), jnp.array([0.3, -0.2])
)
SOLVERS = {
    "ddim 0": samplers.ddim(),
    "ddim 0.5": samplers.ddim(0.5),
    "ddim 1": samplers.ddim(1.0),
    "ddpm": samplers.ddpm(),
    "ddpm large": samplers.ddpm(samplers.fixed_large),
    "adams": samplers.adams(),
    "adjusted": samplers.adjusted(level)(samplers.ddpm()),
    "annealed": samplers.annealed(samplers.langevin(0.1, steps=2)),
    "adams_moulton": samplers.adams_moulton(),
    "adams_moulton continued": samplers.adams_moulton(4, continued=True),
    "churn": samplers.churn()(samplers.euler()),
    "deis": samplers.deis(taper=0),
    "corrected ddpm": samplers.corrected(samplers.langevin(snr=0.16))(samplers.ddpm()),
    "dpm_2 1": samplers.dpm_2(1.0),
    "dpm_solver_m 1": samplers.dpm_solver_m(2, 1.0),
    "dpm_fast 1": samplers.dpm_fast(20, 1.0),
    "dpmpp_2s": samplers.dpmpp_2s(),
    "dpmpp_3s": samplers.dpmpp_3s(),
    "dpmpp_sde": samplers.dpmpp_sde(),
    "er_sde": samplers.er_sde(),
    "dpmpp_2m": samplers.dpmpp_2m(),
    "dpmpp_3m 1": samplers.dpmpp_3m(1.0),
    "dpm_solver_v3": samplers.dpm_solver_v3(EVERYWHERE),
    "heun": samplers.heun(),
    "heun 1": samplers.heun(1.0),
    "ipndm": samplers.ipndm(),
    "ito": samplers.ito(),
    "lcm": samplers.lcm(),
    "plms": samplers.plms(),
    "pndm": samplers.pndm(),
    "tcd": samplers.tcd(0.3),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "sa_solver 1": samplers.sa_solver(),
    "unipc bh1": samplers.unipc(bh1=True),
    "unipc in eps": samplers.unipc(3, by_noise=True, taper=0),
}
CONTINUED = ("adams", "ipndm", "plms", "pndm")  # these take no last estimate as it is
TARGET = jnp.array([0.7, -0.4])


@functools.partial(jax.jit, static_argnums=0)
def all_grids(which, proc):
    """Every number of steps from 1 to 20."""
    few = (1, 2, 20)
    return [which(proc, n) for n in (few if which is process.karras else range(1, 21))]


@jax.jit
def last_points(denoise, x, grids):
    rows, at = passes(grids, grids[0][0]), ends(grids)

    def walk(solver):
        return samplers.run(keys_of(len(x)), denoise, solver, rows, x, look=keep_x)[1][at]

    return {name: walk(solver) for name, solver in SOLVERS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_no_noise_is_left(name):
    proc = PROCESSES[name]()
    grids = [*all_grids(process.uniform, proc), *all_grids(process.karras, proc)]
    x = proc.sigma(proc.t_max) * vector(0, 2, 2)
    for label, found in last_points(point(TARGET, proc), x, grids).items():
        off = jnp.max(jnp.abs(found - TARGET[None, None]), axis=(1, 2))
        assert jnp.all(off < 1e-4), (label, off)


@pytest.mark.slow
def test_samples_of_points_are_points():
    """Two points, the default grid: every sample lies on one of them, by every solver."""
    proc = PROCESSES["flow"]()
    dist = exact.points(jnp.array([[1.0, 0.0], [-1.0, 0.5]]))
    x = proc.sigma(proc.t_max) * vector(0, 32, 2)
    grids = all_grids(process.karras, proc)[-1:]
    # Adams-like solvers continue the slope to sigma = 0 and take no estimate as it is; `adjusted`
    # asks at a level that is not that of x.
    elsewhere = ("adams", "adjusted", "ipndm", "plms", "pndm")
    for label, found in last_points(exact.denoiser(dist, proc), x, grids).items():
        if label.startswith(elsewhere) and label != "adams_moulton":
            continue
        away = jnp.linalg.norm(found[0][:, None] - dist.points[None], axis=-1)
        assert jnp.max(jnp.min(away, axis=1)) < 1e-4, label
        assert 4 < jnp.sum(jnp.argmin(away, axis=1)) < 28, label


def test_every_other_grid():
    proc = PROCESSES["table"]()
    x = proc.sigma(proc.t_max) * vector(0, 2, 2)
    others = (process.linspace, process.uniform_lambda, process.leading)

    @jax.jit
    def samples(denoise, key):
        draw = functools.partial(samplers.sample, key, denoise, samplers.ddpm(), start=x)
        return [draw(times=which, steps=n) for which in others for n in (1, 4)]

    for got in samples(point(TARGET, proc), jax.random.key(0)):
        assert jnp.max(jnp.abs(got - TARGET[None])) < 1e-4


def test_a_tree_of_leaves_is_sampled():
    proc = process.rectified_flow()
    target = {"image": vector(0, 1, 2, 2, 1), "kernel": vector(1, 1, 3)}
    start = {"image": vector(2, 4, 2, 2, 1), "kernel": vector(3, 4, 3)}
    denoise = Denoiser(proc, jax.tree_util.Partial(_at_tree, target))

    @jax.jit
    def samples(key):
        draw = functools.partial(samplers.sample, key, denoise, start=start, steps=3)
        chosen = [SOLVERS[n] for n in ("ddim 0.5", "ddpm", "dpmpp_2m", "heun")]
        return [draw(solver, times=process.uniform) for solver in chosen]

    for got in samples(jax.random.key(0)):
        gap = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), got, denoise(start, 0.5).x0)
        assert max(jax.tree.leaves(gap)) < 1e-5


def _at_tree(target, x, t, now):
    return Estimate(jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), target, x))


def test_the_sampled_shape_and_type():
    draw = functools.partial(samplers.sample, shape=(3, 2), steps=2, times=process.uniform)
    got = jax.jit(draw)(jax.random.key(0), point(TARGET, process.edm()))
    assert got.shape == (3, 2) and got.dtype == jnp.float32
    assert trees.size(got) == 3
