"""Score matching at its known minima: integrals over a mixture by quadrature, directions by count.

A loss over one sample is evaluated at every node of a lattice and weighed with the density, so what
the papers say of expectations holds to rounding and no test of these is statistical.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import denoise, exact, losses
from jaxdiff import process as pr
from jaxdiff.trees import normal
from jaxdiff.types import Batch
from tests.fakes import CLOCKS, exact_network, plane

_KEY = jax.random.key(0)
_FOUR = jnp.array([[1.0, 1.0], [1.0, -1.0]])  # with their opposites, all the signs in the plane


def log_p(x):
    return exact.log_density(plane(), pr.edm(), x, 0.0)


def truth(x, cond=None):
    return jax.vmap(jax.grad(lambda one: log_p(one[None])[0]))(x)


def score(params, x, cond):
    """The true one at zero; `bend` makes it no gradient of anything."""
    bent = jnp.tanh(x[:, ::-1]) * params.get("bend", 0.0)
    return truth(x) * (1 + params.get("scale", 0.0)) + params.get("shift", 0.0) + bent


def log_density(params, x, cond):
    return (1 + params.get("scale", 0.0)) * log_p(x) + 3.0


@functools.cache
def nodes():
    line = np.linspace(-8.0, 8.0, 49)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


def expected(loss, params):
    """E_p of a loss, by the rule of equal weights: it is exact for what decays as p does."""
    x = jnp.asarray(nodes())
    p = jnp.exp(log_p(x))
    one = lambda row: loss(params, _KEY, Batch(row[None]))[0]  # noqa: E731
    return jnp.sum(p * jax.vmap(one)(x)) / jnp.sum(p)


def along(direction):
    return lambda keys, x: jnp.broadcast_to(jnp.asarray(direction, x.dtype), x.shape)


WRONG = {"scale": 0.3, "shift": -0.2, "bend": 0.5}
explicit = functools.partial(losses.explicit_score_loss, score=score, truth=truth)
implicit = functools.partial(losses.implicit_score_loss, score=score)


def sliced(params, key, batch, **kinds):
    """Over all signs."""
    each = [losses.sliced_score_loss(params, key, batch, score=score, directions=along(v), **kinds)
            for v in _FOUR]  # fmt: skip
    return sum(loss for loss, _ in each) / 2, None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "loss",
    [implicit, sliced, functools.partial(sliced, reduced=False)],
    ids=["implicit", "sliced, reduced", "sliced"],
)
def test_partial_integration(loss):
    """All are the explicit loss less 1/2 E |grad log p|^2, and least at the truth."""
    asked = jax.jit(jax.value_and_grad(lambda params: expected(loss, params)))
    plain = jax.jit(lambda params: expected(explicit, params))
    zero = dict.fromkeys(WRONG, 0.0)
    (least, slope), (higher, _) = asked(zero), asked(WRONG)
    constant, error = plain(zero | {"scale": -1.0}), plain(WRONG)  # the first: of a score of 0
    assert float(least) == pytest.approx(-float(constant), rel=1e-9)
    assert float(higher) == pytest.approx(float(error - constant), rel=1e-9)
    assert all(abs(float(value)) < 1e-9 for value in slope.values())
    assert float(plain(zero)) == 0.0
    assert float(plain(zero | {"shift": 2.0})) == pytest.approx(4.0)


def field(params, x, cond):
    """On trees: a Jacobian that is full and not symmetric, and depends on x."""
    flat = jnp.concatenate([x["a"], x["b"]], axis=1)
    matrix = jnp.arange(9.0).reshape(3, 3) / 4
    out = jnp.tanh(flat @ matrix) + cond[:, None] * flat[:, ::-1] ** 2
    return {"a": out[:, :1], "b": out[:, 1:]}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reduced", [True, False])
def test_sliced_is_implicit_on_average(reduced):
    """The mean over all eight signs is the trace, on a tree of data, to rounding."""
    table = jnp.array(np.stack(np.meshgrid([-1.0, 1], [-1.0, 1], [-1.0, 1]), -1).reshape(8, 3))
    x = {"a": jnp.full((8, 1), 0.3), "b": jnp.tile(jnp.array([[-0.5, 0.2]]), (8, 1))}
    batch = Batch(x, jnp.full(8, 0.7))
    found, _ = losses.sliced_score_loss(
        {}, _KEY, batch, score=field, reduced=reduced,
        directions=lambda keys, x: {"a": table[:, :1], "b": table[:, 1:]},
    )  # fmt: skip
    wanted, _ = losses.implicit_score_loss({}, _KEY, batch, score=field)
    assert float(found) == pytest.approx(float(wanted), rel=1e-12)


def test_implicit_is_the_trace_of_the_jacobian():
    x = {"a": jnp.array([[0.3]]), "b": jnp.array([[-0.5, 0.2]])}
    cond = jnp.array([0.7])
    jacobian = jax.jit(jax.jacobian(lambda x: field({}, x, cond)))(x)
    trace = jnp.trace(jacobian["a"]["a"][0, :, 0]) + jnp.trace(jacobian["b"]["b"][0, :, 0])
    squares = sum(jnp.sum(leaf**2) for leaf in field({}, x, cond).values())
    loss, metrics = jax.jit(functools.partial(losses.implicit_score_loss, score=field))(
        {}, _KEY, Batch(x, cond)
    )
    assert float(loss) == pytest.approx(float(trace + squares / 2), rel=1e-5)
    assert float(metrics["loss"]) == float(loss)


def linear(params, x, cond):
    return x @ jnp.array([[-1.0, 0.4], [0.2, -2.0]])


@pytest.mark.parametrize("directions", [losses.signs, normal])
def test_what_is_drawn_is_unbiased(directions):
    """4096 rows of one sample: the mean is the implicit loss; four probes halve the spread."""
    x = jnp.tile(jnp.array([[1.0, -0.5]]), (4096, 1))
    spread = {}
    for reduced, probes in ((True, 1), (False, 1), (False, 4)):
        one = lambda row, i, r=reduced, n=probes: losses.sliced_score_loss(  # noqa: E731
            {}, _KEY, Batch(row[None], None, i[None]), score=linear, reduced=r, probes=n,
            directions=directions,
        )[0]  # fmt: skip
        values = np.asarray(jax.jit(jax.vmap(one))(x, jnp.arange(4096)))
        wanted, _ = losses.implicit_score_loss({}, _KEY, Batch(x[:1]), score=linear)
        spread[reduced, probes] = values.std()
        assert abs(values.mean() - float(wanted)) < 4 * values.std() / 64
    assert spread[False, 4] == pytest.approx(spread[False, 1] / 2, rel=0.1)


def test_signs():
    """Independent signs, each row from its own key."""
    keys = jax.random.split(_KEY, 4096)
    v = np.asarray(losses.signs(keys, jnp.zeros((4096, 3))))
    assert set(v.ravel().tolist()) == {-1.0, 1.0}
    assert np.abs(v.T @ v / 4096 - np.eye(3)).max() < 4 / 64 and np.abs(v.mean(0)).max() < 4 / 64
    np.testing.assert_array_equal(losses.signs(keys[5:6], jnp.zeros((1, 3))), v[5:6])


# finite differences

DIFFERENCES = {
    "score": functools.partial(losses.finite_difference_score_loss, score=score),
    "energy": functools.partial(losses.finite_difference_energy_loss, log_density=log_density),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", DIFFERENCES)
def test_finite_differences_are_of_second_order(name):
    """The same directions, halved steps: the distance to the sliced loss falls by four."""
    batch = Batch(exact.draw(jax.random.key(3), plane(), 64))
    params = {"scale": 0.3}
    limit, _ = losses.sliced_score_loss(params, _KEY, batch, score=score, reduced=False)
    at = jax.jit(lambda h: DIFFERENCES[name](params, _KEY, batch, step=h)[0])
    errors = [float(at(h) - limit) for h in (0.02, 0.01, 0.005)]
    orders = np.log2(np.abs(errors[:-1]) / np.abs(errors[1:]))
    assert np.abs(orders - 2).max() < 0.05


@pytest.mark.usefixtures("x64")
def test_finite_differences_of_a_gaussian_have_no_error():
    """Quadratic log-densities: any step will do."""
    batch = Batch(jax.random.normal(jax.random.key(1), (8, 2)))
    matrix = jnp.array([[2.0, 0.3], [0.3, 1.0]])
    energy = lambda params, x, cond: -jnp.sum((x @ matrix) * x, axis=1) / 2  # noqa: E731
    gradient = lambda params, x, cond: -x @ matrix  # noqa: E731
    wanted, _ = losses.sliced_score_loss({}, _KEY, batch, score=gradient, reduced=False)

    @jax.jit
    def both(h):
        kinds: dict[str, Any] = {"params": {}, "key": _KEY, "batch": batch, "step": h}
        by_score, _ = losses.finite_difference_score_loss(score=gradient, **kinds)
        return by_score, losses.finite_difference_energy_loss(log_density=energy, **kinds)[0]

    for h in (0.1, 3.0):
        by_score, by_energy = both(h)
        assert float(by_score) == pytest.approx(float(wanted), rel=1e-12)
        assert float(by_energy) == pytest.approx(float(wanted), rel=1e-9)


# denoising

_MEAN, _VARS = np.array([0.3, -0.5]), np.array([0.5, 0.04])


def _data():
    return exact.gaussian(jnp.asarray(_MEAN), jnp.diag(jnp.asarray(_VARS)))


def _measured(loss, repeats=8, rows=4096):
    """Values and slopes at zero of independent batches of the Gaussian."""

    @jax.jit
    def one(key):
        draw, noise = jax.random.split(key)
        zero = {"scale": jnp.zeros(()), "shift": jnp.zeros((1, 2))}
        batch = Batch(exact.draw(draw, _data(), rows))
        (value, _), slope = jax.value_and_grad(loss, has_aux=True)(zero, noise, batch)
        return jnp.concatenate([value[None], slope["scale"][None], slope["shift"][0]])

    found = np.stack([one(key) for key in jax.random.split(jax.random.key(7), repeats)])
    return found.mean(0), found.std(0, ddof=1) / repeats**0.5


def test_denoising_minimum():
    """1/2 tr Var[x | x + sigma eps] / sigma^4 at the blurred score, where its slopes vanish."""
    sigma = 0.4

    def blurred(params, x, cond):
        s = denoise.score(exact.denoiser(_data(), pr.edm()), x, sigma)
        return s * (1 + params["scale"]) + params["shift"]

    found, error = _measured(
        functools.partial(losses.denoising_score_loss, score=blurred, sigma=sigma)
    )
    left = (_VARS * sigma**2 / (_VARS + sigma**2)).sum()
    wanted = np.array([left / sigma**4 / 2, 0, 0, 0])
    assert np.all(np.abs(found - wanted) < 4 * error) and error[0] < 0.02 * wanted[0]


@pytest.mark.parametrize("prediction", [pr.score, pytest.param(pr.x0, marks=pytest.mark.slow)])
def test_ncsn_minimum(prediction):
    """The mean over the levels of tr Var / (2 sigma^2 d), whatever the network predicts."""
    sigmas = losses.geometric_levels(7, 2.0, 0.05)
    wiring = pr.wiring(prediction, clock=pr.edm_clock)
    net = exact_network(_data(), pr.edm(), wiring, CLOCKS["edm"][1])
    loss = functools.partial(losses.ncsn_loss, apply=net, wiring=wiring, sigmas=sigmas)
    found, error = _measured(loss)
    left = (_VARS * sigmas[:, None] ** 2 / (_VARS + sigmas[:, None] ** 2)).mean(1)
    wanted = (left / sigmas**2 / 2).mean()
    assert abs(found[0] - wanted) < 4 * error[0] and error[0] < 0.02 * wanted
    assert np.all(np.abs(found[1:]) < 4 * error[1:])


def test_levels():
    """A geometric progression; each level as likely; times at which sigma/alpha is the level."""
    sigmas = losses.geometric_levels(5, 8.0, 0.5)
    np.testing.assert_allclose(sigmas, [8, 4, 2, 1, 0.5])
    u = (jnp.arange(1000) + 0.5) / 1000
    for process in (pr.edm(), pr.vp_linear()):
        law = losses.level_law(sigmas)
        alpha, sigma = jax.jit(lambda p, law=law: pr.scales(p, law(p, u)))(process)
        np.testing.assert_allclose(np.repeat(sigmas, 200), sigma / alpha, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_a_network_as_a_score():
    """The exact network is grad log p_t of the noisy samples."""
    process, wiring = pr.vp_linear(), pr.wiring(pr.v)
    x, t = exact.draw(_KEY, plane(), 6), jnp.linspace(0.1, 0.9, 6)
    found = losses.network_score(exact_network(plane(), process, wiring), process, wiring)
    wanted = jax.grad(lambda x: jnp.sum(exact.log_density(plane(), process, x, t)))
    both = jax.jit(lambda x: (found({}, x, {"t": t, "cond": None}), wanted(x)))(x)
    np.testing.assert_allclose(*both, rtol=1e-8)


# what all share

LOSSES: dict[str, Any] = {
    "denoising": functools.partial(losses.denoising_score_loss, score=linear, sigma=0.3),
    "sliced": functools.partial(losses.sliced_score_loss, score=linear, probes=3, reduced=False),
    "implicit": functools.partial(losses.implicit_score_loss, score=linear),
    "differences": functools.partial(losses.finite_difference_score_loss, score=linear, step=0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_split_batch_has_the_same_loss(name):
    """Rows carry their number: halves in any order average to the whole."""
    x = jax.random.normal(jax.random.key(2), (8, 2))
    loss = jax.jit(functools.partial(LOSSES[name], {}, _KEY))
    whole, _ = loss(Batch(x))
    order = np.random.default_rng(0).permutation(8)
    halves = [loss(Batch(x[i], None, jnp.asarray(i)))[0] for i in (order[:4], order[4:])]
    assert float(sum(halves)) / 2 == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda b: LOSSES["denoising"]({}, _KEY, b, sigma=0.0), r"sigma=0.0: a positive"),
        (lambda b: LOSSES["denoising"]({}, _KEY, b, sigma=-1), r"sigma=-1: a positive"),
        (lambda b: LOSSES["sliced"]({}, _KEY, b, probes=0), r"probes=0: at least one"),
        (lambda b: LOSSES["differences"]({}, _KEY, b, probes=0), r"probes=0: at least one"),
        (lambda b: LOSSES["differences"]({}, _KEY, b, step=0.0), r"step=0.0: a positive"),
        (
            lambda b: losses.finite_difference_energy_loss(
                {}, _KEY, b, log_density=log_density, step=-0.1
            ),
            r"step=-0.1: a positive",
        ),
        (lambda b: losses.geometric_levels(1), r"n=1: at least two"),
        (lambda b: losses.geometric_levels(3, 1.0, 2.0), r"largest=1.0, smallest=2.0"),
        (lambda b: losses.geometric_levels(3, 1.0, 0.0), r"smallest=0.0"),
        (lambda b: losses.level_law([1.0, 2.0]), r"sigmas\[0\]=1.0, then 2.0"),
        (lambda b: losses.level_law([2.0, 1.0, 1.0]), r"sigmas\[1\]=1.0, then 1.0"),
        (lambda b: losses.level_law([2.0, -1.0]), r"sigmas\[1\]=-1.0, then 0.0"),
        (lambda b: losses.level_law([2.0, np.nan]), r"sigmas\[0\]=2.0, then nan"),
        (lambda b: losses.level_law(np.ones((2, 1))), r"sigmas of shape \(2, 1\)"),
        (lambda b: losses.level_law([]), r"sigmas of shape \(0,\)"),
        (
            lambda b: losses.ncsn_loss({}, _KEY, b, apply=linear, sigmas=[100.0, 1.0]),
            r"sigmas from 100.0 to 1.0: this process has sigma/alpha from 80 to 0.002",
        ),
    ],
)
def test_bad_input(call, why):
    with pytest.raises(ValueError, match=why):
        call(Batch(jnp.zeros((2, 2))))


def test_a_law_of_levels_is_data():
    """New levels do not retrace."""
    traces = []

    @jax.jit
    def used(law):
        traces.append(1)
        return law(pr.edm(), jnp.array([0.0, 1.0]))

    assert isinstance(losses.level_law([2.0, 1.0]), Partial)
    assert used(losses.level_law([2.0, 1.0])).tolist() == [2.0, 1.0]  # at the ends of u
    assert used(losses.level_law([4.0, 0.5])).tolist() == [4.0, 0.5]
    assert len(traces) == 1
