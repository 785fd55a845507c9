"""Diffrax: the probability flow and the reverse SDE, against closed forms and the grid."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
import pytest

from jaxdiff import exact, process, samplers
from jaxdiff.denoise import Denoiser, rebase, velocity
from jaxdiff.guidance import edited
from jaxdiff.samplers import ddib, encode, integrate
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
from tests.test_retrace import traces_of


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    ["flow"]
    + [
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("edm", "ve", "vp_linear", "sub_vp", "vp_cosine")
    ],
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


@pytest.mark.slow
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
    [None, *(pytest.param(s, marks=pytest.mark.slow) for s in (diffrax.Euler(), diffrax.SEA()))],
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


@functools.partial(jax.jit, static_argnums=0)
def of_the_family(fn, eta, keys, x):
    """Samples at log-SNR 1 of an SDE that starts in its exact law, the flow's, and the truth."""
    dist, proc = gaussian(2), PROCESSES["vp_linear"]()
    denoise, root = exact.denoiser(dist, proc), jnp.linalg.cholesky(exact.covariance(dist))
    low = process.time_of(proc, 1.0)
    (a, v), (a_s, v_s) = process.scales(proc, 1.0), process.scales(proc, low)
    first = a * dist.means + a * x[:, :2] @ root.T + v * x[:, 2:]
    got = integrate(
        denoise, first, keys=keys, eta=fn or eta, times=jnp.linspace(1.0, low, 40), t_end=low,
        saveat=diffrax.SaveAt(t1=True),
    ).ys[-1]  # fmt: skip
    flow = flow_map(dist, proc, first, 1.0, low)
    return got, flow, a_s * dist.means[0], a_s**2 * exact.covariance(dist) + v_s**2 * jnp.eye(2)


def two_sigma(proc, t):
    """s^2 = 4 sigma^2: no multiple of g."""
    return 2 * proc.sigma(t)


@pytest.mark.parametrize(
    ("fn", "eta"),
    [(None, 0.0), (None, 0.5), (None, 1.0), (None, 2.0)]
    + [pytest.param(two_sigma, 0.0, marks=pytest.mark.slow)],
)
def test_the_whole_family_has_the_marginals(fn, eta):
    """Mean and covariance to four standard errors of 8000 samples; eta = 0 is the flow itself."""
    n = 8000
    got, flow, mean, cov = of_the_family(fn, jnp.float32(eta), keys_of(n, 3), vector(5, n, 4))
    error = jnp.sqrt((cov**2 + jnp.outer(jnp.diagonal(cov), jnp.diagonal(cov))) / n)
    assert jnp.all(jnp.abs(got.mean(0) - mean) < 4 * jnp.sqrt(jnp.diagonal(cov) / n))
    assert jnp.all(jnp.abs(jnp.cov(got.T) - cov) < 4 * error)
    away = jnp.max(jnp.abs(got - flow))
    assert away < 5e-3 if fn is None and eta == 0 else away > 0.5


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


NEWTON = optimistix.Newton(rtol=1e-5, atol=1e-6, linear_solver=lineax.GMRES(rtol=1e-6, atol=1e-7))
CHORD = diffrax.VeryChord(rtol=1e-5, atol=1e-6)
ODES = {  # and how exact each is at its tolerance or steps
    "Dopri8": (diffrax.Dopri8(), 1e-4),
    "Kvaerno5": (diffrax.Kvaerno5(), 1e-4),
    "Kvaerno5 without matrices": (diffrax.Kvaerno5(root_finder=NEWTON), 5e-4),
    "ImplicitEuler": (diffrax.ImplicitEuler(root_finder=CHORD), 2e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODES)
def test_any_solver_of_odes(name):
    solver, slack = ODES[name]
    denoise = exact.denoiser(gaussian(), PROCESSES["flow"]())
    x, low = vector(0, 4, 3), 0.05
    times = jnp.linspace(1.0, low, 200) if name == "ImplicitEuler" else None
    got = jax.jit(lambda x: integrate(denoise, x, solver=solver, times=times, t_end=low))(x)
    truth = denoise(flow_map(gaussian(), denoise.process, x, 1.0, low), low).x0
    assert jnp.max(jnp.abs(got - truth)) < slack


@pytest.mark.slow
def test_an_implicit_solver_on_a_tree():
    x = {"image": vector(0, 2, 2, 2, 1), "kernel": vector(1, 2, 3)}
    denoise = tree_denoiser(PROCESSES["flow"]())
    got = jax.jit(lambda x: integrate(denoise, x, solver=diffrax.Kvaerno5()))(x)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-3), got, x))


