"""Monte-Carlo smoothing and the unified step: exact where they can be, and equal to their parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from jaxdiff import bind, denoise, exact, guidance, process, samplers
from jaxdiff.guidance import energy, pulled, smoothed
from jaxdiff.trees import combine
from jaxdiff.types import GridOnly, Now, Sampler
from tests.guidance.problems import calls, waves
from tests.problems import gaussian, keys_of, tree_denoiser, vector

FLOW, VE = process.rectified_flow(), process.edm()
TS = jnp.array([0.9, 0.6, 0.3, 0.0])


def far(x0, target):
    return jnp.sum(jnp.cosh(x0 - target))


def likelihood(x0):
    """-log p(y | x_0) of y = x_0 + 0.4 n = 1."""
    return jnp.sum((1.0 - x0) ** 2) / (2 * 0.4**2)


def nodes(count):
    """Equal weights: midpoints of the quantiles of a standard normal."""
    return norm.ppf((jnp.arange(count) + 0.5) / count)


@pytest.mark.usefixtures("x64")
def test_smoothing_is_exact_for_a_gaussian():
    """N(0, 1) has the posterior deviation r of the default: with enough nodes LGD-MC is Bayes."""
    prior, count, t = exact.gaussian(jnp.zeros(1), jnp.eye(1)), 4000, 0.7
    x = jnp.array([[0.3], [-1.0], [2.0]])
    noise = jnp.broadcast_to(nodes(count)[:, None, None], (count, 3, 1))
    tape = samplers.tape(guide=noise[None])

    @jax.jit
    def estimates(x):
        plain = exact.denoiser(prior, FLOW)
        rows = samplers.grid(jnp.array([t, 0.5]))
        first = lambda now, x, est: est.x0  # noqa: E731
        guided = pulled(smoothed(likelihood, count))(plain)
        found = samplers.run(tape, guided, samplers.euler(), rows, x, look=first)[1][0]
        sharp = pulled(energy(likelihood))(plain)(x, t).x0
        given = exact.condition(prior, jnp.eye(1), jnp.ones(1), 0.4)
        return found, sharp, exact.denoiser(given, FLOW)(x, t).x0

    found, sharp, truth = estimates(x)
    assert jnp.max(jnp.abs(found - truth)) < 2e-3 < 0.1 < jnp.max(jnp.abs(sharp - truth))


def now_at(t, s, b, seed=0):
    return Now(jnp.array(t), jnp.array(s), jnp.array(0), jnp.array(2), keys_of(b, seed), {})


def test_smoothing_without_a_width_is_the_energy():
    x, target, base = vector(0, 2, 3), vector(1, 2, 3), bind(waves())

    @jax.jit
    def ask(x, r, seed):
        guide = pulled(smoothed(far, 5, 0.3, r=r, each=(target,)))
        sharp = pulled(energy(far, 0.3, each=(target,)))(base)(x, 0.5).x0
        return guide(base)(x, 0.5, now_at(0.5, 0.4, 2, seed)).x0, sharp

    np.testing.assert_allclose(*ask(x, 0.0, 0), rtol=1e-5)
    assert not jnp.allclose(ask(x, 1.0, 0)[0], ask(x, 1.0, 1)[0])
    wide = pulled(smoothed(far, 5, each=(target,)))(base)
    assert calls(lambda x: wide(x, 0.5, now_at(0.5, 0.4, 2)).x0, x) == (1, 1)


STEP, EULER = samplers.grid(TS), samplers.euler()


def walk(denoiser, sampler, x, rows=STEP):
    return samplers.run(keys_of(x.shape[0], 3), denoiser, sampler, rows, x)


def one_step(denoiser, sampler, x):
    """A step 0.6 -> 0.3 by itself: a loop would only cost compiling."""
    state = sampler.init(x)
    return sampler.step(now_at(0.6, 0.3, x.shape[0], 3), denoiser, state)[0].x


def _costs(target, x0):
    return jax.vmap(far)(x0, target)


def mpgd_step(target, mu, now, d, state):
    """x_0 moved, the noise kept: by hand, alpha_s (x_0 - mu grad) + sigma_s eps."""
    est = d(state.x, now.t, now)
    (alpha, sigma), (alpha_s, sigma_s) = (process.scales(d.process, u) for u in (now.t, now.s))
    eps = (state.x - alpha * est.x0) / sigma
    moved = est.x0 - mu * jax.vmap(jax.grad(far))(est.x0, target)
    return state._replace(x=alpha_s * moved + sigma_s * eps), est


@pytest.mark.usefixtures("x64")
def test_each_recipe_is_the_method_by_itself():
    """On a process with alpha = 1, where TFG's alpha_s/alpha_t is 1."""
    x, each, rate = vector(0, 3, 2), (vector(1, 3, 2),), 0.05
    d, solver = exact.denoiser(gaussian(2), VE), samplers.euler()

    @jax.jit
    def ends(x):
        target = each[0]
        dps = samplers.through(functools.partial(_costs, target), rate)(solver)
        methods = {
            "dps": (guidance.tfg_dps(far, rate, each=each), dps),
            "lgd": (
                guidance.tfg_lgd(far, rate, gamma=0.5, samples=4, each=each),
                _shifted(smoothed(far, 4, rate, r=half_spread, each=each))(solver),
            ),
            "mpgd": (
                guidance.tfg_mpgd(far, rate, each=each),
                Sampler(solver.init, functools.partial(mpgd_step, target, rate)),
            ),
            "ugd": (
                guidance.tfg_ugd(far, rate, rate, each=each),
                _both_ways(target, rate, solver),
            ),
            "nothing": (guidance.tfg(far, mu=1.0, iterations=0, each=each), solver),
        }
        return {
            name: [one_step(d, sampler, x) for sampler in (fix(solver), alone)]
            for name, (fix, alone) in methods.items()
        }

    found = ends(x)
    plain = found.pop("nothing")
    assert jnp.array_equal(*plain)
    for name, (one, other) in found.items():
        assert jnp.max(jnp.abs(one - other)) < 1e-10, name
        assert jnp.max(jnp.abs(one - plain[0])) > 1e-3, name


