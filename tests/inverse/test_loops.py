"""Loops against exact posteriors, stationary points and what they leave invariant."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from jaxdiff import exact, inverse, process, samplers
from tests.inverse.test_particles import assert_moments
from tests.problems import gaussian, keys_of, tree_denoiser, vector

FLOW, EDM = process.rectified_flow(), process.edm(0.02, 30.0)
A, Y, NOISE, V0 = vector(20, 2, 3), jnp.array([0.8, -0.9]), 0.4, 0.8
OPERATOR, ROWS = inverse.matrix(A), 4000
CENTRE, VAR = jnp.array([0.5, -0.2, 0.3]), 0.6


def everyone(y, n=ROWS):
    return jnp.broadcast_to(y, (n, *y.shape))


def cubed(x):
    return jnp.array([x[0] ** 3 + x[1]])


MOVES = {
    "conjugate": inverse.conjugate(OPERATOR, everyone(Y), noise=NOISE),
    "hmc": inverse.hmc(OPERATOR, everyone(Y), noise=NOISE, size=0.25, leaps=3, steps=4),
    "metropolis": inverse.metropolis(OPERATOR, everyone(Y), noise=NOISE, size=0.4, steps=40),
    "langevin": inverse.langevin(
        OPERATOR, everyone(Y), noise=NOISE, size=lambda v: 0.01 * v, steps=150
    ),
}


@pytest.mark.slow
def test_moves_keep_what_they_draw_from():
    """From exact draws, and they do move: a chain that stood still would also pass."""
    prior = exact.gaussian(CENTRE, VAR * jnp.eye(3))
    law = exact.condition(prior, A, Y, NOISE)
    start = exact.draw(jax.random.key(1), law, ROWS)

    @jax.jit
    def ends(keys, start):
        centre, var = everyone(CENTRE), jnp.full(ROWS, VAR)
        return {name: move(keys, centre, var, start) for name, move in MOVES.items()}

    for name, x in ends(keys_of(ROWS), start).items():
        assert_moments(x, law, 0.08)
        kept = jnp.corrcoef(x.T, start.T)[:3, 3:]
        assert jnp.max(jnp.abs(jnp.diagonal(kept))) < 0.8, name


@pytest.mark.slow
def test_moves_draw_from_a_target_that_is_not_gaussian():
    """The two moves that need not be linear agree on the moments of a bent one."""
    bent, y = inverse.Nonlinear(Partial(cubed), (2,)), everyone(jnp.array([0.7]))

    @jax.jit
    def ends(keys):
        centre, var = jnp.zeros((ROWS, 2)), jnp.full(ROWS, 0.5)
        walk = inverse.metropolis(bent, y, noise=0.3, size=0.4, steps=800)
        leap = inverse.hmc(bent, y, noise=0.3, size=0.12, leaps=8, steps=120)
        return walk(keys, centre, var, centre), leap(keys, centre, var, centre)

    walked, leapt = ends(keys_of(ROWS))
    assert jnp.max(jnp.abs(walked.mean(0) - leapt.mean(0))) < 0.05
    assert jnp.max(jnp.abs(jnp.cov(walked.T) - jnp.cov(leapt.T))) < 0.05


@pytest.mark.parametrize("proc", [FLOW, EDM], ids=["flow", "edm"])
def test_daps_is_exact_for_an_isotropic_gaussian(proc):
    """With the posterior mean for the flow's end, at any number of levels: here four."""
    prior = exact.gaussian(vector(1, 3), V0 * jnp.eye(3))
    ts = process.karras(proc, 4)

    @jax.jit
    def go(keys, x):
        move, denoise = MOVES["conjugate"], exact.denoiser(prior, proc)
        return inverse.daps(keys, denoise, ts, x, move=move, steps=1, v0=V0)

    x = go(keys_of(ROWS), proc.sigma(ts[0]) * vector(5, ROWS, 3))
    assert_moments(x, exact.condition(prior, A, Y, NOISE), 0.08)


def test_pnp_dm_has_the_law_of_its_last_level():
    """At a fixed rho: the prior times the likelihood with noise s^2 I + rho^2 A A^T."""
    rows, rho = jnp.linalg.qr(A.T)[0].T, 0.5  # A A^T = I
    ts = jnp.array([4.0, 2.0, 1.0, *[rho] * 12])

    @jax.jit
    def go(keys, x):
        move = inverse.conjugate(inverse.matrix(rows), everyone(Y), noise=NOISE)
        return inverse.pnp_dm(keys, exact.denoiser(gaussian(), EDM), ts, x, move=move, steps=40)

    law = exact.condition(gaussian(), rows, Y, (NOISE**2 + rho**2) ** 0.5)
    assert_moments(go(keys_of(ROWS), jnp.zeros((ROWS, 3))), law, 0.1)


