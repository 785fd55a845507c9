"""Diffrax: the probability flow and the reverse SDE, against closed forms and the grid."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.denoise import Denoiser, rebase, velocity
from jaxdiff.guidance import edited
from jaxdiff.samplers import integrate
from jaxdiff.samplers.continuous.solve import strict
from jaxdiff.types import GridOnly
from tests.problems import (
    PROCESSES,
    flow_map,
    gaussian,
    keys_of,
    mixture,
    tree_denoiser,
    vector,
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    ["edm", "flow"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("ve", "vp_linear", "sub_vp", "vp_cosine")],
)
def test_the_probability_flow_in_closed_form(name):
    proc, dist = PROCESSES[name](), gaussian()
    x = proc.sigma(proc.t_max) * vector(0, 4, 3)
    controller = diffrax.PIDController(rtol=1e-8, atol=1e-8)
    denoise, middle = exact.denoiser(dist, proc), process.time_of(proc, 2.0)

    @jax.jit
    def both(x):
        part = functools.partial(integrate, denoise, x, controller=controller)
        return part(t_end=middle), part()

    short, whole = both(x)
    expected = denoise(flow_map(dist, proc, x, proc.t_max, middle), middle).x0
    assert jnp.max(jnp.abs(short - expected)) < 1e-5
    truth = flow_map(dist, proc, x, proc.t_max, proc.t_clean)
    # the step from t_min to clean data is E[x_0 | x]: it costs sigma(t_min)^2 / (2 var)
    slack = 10 * proc.sigma(proc.t_min) ** 2
    assert jnp.max(jnp.abs(whole - truth)) < 1e-4 + slack


def test_the_probability_flow_equals_the_grid():
    denoise = exact.denoiser(mixture(), PROCESSES["flow"]())
    x = vector(0, 8, 2)

    @jax.jit
    def both(x):
        rows = samplers.grid(process.karras(denoise.process, 150))
        return integrate(denoise, x), samplers.run(keys_of(8), denoise, samplers.heun(), rows, x)

    a, b = both(x)
    assert jnp.max(jnp.abs(a - b)) < 1e-3


def test_given_times_are_the_steps():
    """Euler on given times is the hand-written loop; the ends are moved, none is doubled."""
    denoise = exact.denoiser(gaussian(), PROCESSES["vp_linear"]())
    x, times = vector(0, 2, 3), jnp.array([1.0, 0.6, 0.3, 0.1])

    @jax.jit
    def walk(times):
        euler = functools.partial(integrate, denoise, x, solver=diffrax.Euler(), times=times)
        inside, outside = (
            euler(t_end=0.1),
            euler(t_start=0.8, t_end=0.2, saveat=diffrax.SaveAt(steps=True)),
        )
        return inside, outside.ts, outside.ys

    got, ts, _ = walk(times)
    assert np.allclose(-ts[:3], [0.6, 0.3, 0.2])
    by_hand = x
    for t, s in zip(times[:-1], times[1:], strict=True):
        by_hand = by_hand + (s - t) * velocity(denoise, by_hand, t)
    assert jnp.allclose(got, denoise(by_hand, 0.1).x0, atol=1e-5)


def test_times_beyond_both_ends_are_spread():
    rising = strict(
        -jnp.array([9.0, 8.0, 5.0, 3.0, 1.0, 0.5, 0.0]), jnp.float32(-7), jnp.float32(-2)
    )
    assert np.allclose(rising, [-7.0, -6.0, -5.0, -3.0, -3 + 1 / 3, -3 + 2 / 3, -2.0])
    same = strict(-jnp.array([2.0, 1.0, 0.0]), jnp.float32(-2), jnp.float32(0))
    assert (same == jnp.arange(-2.0, 1)).all()


def test_saveat_returns_the_solution():
    denoise = exact.denoiser(gaussian(), PROCESSES["flow"]())
    x = vector(0, 2, 3)
    save = diffrax.SaveAt(ts=-jnp.array([1.0, 0.5, 0.25]))
    solution = jax.jit(lambda x: integrate(denoise, x, saveat=save).ys)(x)
    assert jnp.allclose(solution[0], x)
    for t, y in zip((0.5, 0.25), solution[1:], strict=True):
        assert jnp.max(jnp.abs(y - flow_map(gaussian(), denoise.process, x, 1.0, t))) < 1e-3


def test_the_gradient_with_respect_to_x_and_the_parameters():
    """d x(0)/d x(1) of the flow of a Gaussian is a matrix known in closed form."""
    dist, proc = gaussian(), PROCESSES["flow"]()

    def end(x, scale):
        scaled = exact.gaussian(scale * dist.means[0], exact.covariance(dist))
        return jnp.sum(integrate(exact.denoiser(scaled, proc), x))

    def truth(x):
        return jnp.sum(flow_map(dist, proc, x, 1.0, 0.0))

    x = vector(0, 2, 3)
    by_x, by_scale = jax.jit(jax.grad(end, (0, 1)))(x, jnp.float32(1.0))
    assert jnp.max(jnp.abs(by_x - jax.grad(truth)(x))) < 1e-2
    # x(0) - m is linear in x(1), so the derivative of the end point by the mean is the mean
    assert jnp.abs(by_scale - 2 * dist.means.sum()) < 2e-2


TIMES = jnp.array([80.0, 20.0, 5.0, 1.0, 0.3, 0.1, 0.0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def sde(solver, adaptive, keys, x):
    denoise = exact.denoiser(gaussian(), PROCESSES["edm"]())
    if adaptive:
        control = diffrax.PIDController(rtol=1e-2, atol=1e-2)
        flow = rebase(denoise, PROCESSES["flow"]())
        return integrate(flow, x / 80, keys=keys, controller=control, solver=solver, t_end=0.1)
    return integrate(denoise, x, keys=keys, solver=solver, times=TIMES)


@pytest.mark.parametrize(
    "solver",
    [None, diffrax.Euler(), pytest.param(diffrax.SEA(), marks=pytest.mark.slow)],
    ids=str,
)
def test_the_sde_draws_per_sample(solver):
    x = 80 * vector(0, 4, 3)
    whole, one = sde(solver, False, keys_of(4), x), sde(solver, False, keys_of(4)[2:3], x[2:3])
    assert jnp.max(jnp.abs(whole[2:3] - one)) < 1e-5 * jnp.max(jnp.abs(whole))
    assert jnp.max(jnp.abs(sde(solver, False, keys_of(4, 1), x) - whole)) > 0.01


@pytest.mark.slow
def test_the_sde_adapts_its_steps():
    whole = sde(None, True, keys_of(64), 80 * vector(0, 64, 3))
    assert jnp.isfinite(whole).all()
    assert jnp.max(jnp.abs(whole.mean(0) - gaussian().means[0])) < 0.5


def test_the_sde_resolves_the_smallest_scales():
    """Data of width 0.02 under edm, t from 80 to 0.002 in single precision: the width is right."""
    dist = exact.gaussian(jnp.array([0.3, -0.7]), 0.02**2 * jnp.eye(2))
    denoise, x = exact.denoiser(dist, PROCESSES["edm"]()), 80 * vector(0, 500, 2)
    times = process.karras(denoise.process, 60)
    got = jax.jit(lambda x: integrate(denoise, x, keys=keys_of(500), times=times))(x)
    assert jnp.all(jnp.abs(got.std(0) / 0.02 - 1) < 0.12), got.std(0)


def test_trees_are_integrated():
    denoise = tree_denoiser(PROCESSES["flow"]())
    x = {"image": vector(0, 2, 2, 2, 1), "kernel": vector(1, 2, 3)}
    times = jnp.linspace(0.999, 0.0, 20)

    @jax.jit
    def both(x):
        return integrate(denoise, x), integrate(denoise, x, keys=keys_of(2), times=times)

    ode, noisy = both(x)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-3), ode, x))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(noisy))


def test_a_guide_that_reads_the_step_is_refused():
    denoise = exact.denoiser(gaussian(), PROCESSES["flow"]())
    late = edited(lambda est, at: est.x0 * at.now.i)(denoise)
    assert isinstance(late, Denoiser)
    with pytest.raises(GridOnly, match=r"now\.i"):
        integrate(late, vector(0, 2, 3))
    assert samplers.sample(jax.random.key(0), late, shape=(1, 3), steps=2).shape == (1, 3)


def test_what_integrate_refuses():
    denoise, x = exact.denoiser(gaussian(), PROCESSES["flow"]()), vector(0, 2, 3)
    with pytest.raises(ValueError, match="decrease"):
        integrate(denoise, x, times=jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="needs times="):
        integrate(denoise, x, keys=keys_of(2))