def test_freedom_is_the_step_of_dps():
    x, target = vector(0, 2, 3), jnp.zeros((1, 3))
    texts = [
        jax.make_jaxpr(lambda x, f=f: walk(bind(waves()), f(far, 0.1, each=(target,))(EULER), x))(x)
        for f in (guidance.tfg_dps, guidance.tfg_freedom)
    ]
    assert str(texts[0]) == str(texts[1])


def _shifted(pull):
    """A pull as a step at x_t: x_s += J^T pull; the sampler takes the plain x_0."""

    def fix(sampler):
        def step(now, denoiser, state):
            new, est = sampler.step(now, denoiser, state)
            moved = pulled(pull)(denoiser)(state.x, now.t, now).x0
            gain = process.scales(VE, now.t)[1] ** 2
            return new._replace(x=new.x + (moved - est.x0) / gain), est

        return Sampler(sampler.init, step)

    return fix


def half_spread(at):
    return 0.5 * guidance.unit_spread(at)


def _both_ways(target, rate, sampler):
    """Universal guidance with one backward step: DPS's move at x_t, MPGD's at x_0."""
    forward = samplers.through(functools.partial(_costs, target), rate)

    def step(now, d, state):
        new, est = forward(sampler).step(now, d, state)
        moved, _ = mpgd_step(target, rate, now, d, state)
        plain, _ = mpgd_step(target, 0.0, now, d, state)
        return new._replace(x=combine((1.0, new.x), (1.0, moved.x), (-1.0, plain.x))), est

    return Sampler(sampler.init, step)


@pytest.mark.usefixtures("x64")
def test_steps_at_x0_descend_to_the_minimum():
    """A quadratic loss and step 1/2: each of N_iter halves the distance, exactly at the end."""
    x, target = vector(0, 2, 3), vector(1, 2, 3)
    d, rows = tree_denoiser(FLOW), samplers.grid(jnp.array([0.5, 0.0]))
    plain = walk(d, samplers.euler(), x, rows)
    for count in (1, 3):
        fix = guidance.tfg(lambda x0, y: jnp.sum((x0 - y) ** 2) / 2, mu=0.5, iterations=count,
                           each=(target,))  # fmt: skip
        found = walk(d, fix(samplers.euler()), x, rows)
        assert jnp.allclose(found - target, (plain - target) / 2**count, atol=1e-12)


