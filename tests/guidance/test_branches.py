"""Branches of one call: guidance that is more than a weighted sum, and how conditions compose."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import bind, cfg, denoise, exact, guidance, mix, process, samplers
from jaxdiff.trees import fold, normal
from jaxdiff.types import SOLVER, Estimate, GridOnly, Now, Site
from tests.guidance.problems import calls, conditional, waves
from tests.problems import PROCESSES, keys_of, vector

FLOW = process.rectified_flow()
COND, NULL = jnp.array([1, 1]), 0


def experts(diagonal):
    """A prior, then what is known of its first coordinate, of its second, and of both."""
    cov = jnp.diag(jnp.array([0.5, 1.5])) + (0.0 if diagonal else 0.4 * jnp.ones((2, 2)))
    prior = exact.gaussian(jnp.array([0.3, -0.2]), cov)
    first, second = (lambda d, i=i: exact.condition(d, jnp.eye(2)[i : i + 1], Y[i : i + 1], 0.4)
                     for i in (0, 1))  # fmt: skip
    return [prior, first(prior), second(prior), second(first(prior))]


Y = jnp.array([1.0, -1.0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("diagonal", [True, False])
def test_independent_conditions_compose_exactly_and_others_do_not(diagonal):
    m, x = conditional(experts(diagonal), FLOW), vector(0, 3, 2)
    null, first, second, both = (jnp.full(3, k) for k in range(4))

    @jax.jit
    def gaps(x, t):
        ways = {
            "and": guidance.compose(m, (first, second), null, (1.0, 1.0))(x, t).x0,
            "not": guidance.compose(m, (both, second), null, (1.0, -1.0))(x, t).x0,
        }
        truths = {"and": bind(m, both)(x, t).x0, "not": bind(m, first)(x, t).x0}
        return [jnp.max(jnp.abs(ways[name] - truths[name])) for name in ways]

    found = [gap for t in (0.2, 0.5, 0.8) for gap in gaps(x, jnp.full(3, t))]
    assert max(found) < 1e-10 if diagonal else max(found) > 0.05


def test_recipes_are_sums_of_branches():
    m, x = waves(), vector(0, 2, 3)
    cond, neg, null = jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0]), jnp.zeros(2)
    w = jnp.array([2.0, 3.0])

    @jax.jit
    def both(x):
        c, n, u = (bind(m, k)(x, 0.4).x0 for k in (cond, neg, null))
        strong, weak = bind(m, cond), bind(waves(), null)
        wide = w[:, None]
        return [
            # a negative prompt in the place of the null, or with a weight of its own
            (cfg(m, cond, neg, w)(x, 0.4).x0, n + wide * (c - n)),
            (guidance.compose(m, (cond, neg), null, (w, 1 - w))(x, 0.4).x0, n + wide * (c - n)),
            (guidance.compose(m, (cond, neg), null, (w, -0.5))(x, 0.4).x0,
             u + wide * (c - u) - 0.5 * (n - u)),
            (guidance.autoguided(strong, weak, w)(x, 0.4).x0, u + wide * (c - u)),
            (guidance.autoguided(strong, weak, 1.0)(x, 0.4).x0, c),
            (guidance.rescaled_cfg(m, cond, null, w, rescale=0.0)(x, 0.4).x0, u + wide * (c - u)),
            (guidance.apg(m, cond, null, w, eta=1.0)(x, 0.4).x0, u + wide * (c - u)),
            (guidance.apg(m, cond, null, 1.0)(x, 0.4).x0, c),
        ]  # fmt: skip

    for found, expected in both(x):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_every_recipe_is_one_call():
    m, x, cond, null = waves(), vector(0, 2, 3), jnp.ones(2), jnp.zeros(2)
    made = [
        guidance.apg(m, cond, null, 2.0, norm=1.0),
        guidance.rescaled_cfg(m, cond, null, 2.0),
        guidance.compose(m, (cond, cond), null, (1.0, -1.0)),
        cfg(m, cond, null, 2.0),
    ]
    for d in made:
        assert calls(lambda x, d=d: d(x, 0.5).x0, x) == (1, 0)
        assert calls(lambda x, d=d: guidance.dynamic_threshold()(d)(x, 0.5).x0, x) == (1, 0)


def test_rescaling_gives_the_spread_back():
    m, x, cond, null = waves(), vector(0, 2, 5), jnp.array([1.0, 2.0]), jnp.zeros(2)

    @jax.jit
    def ways(x, share):
        d = guidance.rescaled_cfg(m, cond, null, 4.0, rescale=share)
        return d(x, 0.4).x0, cfg(m, cond, null, 4.0)(x, 0.4).x0, bind(m, cond)(x, 0.4).x0

    found, guided, plain = map(np.asarray, ways(x, 1.0))
    np.testing.assert_allclose(found.std(axis=1), plain.std(axis=1), rtol=1e-5)
    ratio = found / guided
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(5, axis=1), rtol=1e-4)
    np.testing.assert_allclose(ways(x, 0.5)[0], (found + guided) / 2, atol=1e-5)


def test_dynamic_thresholding():
    x0 = np.array([[4.0, 2.0, -1.0, 0.5], [0.5, -0.25, 0.1, 0.0]], np.float32)
    fixed = denoise.Denoiser(FLOW, lambda x, t, now: Estimate(jnp.asarray(x0)))
    keep = jax.jit(lambda *numbers: guidance.dynamic_threshold(*numbers)(fixed)(x0, 0.5).x0)
    np.testing.assert_allclose(keep(1.0), [x0[0] / 4, x0[1]])
    # of 0.5, 1, 2, 4: 2
    np.testing.assert_allclose(keep(2 / 3)[0], [1.0, 1.0, -0.5, 0.25], rtol=1e-6)
    # about 1, up to 3
    np.testing.assert_allclose(keep(1.0, 0.0, 2.0)[0], 1 + (x0[0] - 1) / 3, rtol=1e-6)


def test_apg_keeps_off_what_lies_along():
    m, x, cond, null = waves(), vector(0, 3, 4), jnp.array([1.0, 2.0, 0.3]), jnp.zeros(3)

    @jax.jit
    def ways(x):
        plain, none = bind(m, cond)(x, 0.4).x0, bind(m, null)(x, 0.4).x0
        norms = jnp.linalg.norm(plain - none, axis=1)
        bounded = guidance.apg(m, cond, null, 5.0, eta=1.0, norm=norms[1])
        return plain, none, guidance.apg(m, cond, null, 5.0)(x, 0.4).x0, bounded(x, 0.4).x0

    plain, none, found, bounded = map(np.asarray, ways(x))
    across, norms = found - plain, np.linalg.norm(plain - none, axis=1)
    np.testing.assert_allclose(np.sum(across * plain, axis=1), 0, atol=1e-4)
    lost = 4 * (plain - none) - across  # what was left out is along the conditional answer
    for row, base in zip(lost, plain, strict=True):
        assert abs(abs(row @ base) - np.linalg.norm(row) * np.linalg.norm(base)) < 1e-4
    length = np.linalg.norm(bounded - plain, axis=1)
    np.testing.assert_allclose(length, 4 * np.minimum(norms, norms[1]), rtol=1e-5)


def test_apg_remembers():
    """With branches that never change the step is a geometric sum, D (1 + beta + beta^2 + ...)."""
    m = denoise.model(lambda p, x, t, c: 0 * x + c[:, None], {}, FLOW, process.wiring(process.x0))
    rows, x = samplers.grid(jnp.array([1.0, 0.7, 0.4, 0.0])), jnp.ones((2, 1))
    guided = guidance.apg(m, jnp.array([1.0, 2.0]), jnp.zeros(2), 3.0, eta=1.0, momentum=-0.5)
    _, seen = samplers.run(
        keys_of(2), guided, samplers.euler(), rows, x, look=lambda now, x, est: est.x0
    )
    for i, factor in enumerate((1.0, 0.5, 0.75)):
        np.testing.assert_allclose(seen[i][:, 0], jnp.array([1.0, 2.0]) * (1 + 2 * factor), 1e-5)
    with pytest.raises(GridOnly, match="memory"):
        guided(x, 0.5)
    twice = denoise.blend((guided, guided), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"keep \['apg'\]"):
        samplers.run(keys_of(2), twice, samplers.euler(), rows, x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", ["flow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("edm", "vp_linear"))]
)
def test_cfg_plus_puts_the_unconditional_noise_back(name):
    proc = PROCESSES[name]()
    m, x, keys = conditional(experts(False), proc), vector(0, 2, 2), keys_of(2)
    times = [float(process.time_of(proc, lam)) for lam in (-4.0, 0.0)] + [float(proc.t_clean)]
    rows, null = samplers.grid(jnp.array(times)), jnp.zeros(2, int)

    def by_hand(scale, eta):
        state = x
        for k, (t, s) in enumerate(zip(times, times[1:])):
            (alpha, sigma), (alpha_s, sigma_s) = process.scales(proc, t), process.scales(proc, s)
            free, held = bind(m, null)(state, t).x0, bind(m, COND)(state, t).x0
            var = eta**2 * process.posterior(proc, s, t).var
            z = normal(fold(fold(keys, k), SOLVER), x)
            noise = jnp.sqrt(sigma_s**2 - var) * (state - alpha * free) / sigma
            state = alpha_s * (free + scale * (held - free)) + noise + jnp.sqrt(var) * z
        return state

    @jax.jit
    def both(scale, eta):
        guided = guidance.cfg_plus(m, COND, null, scale, eta=eta)
        return samplers.run(keys, guided, samplers.ddim(eta), rows, x), by_hand(scale, eta)

    for scale, eta in ((0.0, 0.0), (0.6, 0.0), (1.0, 0.5), (0.6, 1.0)):
        found, expected = both(scale, eta)
        assert jnp.max(jnp.abs(found - expected)) < 1e-9
    with pytest.raises(GridOnly, match=r"now\.s"):
        guidance.cfg_plus(m, COND, null, 0.5)(x, 0.5)


def test_cfg_plus_at_the_end_of_a_step():
    """The second stage of Heun's method asks at t = s: there the scale is itself, and no 1/0."""
    m, x, null = waves(), vector(0, 2, 3), jnp.zeros(2)
    late = Now(jnp.array(0.7), jnp.array(0.4), 0, 2, keys_of(2), {})
    found = guidance.cfg_plus(m, jnp.ones(2), null, 0.6)(x, 0.4, late).x0
    np.testing.assert_allclose(found, cfg(m, jnp.ones(2), null, 0.6)(x, 0.4).x0, atol=1e-6)


