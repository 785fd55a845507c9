"""The loop: its rows, its trajectories, where it starts, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.samplers import grid, run, sample, travel
from jaxdiff.types import Estimate, Now
from tests.problems import gaussian, idle_sampler, keys_of, restart, vector

FLOW = process.rectified_flow()
TS = jnp.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_the_schedule_of_repaint():
    """Five steps, blocks of two, each walked twice: written out by hand."""
    rows = travel(TS, repeat=2, jump=2)
    walk = [(1.0, 0.8, 0.8), (0.8, 0.6, 1.0), (1.0, 0.8, 0.8), (0.8, 0.6, 0.6)]
    walk += [(0.6, 0.4, 0.4), (0.4, 0.2, 0.6), (0.6, 0.4, 0.4), (0.4, 0.2, 0.2)]
    walk += [(0.2, 0.0, 0.2), (0.2, 0.0, 0.0)]
    assert np.allclose(np.asarray(rows[:3]).T, walk)
    assert rows.i.tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]
    assert rows.k.tolist() == list(range(10))


def test_one_pass_of_travel_is_the_grid():
    rows, plain = travel(TS, repeat=1, jump=3), grid(TS)
    assert (rows.t == plain.t).all() and (rows.s == plain.s).all() and (rows.u == rows.s).all()
    denoise, x = exact.denoiser(gaussian(), FLOW), vector(0, 2, 3)

    @jax.jit
    def both(x):
        step = functools.partial(run, keys_of(2), denoise, samplers.ddpm())
        return step(rows, x), step(plain, x)

    a, b = both(x)
    assert jnp.allclose(a, b, atol=1e-6)


def test_solver_history_is_void_after_a_jump():
    """2M that has jumped back walks on exactly as 2M that starts there."""
    denoise, x, other = exact.denoiser(gaussian(), FLOW), vector(0, 4, 3), vector(1, 4, 3)

    @jax.jit
    def both(x):
        step = functools.partial(run, keys_of(4), denoise, samplers.dpmpp_2m())
        back = functools.partial(restart, other)
        return step(travel(TS, repeat=2, jump=5), x, renoise=back), step(grid(TS), other)

    jumped, fresh = both(x)
    assert jnp.max(jnp.abs(jumped - fresh)) < 1e-6
    assert jnp.max(jnp.abs(jumped - x)) > 0.1


def test_a_trajectory():
    denoise = exact.denoiser(gaussian(), FLOW)

    def look(now: Now, x, est: Estimate):
        return {"x": x, "x0": est.x0, "i": now.i, "n": now.n, "t": now.t}

    x, seen = jax.jit(lambda x: run(keys_of(2), denoise, samplers.ddim(), grid(TS), x, look=look))(
        vector(0, 2, 3)
    )
    assert (seen["x"][-1] == x).all() and seen["x"].shape == seen["x0"].shape == (5, 2, 3)
    assert jnp.allclose(seen["x0"][-1], x, atol=1e-6)
    assert seen["i"].tolist() == [0, 1, 2, 3, 4] and seen["n"].tolist() == [5] * 5
    assert jnp.allclose(seen["t"], TS[:-1])


def test_times_of_every_sample():
    """Each sample of the batch down its own grid, as if it were alone."""
    denoise, x = exact.denoiser(gaussian(), FLOW), vector(0, 2, 3)
    each = jnp.stack([TS, TS**2], axis=1)

    def walk(x):
        for solver in (samplers.ddim(), samplers.ddpm(), samplers.dpmpp_2m()):
            both = run(keys_of(2), denoise, solver, grid(each), x)
            for i in range(2):
                keys, one = keys_of(2)[i : i + 1], x[i : i + 1]
                yield both[i], run(keys, denoise, solver, grid(each[:, i]), one)[0]

    for together, alone in jax.jit(lambda x: list(walk(x)))(x):
        assert jnp.max(jnp.abs(together - alone)) < 1e-5


def test_memory_is_kept_from_step_to_step():
    """A denoiser writes `aux`, and reads it in the next step from `now.memory`."""

    def fn(x, t, now):
        return Estimate(x, None, {"count": now.memory["count"] + 1.0})

    denoise = Denoiser(FLOW, jax.tree_util.Partial(fn), lambda x: {"count": jnp.zeros(len(x))})
    _, seen = run(
        keys_of(2), denoise, idle_sampler_asking(), grid(TS), jnp.zeros((2, 3)),
        look=lambda now, x, est: est.aux["count"],
    )  # fmt: skip
    assert seen.tolist() == [[i, i] for i in (1.0, 2.0, 3.0, 4.0, 5.0)]


def idle_sampler_asking():
    def step(now, denoise, state):
        return state, denoise(state.x, now.t, now)

    return idle_sampler._replace(step=step)


@functools.partial(jax.jit, static_argnums=0)
def started(strength, image):
    denoise = exact.denoiser(gaussian(), FLOW)
    return sample(
        jax.random.key(0), denoise, idle_sampler, image=image, strength=strength, times=TS,
        look=lambda now, x, est: now.t,
    )  # fmt: skip


@pytest.mark.parametrize("strength, first", [(1.0, 0), (0.6, 2), (0.4, 3), (0.01, 4)])
def test_an_image_is_noised_to_its_strength(strength, first):
    zero, seen = started(strength, jnp.zeros((500, 3)))
    ones, _ = started(strength, jnp.ones((500, 3)))
    assert jnp.allclose(seen, TS[first:-1])
    assert jnp.allclose(ones - zero, 1 - TS[first], atol=1e-6)
    assert jnp.abs(zero.std() - TS[first]) < 0.05


def test_start_and_shape():
    denoise, start = exact.denoiser(gaussian(), process.edm()), vector(0, 2, 3)
    draw = functools.partial(sample, jax.random.key(0), denoise, idle_sampler)
    times = jnp.array([80.0, 1.0, 0.0])
    assert (draw(start=start, times=times) == start).all()
    drawn = draw(shape=(500, 3), times=times)
    assert jnp.abs(drawn.std() - 80.0) < 4


SPAN = (jnp.float32(-1.0), jnp.float32(1.0))


def wrong(**options):
    denoise = Denoiser(FLOW, exact.denoiser(gaussian(), FLOW).fn, None, SPAN)
    return sample(jax.random.key(0), denoise, idle_sampler, **options)


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "exactly one"),
        ({"shape": (1, 3), "start": jnp.zeros((1, 3))}, "exactly one"),
        ({"shape": (1, 3), "steps": 0}, "steps=0"),
        ({"shape": (1, 3), "steps": -3}, "steps=-3"),
        ({"shape": (1, 3), "times": jnp.array([1.0, 0.5, 0.5, 0.0])}, "grid\\[1\\]"),
        ({"shape": (1, 3), "times": jnp.array([0.0, 1.0])}, "decrease"),
        ({"shape": (1, 3), "times": jnp.array([1.0])}, "at least two"),
        ({"image": jnp.zeros((1, 3)), "times": TS, "strength": 0.0}, "strength=0.0"),
        ({"image": jnp.zeros((1, 3)), "times": TS, "strength": 1.5}, "strength=1.5"),
        ({"image": 255 * jnp.ones((1, 3)), "times": TS}, "image spans"),
        ({"image": jnp.full((1, 3), jnp.nan), "times": TS}, "NaN"),
        ({"image": jnp.ones((1, 3), jnp.uint8), "times": TS}, "uint8"),
    ],
)
def test_what_sample_refuses(options, words):
    with pytest.raises(ValueError, match=words):
        wrong(**options)


def test_what_the_loop_refuses():
    denoise = exact.denoiser(gaussian(), FLOW)
    for repeat, jump in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            travel(TS, repeat, jump)
    with pytest.raises(ValueError, match="decrease"):
        grid(TS[::-1])
    with pytest.raises(ValueError, match="one key per sample"):
        run(keys_of(3), denoise, samplers.ddim(), grid(TS), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="one time for the whole batch"):
        each = jnp.stack([TS, TS], axis=1)
        run(keys_of(2), denoise, samplers.heun(), grid(each), jnp.zeros((2, 3)))


def test_corrections_act_after_the_step_and_through_it():
    """`after` changes x_s; `through` moves it by the gradient of a cost of x_0."""
    denoise, x = exact.denoiser(gaussian(), FLOW), vector(0, 2, 3)

    def cost(x0):
        return jnp.sum(x0**2, axis=-1)

    def shift(now, proc, x, est):
        return x + now.s

    @jax.jit
    def walk(x):
        once = functools.partial(run, keys_of(2), denoise, rows=grid(TS[:2]), x=x)
        plain, moved = once(samplers.ddim()), once(samplers.after(shift)(samplers.ddim()))
        pulled = once(samplers.through(cost, 0.3)(samplers.dpmpp_2m()))
        slope = jax.vmap(jax.grad(lambda x: cost(denoise(x[None], TS[0] * 1.0).x0)[0]))(x)
        return plain, moved, pulled, slope

    plain, moved, pulled, slope = walk(x)
    assert jnp.allclose(moved - plain, TS[1])
    assert jnp.allclose(pulled, plain - 0.3 * slope, atol=1e-5)