SDES = {
    "SRA1": diffrax.SRA1(),
    "ShARK": diffrax.ShARK(),
    "SPaRK": diffrax.SPaRK(),
    "EulerHeun": diffrax.EulerHeun(),
}


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", SDES)
def test_any_solver_of_sdes(name, adaptive):
    """Mean and width at t = 0.2 to five standard errors, on given steps and on its own."""
    if name == "EulerHeun" and adaptive:
        pytest.skip("it estimates no error")
    n, low = 2000, 0.2
    dist, proc = exact.gaussian(jnp.array([0.5]), jnp.array([[0.3]])), PROCESSES["flow"]()
    control = diffrax.PIDController(rtol=1e-2, atol=1e-2) if adaptive else None
    times = None if adaptive else process.karras(proc, 60)

    @jax.jit
    def end(x):
        denoise = exact.denoiser(dist, proc)
        return integrate(
            denoise, x, keys=keys_of(n), solver=SDES[name], controller=control, times=times,
            t_end=low, saveat=diffrax.SaveAt(t1=True),
        ).ys[-1]  # fmt: skip

    got, std = end(vector(0, n, 1)), (0.8**2 * 0.3 + low**2) ** 0.5
    assert abs(got.mean() - 0.4) < 5 * std / n**0.5
    assert abs(got.std() / std - 1) < 5 / (2 * n) ** 0.5


def test_a_progress_meter(capsys):
    denoise, x = exact.denoiser(gaussian(), PROCESSES["flow"]()), vector(0, 2, 3)
    meter = diffrax.TextProgressMeter()
    got = jax.jit(
        lambda x: integrate(
            denoise, x, solver=diffrax.Euler(), times=jnp.linspace(1.0, 0.1, 5), progress=meter
        )
    )(x)
    jax.block_until_ready(got)
    jax.effects_barrier()
    assert capsys.readouterr().out.split()[::4][:2] == ["0.00%", "100.00%"]


def test_a_sample_follows_its_own_tolerance():
    """The hardest sample sets the step: its easy neighbours in a batch do not hide its error."""
    dist = exact.mixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.full((2, 1, 1), 1e-4))
    denoise = exact.denoiser(dist, PROCESSES["flow"]())
    hard, easy = jnp.array([[0.01]]), jnp.array([[3.0]])
    save = diffrax.SaveAt(t1=True)
    steps = jax.jit(lambda x: integrate(denoise, x, saveat=save).stats["num_steps"])
    few, many = steps(jnp.concatenate([hard, easy])), steps(jnp.concatenate([hard, *[easy] * 255]))
    assert abs(few - many) <= 1


@pytest.mark.slow
def test_encoding_is_decoded():
    """x -> x_T in closed form, and back to x."""
    dist, proc = gaussian(), PROCESSES["flow"]()
    denoise = exact.denoiser(dist, proc)
    x = exact.draw(jax.random.key(3), dist, 4)

    @jax.jit
    def there_and_back(x):
        latent = encode(denoise, x)
        return latent, integrate(denoise, latent)

    latent, again = there_and_back(x)
    assert jnp.max(jnp.abs(latent - flow_map(dist, proc, x, 0.0, 1.0))) < 2e-4
    assert jnp.max(jnp.abs(again - x)) < 2e-4


@pytest.mark.slow
def test_how_encoding_begins():
    """Each round shrinks the error of x at the clean end; given times are walked upwards."""
    dist = gaussian()
    denoise = exact.denoiser(dist, PROCESSES["flow"]())
    x, times = exact.draw(jax.random.key(3), dist, 4), jnp.linspace(1.0, 0.1, 7)
    save = diffrax.SaveAt(steps=True, t0=True)

    @jax.jit
    def begun(x):
        first = [encode(denoise, x, rounds=n, t_end=0.1, saveat=save).ys[0] for n in (0, 1, 2)]
        walked = encode(denoise, x, times=times, t_end=0.1, solver=diffrax.Euler(), saveat=save)
        return [jnp.max(jnp.abs(denoise(y, 0.1).x0 - x)) for y in first], walked.ts

    errors, ts = begun(x)
    assert errors[1] < 0.15 * errors[0] and errors[2] < 0.15 * errors[1]
    assert jnp.allclose(ts[:7], times[::-1])