def test_red_diff_rests_where_its_gradients_cancel():
    """lambda (mu - E x_0(alpha mu + sigma eps)) = A^T (y - A mu) / s^2, at one level."""
    t, weight, mean = 0.4, 2.0, vector(1, 3)
    alpha, sigma = process.scales(FLOW, t)
    prior = exact.gaussian(mean, V0 * jnp.eye(3))

    @jax.jit
    def go(keys, x):
        given = FLOW_TIMES * 0 + t, x, OPERATOR, everyone(Y, 300)
        denoise = exact.denoiser(prior, FLOW)
        return inverse.red_diff(keys, denoise, *given, noise=NOISE, weight=weight, rate=0.03)

    found = go(keys_of(300), jnp.zeros((300, 3))).mean(0)
    left = weight * (1 - alpha**2 * V0 / (alpha**2 * V0 + sigma**2)) * jnp.eye(3)
    right = left @ mean + A.T @ Y / NOISE**2
    truth = jnp.linalg.solve(left + A.T @ A / NOISE**2, right)
    assert jnp.max(jnp.abs(found - truth)) < 0.03
    assert jnp.max(jnp.abs(found - mean)) > 0.2  # and that is not where the prior is


FLOW_TIMES = jnp.linspace(0.9, 0.05, 300)


def scaled(phi, x):
    return phi * x


def restore(denoise, phi, y):
    operator = inverse.linear(Partial(scaled, phi), (4,), steps=4)
    return inverse.pigdm(operator, y, noise=0.5, v0=1e-4)(denoise), samplers.ddpm()


def joint(y, x0, phi):
    return -0.5 * jnp.sum((y - phi * x0) ** 2) / 0.5**2


@pytest.mark.slow
def test_blind_gains():
    """x is known but for 1e-4, so the gain of y = phi x + noise has a Gaussian posterior."""
    centre = jnp.array([1.0, -0.5, 1.2, 0.8])
    denoise = exact.denoiser(exact.gaussian(centre, 1e-4 * jnp.eye(4)), FLOW)
    n, ts = 500, process.karras(FLOW, 6)
    y = 1.7 * centre[None] + 0.5 * vector(3, n, 4)

    @jax.jit
    def go(keys, x, y):
        given = denoise, ts, x, jnp.ones(n), y
        drawn = inverse.gibbs_ddrm(
            keys, *given, restore=restore, joint=joint, size=0.005, updates=40
        )
        return drawn, inverse.ladibi(keys, *given, restore=restore, joint=joint)

    (x, drawn), (_, best) = go(keys_of(n), vector(4, n, 4), y)
    truth, width = y @ centre / (centre @ centre), 0.5 / jnp.linalg.norm(centre)
    assert jnp.max(jnp.abs(x - centre[None])) < 0.06
    assert jnp.max(jnp.abs(best - truth)) < 0.05
    rest = (drawn - truth) / width
    assert jnp.abs(rest.mean()) < 0.12 and jnp.abs(rest.std() - 1) < 0.12


def test_adir_adapts_to_the_nearest_images():
    gallery = jnp.concatenate([jnp.ones((5, 2)), -3 * jnp.ones((5, 2))]) + 0.1 * vector(0, 10, 2)
    rows = inverse.nearest(jnp.array([0.9, 1.1]), gallery, 5)
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]

    def loss(params, key, batch):
        return jnp.mean((params["x0"][None] - batch.x) ** 2)

    before = {"x0": jnp.zeros(2)}
    adapt = jax.jit(lambda images: inverse.adir(
        jax.random.key(0), before, loss, images, steps=200, rate=0.05
    ))  # fmt: skip
    after = adapt(gallery[rows])
    assert jnp.max(jnp.abs(after["x0"] - gallery[:5].mean(0))) < 0.02
    assert (before["x0"] == 0).all()