def test_calls_and_ends():
    x, d, target = vector(0, 2, 3), bind(waves()), jnp.zeros((1, 3))
    step = functools.partial(guidance.tfg, far, each=(target,))
    cases = {
        (1, 0): step(mu=0.1, iterations=3, gamma=0.2, samples=3),
        (1, 1): step(rho=0.1, mu=0.1),
    }
    for expected, fix in cases.items():
        assert calls(lambda x, fix=fix: walk(d, fix(samplers.euler()), x), x) == expected
    ends = jnp.array([1.0, 0.5, 0.0])  # alpha = 0 at the start
    assert jnp.isfinite(walk(d, step(rho=0.1)(samplers.euler()), x, samplers.grid(ends))).all()


@jax.jit
def sampled(keys, x, target):
    d, solver = bind(waves()), samplers.ddpm()
    fixes = (
        guidance.tfg(far, rho=0.1, mu=0.1, iterations=2, gamma=0.5, samples=3, each=(target,)),
        guidance.sketch(_edges, target, 0.3),
    )
    tapped = denoise.Denoiser(FLOW, jax.tree_util.Partial(_with_taps, d.fn))
    smooth = pulled(smoothed(far, 3, 0.1, each=(target,)))(d)
    now = now_at(0.6, 0.3, 3)._replace(key=keys)
    made = [(tapped, fix(solver)) for fix in fixes] + [(smooth, solver)]
    return [sampler.step(now, one, sampler.init(x))[0].x for one, sampler in made]


def _with_taps(fn, x, t, now):
    est = fn(x, t, now)
    return est._replace(aux={"taps": {"a": jnp.sin(est.x0), "b": x**2}})


def _edges(taps, t):
    return t * taps["a"] + taps["b"]


def test_a_batch_is_its_samples():
    """Targets of very unlike sizes: a norm or a mean over the batch would show."""
    x, target = vector(0, 3, 4), vector(1, 3, 4) * jnp.array([0.1, 1.0, 3.0])[:, None]
    whole = sampled(keys_of(3), x, target)
    for i in range(3):
        alone = jnp.full(3, i)  # the same sample thrice: the program is compiled once
        one = sampled(keys_of(3)[alone], x[alone], target[alone])
        for a, b in zip(one, whole, strict=True):
            assert jnp.max(jnp.abs(a[0] - b[i])) < 1e-5 * max(1.0, float(jnp.max(jnp.abs(b[i]))))


@pytest.mark.usefixtures("x64")
def test_sketches_move_by_the_length_of_the_step():
    """Downhill: beta ||x_t - x_s|| along -grad, a finite difference of the loss of the edges."""
    x, target, beta, h = vector(0, 2, 3), vector(1, 2, 3), jnp.array([0.5, 0.1]), 1e-6
    d = denoise.Denoiser(FLOW, jax.tree_util.Partial(_with_taps, bind(waves()).fn))
    fix = guidance.sketch(_edges, target, beta)

    @jax.jit
    def loss(x):
        taps = d(x, 0.6).aux["taps"]
        return jnp.sum((0.6 * taps["a"] + taps["b"] - target) ** 2, axis=1)

    @jax.jit
    def ends(x):
        at_rest = guidance.sketch(lambda taps, t: 0 * taps["a"], jnp.zeros((1, 3)), 1.0)
        return [one_step(d, sampler, x) for sampler in (EULER, fix(EULER), at_rest(EULER))]

    plain, moved, rested = map(np.asarray, ends(x))
    slope = np.stack([(loss(x + h * e) - loss(x - h * e)) / (2 * h) for e in np.eye(3)[:, None]], 1)
    unit = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    length = np.asarray(beta) * np.linalg.norm(np.asarray(x) - plain, axis=1)
    np.testing.assert_allclose(moved - plain, -length[:, None] * unit, atol=1e-7)
    np.testing.assert_array_equal(rested, plain)
    assert calls(lambda x: one_step(d, fix(EULER), x), x)[1] > 0