# the kernel


def _hooked(params, x, time, cond):
    """x_0 = what the control makes of x + label, at one site."""
    value = x + cond["label"][:, None]
    place = Site("only", "block", "middle", 0, 0, "block", (1, 1), 0)
    act = cond["control"](place) if "control" in cond else None
    return value if act is None else act(value)


def doubled(site):
    return lambda value: 2 * value


def tripled(site):
    return lambda value: 3 * value


def never(site):
    return None


def hooked():
    return denoise.model(_hooked, {}, FLOW, process.wiring(process.x0), span=None)


def test_a_control_acts_on_its_own_branch():
    conds: list[Any] = [{"label": jnp.array([1.0, 5.0])} | c
             for c in ({}, {"control": doubled}, {"control": tripled})]  # fmt: skip
    x = vector(0, 2, 3)
    answers = []
    denoise.combined(hooked(), conds, lambda b, at: answers.append(b) or Estimate(b[0]))(x, 0.5)
    for k, found in enumerate(answers[0]):
        np.testing.assert_allclose(found, (k + 1) * (x + conds[0]["label"][:, None]), rtol=1e-6)


def test_a_control_has_to_want_something():
    label = {"label": jnp.zeros(2)}
    bad = mix(hooked(), (label, label | {"control": never}), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"branch 1 wants nothing at any of the 1 sites.*only:bl"):
        bad(vector(0, 2, 3), 0.5)