LOOPS = {
    "daps": lambda keys, x, y: inverse.daps(
        keys, tree_denoiser(FLOW), process.karras(FLOW, 3), x, steps=2,
        move=inverse.hmc(OPERATOR, y, noise=NOISE, size=0.2, steps=3),
    ),
    "pnp_dm": lambda keys, x, y: inverse.pnp_dm(
        keys, tree_denoiser(FLOW), jnp.array([0.8, 0.4]), x, steps=3,
        move=inverse.langevin(OPERATOR, y, noise=NOISE, size=0.01, steps=3),
    ),
    "red_diff": lambda keys, x, y: inverse.red_diff(
        keys, tree_denoiser(FLOW), FLOW_TIMES[:5], x, OPERATOR, y, noise=NOISE
    ),
    "gibbs_ddrm": lambda keys, x, y: inverse.gibbs_ddrm(
        keys, tree_denoiser(FLOW), process.karras(FLOW, 3), x, jnp.ones(len(y)), y,
        restore=by_matrix, joint=by_gain, size=0.01,
    )[0],
}  # fmt: skip


def by_matrix(denoise, phi, y):
    operator = inverse.linear(Partial(gained, phi), (3,), steps=3)
    return inverse.ddnm(operator, y, noise=0.3)(denoise), samplers.ddpm()


def gained(phi, x):
    return phi * (A @ x)


def by_gain(y, x0, phi):
    return -jnp.sum((y - gained(phi, x0)) ** 2)


@pytest.mark.parametrize(
    "name", ["daps", *(pytest.param(n, marks=pytest.mark.slow) for n in LOOPS if n != "daps")]
)
@pytest.mark.slow
def test_a_batch_is_its_samples(name):
    y = vector(1, 3, 2) * jnp.array([0.1, 1.0, 5.0])[:, None]
    x, keys = vector(0, 3, 3), keys_of(3)
    go = jax.jit(LOOPS[name])
    found, alone = go(keys, x, y), go(keys[1:2], x[1:2], y[1:2])
    assert jnp.isfinite(found).all()
    assert jnp.max(jnp.abs(found[1] - alone[0])) < 1e-5 * jnp.max(jnp.abs(found))


def test_a_noise_of_ones_own():
    class Law:
        def log_prob(self, y, clean):
            return -jnp.sum(jnp.abs(y - clean))

    x, y = vector(0, 2, 3), vector(1, 2, 2)
    found = inverse.log_likelihood(OPERATOR, y, Law())(x)
    assert jnp.allclose(found, -jnp.abs(y - x @ A.T).sum(1), atol=1e-5)


def test_errors():
    y, x, keys = everyone(Y, 2), jnp.zeros((2, 3)), keys_of(2)
    denoise, move = tree_denoiser(FLOW), inverse.conjugate(OPERATOR, everyone(Y, 2), noise=0.1)
    bent = inverse.Nonlinear(Partial(cubed), (2,))
    walks = functools.partial(inverse.hmc, OPERATOR, y, noise=0.1)
    loop = functools.partial(inverse.daps, keys, denoise, move=move)
    turns = functools.partial(inverse.pnp_dm, keys, denoise, x=x, move=move)
    red = functools.partial(inverse.red_diff, keys, denoise, FLOW_TIMES, x, OPERATOR, y)
    blind = functools.partial(
        inverse.gibbs_ddrm, keys, denoise, x=x, phi=jnp.ones(2), y=y, restore=restore, joint=joint
    )
    grid = process.karras(FLOW, 3)
    cases = [
        (lambda: inverse.conjugate(OPERATOR, y, noise=-1.0), "noise=-1"),
        (lambda: inverse.hmc(OPERATOR, y, noise=0.0, size=0.1), "noise=0"),
        (lambda: walks(size=0.0), "size=0"),
        (lambda: walks(size=0.1, leaps=0), "leaps=0"),
        (lambda: walks(size=0.1, steps=0), "steps=0"),
        (lambda: loop(grid[::-1], x), "decrease"),
        (lambda: loop(grid, x, steps=0), "steps=0"),
        (lambda: turns(ts=grid), "alpha = 0 or sigma = 0"),
        (lambda: turns(ts=jnp.array([0.2, 0.4])), "ts increase"),
        (lambda: red(noise=0.1, weight=0.0), "weight=0"),
        (lambda: red(noise=0.1, rate=-1.0), "rate=-1"),
        (lambda: blind(ts=grid, size=0.0), "size=0"),
        (lambda: blind(ts=grid, size=0.1, updates=0), "updates=0"),
        (lambda: inverse.nearest(Y, everyone(Y, 2), 3), "k=3"),
        (lambda: inverse.adir(jax.random.key(0), x, joint, x, steps=0), "steps=0"),
        (lambda: inverse.adir(jax.random.key(0), x, joint, x, rate=0.0), "rate=0"),
    ]
    for make, words in cases:
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(ValueError, match="needs a linear operator"):
        inverse.conjugate(bent, y, noise=0.1)