@pytest.mark.slow
def test_a_bridge_between_two_gaussians():
    """Commuting covariances: the optimal map m' + sqrt(C'/C) (x - m), and back by its inverse."""
    u = jnp.linalg.qr(vector(7, 2, 2))[0]
    c, c_there = jnp.array([0.5, 1.5]), jnp.array([1.0, 0.4])
    a = exact.gaussian(jnp.array([1.0, -1.0]), (u * c[None]) @ u.T)
    b = exact.gaussian(jnp.array([0.0, 2.0]), (u * c_there[None]) @ u.T)
    one, two = (exact.denoiser(d, PROCESSES["flow"]()) for d in (a, b))
    x = exact.draw(jax.random.key(3), a, 4)

    bridge = jax.jit(ddib)  # one program: models are arguments
    there = bridge(one, two, x)
    again = bridge(two, one, there)
    optimal = b.means + ((x - a.means) @ u * jnp.sqrt(c_there / c)[None]) @ u.T
    assert jnp.max(jnp.abs(there - optimal)) < 1e-3
    assert jnp.max(jnp.abs(again - x)) < 1e-3


@pytest.mark.slow
def test_a_bridge_between_two_processes():
    """Latents of edm and of a rectified flow differ by their width at t_max."""
    a, b = exact.gaussian(jnp.zeros(1), jnp.eye(1)), exact.gaussian(jnp.zeros(1), 4 * jnp.eye(1))
    wide, narrow = exact.denoiser(a, PROCESSES["edm"]()), exact.denoiser(b, PROCESSES["flow"]())
    got = jax.jit(lambda x: (ddib(wide, narrow, x), ddib(narrow, wide, x)))(jnp.ones((1, 1)))
    assert jnp.allclose(jnp.stack(got).ravel(), jnp.array([2.0, 0.5]), atol=1e-3)


def test_values_are_one_trace():
    x = vector(0, 2, 3)
    both = [exact.denoiser(gaussian(seed=s), PROCESSES["flow"]()) for s in (0, 5)]
    times = jnp.linspace(0.9, 0.1, 4)

    def at_eta(eta):
        return integrate(both[0], x, keys=keys_of(2), eta=eta, times=times)

    assert traces_of(at_eta, (jnp.float32(0.5), jnp.float32(1.0))) == 1
    assert traces_of(lambda d: encode(d, x), both) == 1
    assert traces_of(lambda d: ddib(d, both[0], x), both) == 1


def _same(now, proc, x, est):
    return x


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda d, x: integrate(samplers.heun(), x), "denoise is a Sampler.*`sample` or `run`"),
        (lambda d, x: integrate(samplers.churn(), x), "denoise is of type function.*corrections"),
        (lambda d, x: integrate(d, x, solver=samplers.heun()), "solver is a Sampler.*Tsit5"),
        (
            lambda d, x: integrate(d, x, solver=samplers.after(_same)),
            "solver is .*corrections",
        ),
        (lambda d, x: encode(samplers.heun(), x), "denoise is a Sampler"),
        (lambda d, x: ddib(d, samplers.heun(), x), "denoise is a Sampler"),
        (lambda d, x: integrate(d, x, keys=jax.random.key(0)), r"shape \(\).*\[2\]"),
        (lambda d, x: integrate(d, x, keys=jnp.zeros((2, 2), jnp.uint32)), "uint32"),
        (lambda d, x: integrate(d, x, keys=keys_of(3)), r"shape \(3,\)"),
    ],
)
def test_what_is_of_the_wrong_kind(wrong, why):
    d, x = exact.denoiser(gaussian(), PROCESSES["flow"]()), vector(0, 2, 3)
    with pytest.raises(TypeError, match=why):
        wrong(d, x)


def test_what_integrate_refuses():
    denoise, x = exact.denoiser(gaussian(), PROCESSES["flow"]()), vector(0, 2, 3)
    with pytest.raises(ValueError, match="decrease"):
        integrate(denoise, x, times=jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="needs times="):
        integrate(denoise, x, keys=keys_of(2))
    times = jnp.array([1.0, 0.0])
    with pytest.raises(ValueError, match="give one of them"):
        integrate(denoise, x, times=times, controller=diffrax.ConstantStepSize())
    with pytest.raises(ValueError, match="t_end < t_start"):
        integrate(denoise, x, t_start=0.1, t_end=0.5)
    with pytest.raises(ValueError, match="t_end < t_start"):
        encode(denoise, x, t_end=1.0)
    with pytest.raises(ValueError, match=r"eta=-0\.5"):
        integrate(denoise, x, keys=keys_of(2), eta=-0.5, times=times)
    with pytest.raises(ValueError, match="give keys="):
        integrate(denoise, x, eta=0.5)
    with pytest.raises(ValueError, match="rounds=-1"):
        encode(denoise, x, rounds=-1)