def test_errors():
    m, x = waves(), vector(0, 2, 3)
    with pytest.raises(ValueError, match="conds is empty"):
        denoise.combined(m, (), lambda b, at: Estimate(b[0]))
    with pytest.raises(ValueError, match="different structures"):
        denoise.combined(m, (None, COND), lambda b, at: Estimate(b[0]))
    with pytest.raises(TypeError, match=r"at\.vjp"):
        denoise.combined(m, (COND,), lambda b, at: Estimate(at.vjp(b[0])))(x, 0.5)
    with pytest.raises(ValueError, match="1 conditions and 2 scales"):
        guidance.compose(m, (COND,), 0, (1.0, 2.0))
    for share in (-0.1, 1.5, jnp.array([0.5, 2.0]), jnp.nan):
        with pytest.raises(ValueError, match="rescale="):
            guidance.rescaled_cfg(m, COND, 0, 2.0, rescale=share)
    for share in (0.0, -1.0, 1.5, jnp.nan):
        with pytest.raises(ValueError, match="percentile="):
            guidance.dynamic_threshold(share)
    with pytest.raises(ValueError, match="low=1"):
        guidance.dynamic_threshold(0.9, 1.0, 1.0)
    for norm in (0.0, -1.0, jnp.nan):
        with pytest.raises(ValueError, match="norm="):
            guidance.apg(m, COND, 0, 2.0, norm=norm)
    with pytest.raises(ValueError, match="coefficient of shape"):
        cfg(m, COND, 0, jnp.ones(3))(x, 0.5)


def _waves_on_trees(params, x, time, cond):
    return jax.tree.map(lambda a: jnp.sin(a + cond.reshape(-1, *[1] * (a.ndim - 1))), x)


def test_samples_may_be_trees():
    m = denoise.model(_waves_on_trees, {}, FLOW, process.wiring(process.x0), span=None)
    x = {"image": vector(0, 2, 2, 2, 1), "kernel": vector(1, 2, 3)}
    cond, null, times = jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.array([0.2, 0.7])

    @jax.jit
    def answers(x, cond, t):
        made = [
            guidance.apg(m, cond, null, 3.0, norm=1.0),
            guidance.rescaled_cfg(m, cond, null, 3.0),
            guidance.dynamic_threshold(0.6)(cfg(m, cond, null, 3.0)),
        ]
        return [d(x, t).x0 for d in made]

    whole = answers(x, cond, times)
    twice = jnp.array([1, 1])  # the same sample twice: the program is compiled once
    one = answers(jax.tree.map(lambda a: a[twice], x), cond[twice], times[twice])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a[0], b[1], atol=1e-5)
    joint = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(
        jax.tree.leaves(whole[0]), jax.tree.leaves(bind(m, cond)(x, times).x0))))  # fmt: skip
    assert 0 < joint < 2 * 2**0.5 + 1e-5  # two samples, each moved by at most (w - 1) r