@pytest.mark.parametrize("make", [(process.edm, 80.0), (process.vp_linear, 1.0)])
def test_schedules_keep_their_mean(make):
    """What rises and what falls, weighed by their shares, are one constant."""
    proc, top = make[0](), make[1]
    ts = top * jnp.linspace(1, 0, 9) ** 2
    rises, falls = (f(proc, ts, 0.5).args[0] for f in (guidance.rising, guidance.falling))
    np.testing.assert_allclose([rises.mean(), falls.mean()], 0.5, rtol=1e-5)
    abar = process.scales(proc, ts)[0] ** 2 / sum(a**2 for a in process.scales(proc, ts))
    kept = abar[:-1] / abar[1:]
    np.testing.assert_allclose(rises / rises[-1], kept / kept[-1], rtol=1e-4)
    np.testing.assert_allclose(rises * kept.mean() + falls * (1 - kept.mean()), 0.5, rtol=1e-4)


def test_a_scale_by_step():
    """In step i the loss has the scale values[i], also when the step is walked again."""
    x, d, target = vector(0, 2, 3), bind(waves()), jnp.zeros((1, 3))
    rows, values = samplers.travel(TS, repeat=2), jnp.array([0.0, 0.1, 0.0])
    keep = lambda now, x, est: x  # noqa: E731
    plain, guided = (
        samplers.run(keys_of(2), one, EULER, rows, x, look=keep)[1]
        for one in (d, pulled(energy(far, guidance.by_step(values), each=(target,)))(d))
    )
    same = [bool(jnp.array_equal(a, b)) for a, b in zip(plain, guided, strict=True)]
    assert same == [True, True, False, False, False, False]


def test_errors():
    x, d = vector(0, 2, 3), bind(waves())
    for samples in (0, -1):
        with pytest.raises(ValueError, match=f"samples={samples}"):
            smoothed(far, samples)
        with pytest.raises(ValueError, match=f"samples={samples}"):
            guidance.tfg(far, rho=1.0, gamma=1.0, samples=samples)
    with pytest.raises(ValueError, match="iterations=-1"):
        guidance.tfg(far, mu=1.0, iterations=-1)
    with pytest.raises(ValueError, match=r"gamma=-0\.5"):
        guidance.tfg(far, rho=1.0, gamma=-0.5)
    with pytest.raises(GridOnly, match=r"now\.key"):
        pulled(smoothed(far, 2, each=(jnp.zeros((1, 3)),)))(d)(x, 0.5)
    with pytest.raises(ValueError, match="carries no taps"):
        walk(d, guidance.sketch(_edges, x, 1.0)(samplers.euler()), x)
    tapped = denoise.Denoiser(FLOW, jax.tree_util.Partial(_with_taps, d.fn))
    with pytest.raises(ValueError, match="target of shape"):
        walk(tapped, guidance.sketch(_edges, x[:, :2], 1.0)(samplers.euler()), x)


@pytest.mark.usefixtures("x64")
def test_the_scales_of_the_two_moves():
    """One step where alpha is neither 1 nor constant: alpha_s/alpha_t at x_t, alpha_s at x_0."""
    x, target = vector(0, 2, 3), vector(1, 2, 3)
    d, rows = bind(waves()), samplers.grid(jnp.array([0.6, 0.2]))  # alpha 0.4, then 0.8
    rho, mu = jnp.array([0.3, 0.1]), lambda at: at.alpha

    @jax.jit
    def moves(x):
        both = guidance.tfg(far, rho=rho, mu=mu, iterations=2, each=(target,))
        plain = walk(d, EULER, x, rows)
        found = walk(d, both(EULER), x, rows) - plain
        through = jax.grad(lambda x: -jnp.sum(_costs(target, d(x, 0.6).x0)))(x)
        uphill = jax.vmap(jax.grad(lambda x0, y: -far(x0, y)))
        x0 = d(x, 0.6).x0
        first = 0.4 * uphill(x0, target)
        second = first + 0.4 * uphill(x0 + first, target)
        return found, 0.8 / 0.4 * rho[:, None] * through + 0.8 * second

    assert jnp.max(jnp.abs(jnp.subtract(*moves(x)))) < 1e-10
