"""Encode and decode every prediction on every process, ends included: exact, refused, or NaN.

Given x and p, (x_0, eps) is the solution of a 2x2 system. Rounding a relative `u` of its entries
moves the solution by u times the sum of the magnitudes of the terms it is made of, which for eps
is the known 1/alpha. So errors are measured against that sum, and x and p, made again from the
solution, against the magnitudes of their two terms.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import process as pr
from jaxdiff.process.predictions import blind
from tests.process.cases import (
    PREDICTIONS,
    PROCESSES,
    SIGNAL_ENDS,
    TEXTBOOK,
    span_of,
    times_of,
    wide,
)

names = pytest.mark.parametrize("name", PROCESSES)
kinds = pytest.mark.parametrize("kind", PREDICTIONS)

_decode = jax.jit(pr.decode)


def _data(times):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.uniform(0.5, 1.5, len(times)).astype(times.dtype)) for _ in range(2))


class Trip(NamedTuple):
    """There (x, p), back (x0, eps), and there again, with the rows that were used."""

    x: np.ndarray
    p: np.ndarray
    got: tuple
    again: tuple
    row: tuple


def _trips(process, predictions, t, x0, eps):
    def trip(prediction):
        x, p = pr.perturb(process, t, x0, eps), pr.encode(prediction, process, t, x0, eps)
        got = pr.decode(prediction, process, t, x, p)
        again = pr.perturb(process, t, *got), pr.encode(prediction, process, t, *got)
        return Trip(x, p, got, again, prediction(process, t))

    return pr.scales(process, t), {kind: trip(row) for kind, row in predictions.items()}


@functools.cache
def _round_trips(name, double):
    """All predictions on a process at times inside its interval."""
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        times = times_of(name, process, 101)
        if float(process.alpha(process.t_max)) < 1e-4:  # eps and score are refused there
            low, high = span_of(process)
            times = np.clip(times, low + 1e-6, high - 2e-3 * (high - low)).astype(times.dtype)
        x0, eps = _data(times)
        predictions = {kind: make() for kind, make in PREDICTIONS.items()}
        out = _trips(process, predictions, jnp.asarray(times), x0, eps)
    return jax.tree.map(wide, (x0, eps, *out))


@pytest.mark.parametrize("double", [False, True], ids=["f32", "x64"])
@names
@kinds
def test_round_trip(kind, name, double):
    tolerance = 1e-12 if double else 1e-6
    x0, eps, (alpha, sigma), trips = _round_trips(name, double)
    x, p, (got_x0, got_eps), (again_x, again_p), (a, b) = trips[kind]
    in_x, in_p = np.abs(alpha * x0) + np.abs(sigma * eps), np.abs(a * x0) + np.abs(b * eps)
    det = np.abs(alpha * b - sigma * a)
    for got, true, with_x, with_p in ((got_x0, x0, b, sigma), (got_eps, eps, a, alpha)):
        scale = (np.abs(with_x) * in_x + np.abs(with_p) * in_p) / det
        assert np.all(np.abs(got - true) <= 2 * tolerance * np.maximum(scale, np.abs(true)))
    terms_x = np.abs(alpha * got_x0) + np.abs(sigma * got_eps)
    terms_p = np.abs(a * got_x0) + np.abs(b * got_eps)
    assert np.all(np.abs(again_x - x) <= tolerance * terms_x)
    assert np.all(np.abs(again_p - p) <= tolerance * terms_p)


@pytest.mark.parametrize("kind", ["x0", "v", "F(.5)"])
@names
def test_x0_is_well_conditioned(kind, name):
    """From these three x_0 comes back to single precision itself, with no excuse of scale."""
    x0, _, (_, sigma), trips = _round_trips(name, False)
    keep = sigma < (1.01 if kind == "v" else np.inf)  # v is not made for exploding variance
    error = np.abs(trips[kind].got[0] / x0 - 1)
    assert error[keep].max() < 2e-6


# what is known of (x_0, eps) where alpha = 0 or sigma = 0; "both" unless said
_AT_NOISE = {"eps": "refused", "score": "refused"}
_AT_DATA = {"x0": "x0", "score": "refused"}


def _check_known(known, got, true, traced):
    for name, mine, truth in zip(("x0", "eps"), got, true):
        if known in ("both", name):
            assert float(mine) == pytest.approx(truth, rel=1e-6)
        elif traced:
            assert np.isnan(float(mine)) or float(mine) == pytest.approx(truth, rel=1e-6)


@jax.jit
def _decode_each(process, t, x, asked):
    return {kind: pr.decode(row, process, t, x, p) for kind, (row, p) in asked.items()}


@functools.cache
def _at_end(name, end, double):
    """x, and for each kind its row, p and what a trace makes of them, at the end of a process."""
    with jax.enable_x64(double):
        process = PROCESSES[name]()
        t = process.t_max if end == "noise" else process.t_min
        x = pr.perturb(process, t, *map(jnp.asarray, _TRUE))
        asked = {}
        for kind, make in PREDICTIONS.items():
            a, b = make()(process, t)
            p = jnp.where(jnp.isfinite(b), a * _TRUE[0] + b * _TRUE[1], 0.3)
            asked[kind] = make(), p
        return process, t, x, asked, _decode_each(process, t, x, asked)


_TRUE = 0.75, -1.25


@pytest.mark.parametrize("double", [False, True], ids=["f32", "x64"])
@pytest.mark.parametrize(
    ("name", "end"),
    [*((name, "noise") for name in sorted(SIGNAL_ENDS)), ("rectified_flow", "data")],
)
@kinds
def test_ends_are_exact_or_refused(kind, name, end, double):
    process, t, x, asked, traced = _at_end(name, end, double)
    row, p = asked[kind]
    known = (_AT_NOISE if end == "noise" else _AT_DATA).get(kind, "both")
    _check_known(known, traced[kind], _TRUE, True)
    with jax.enable_x64(double):
        if known == "refused":
            with pytest.raises(ValueError, match=f"prediction {row.name} at t="):
                pr.decode(row, process, t, x, p)
        else:
            _check_known(known, pr.decode(row, process, t, x, p), _TRUE, False)


@pytest.mark.parametrize("name", sorted(SIGNAL_ENDS))
@pytest.mark.parametrize("kind", ["eps", "score"])
def test_refusal_names_the_way_out(kind, name):
    process = PROCESSES[name]()
    with pytest.raises(ValueError, match=r"predict x0, v, velocity or F"):
        pr.check_decodable(PREDICTIONS[kind](), process, process.t_max)
    with pytest.raises(ValueError, match=kind):
        pr.decode(
            PREDICTIONS[kind](),
            process,
            jnp.stack([process.t_min, process.t_max]),
            jnp.ones(2),
            jnp.ones(2),
        )
    assert bool(blind(PREDICTIONS[kind](), process, process.t_max))
    assert not bool(blind(PREDICTIONS[kind](), process, process.t_max * 0.9))


def test_a_wrong_prediction_gives_nan_not_a_number():
    """eps is never so right that it cancels; where alpha = 0 a trace must not answer at all."""
    for name in SIGNAL_ENDS:
        process = PROCESSES[name]()
        for p in (-3.0, 0.0, 0.4, 3.0):
            x0, _ = _decode(pr.eps, process, process.t_max, jnp.float32(0.7), jnp.float32(p))
            assert np.isnan(float(x0))


@functools.cache
def _derivatives(name):
    """jvp of decode along t and x for every prediction, from t_min to t_max."""
    process = PROCESSES[name]()
    times = times_of(name, process, 101)
    t, (x, p) = jnp.asarray(times), _data(times)
    along = (jnp.ones_like(t), jnp.ones_like(t), jnp.zeros_like(t))

    decode = lambda row: lambda t, x, p: pr.decode(row, process, t, x, p)  # noqa: E731
    return times, {
        kind: jax.jvp(decode(PREDICTIONS[kind]()), (t, x, p), along) for kind in PREDICTIONS
    }


@names
@kinds
def test_derivatives_are_finite(kind, name):
    """In t and in x, from t_min to t_max where the prediction is decodable."""
    times, out = _derivatives(name)
    keep = np.ones(len(times), bool)
    if name in SIGNAL_ENDS and kind in ("eps", "score"):
        keep &= times < times.max()
    if name == "rectified_flow" and kind in ("x0", "score"):
        keep &= times > 0
    assert all(np.all(np.isfinite(leaf[keep])) for leaf in jax.tree.leaves(out[kind]))


def test_derivative_of_x0_at_clean_data_is_finite():
    """At sigma = 0 x_0 is the sample: eps is unknown from x_0, yet x_0 has its derivatives."""
    process, one = pr.rectified_flow(), jnp.ones(())
    for kind in ("x0", "eps", "v", "velocity", "F(.5)"):
        x0 = lambda t, x, kind=kind: _decode(PREDICTIONS[kind](), process, t, x, 0.3 * one)[0]  # noqa: E731
        slopes = jax.grad(x0, argnums=(0, 1))(0.0 * one, one)
        assert all(np.isfinite(float(s)) for s in slopes)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TEXTBOOK)
def test_rows_are_the_papers(name):
    """v, score, velocity, F from their definitions as arrays; F with Karras' own coefficients."""
    process = PROCESSES[name]()
    times = np.minimum(times_of(name, process, 101, ends=False), 0.999 * float(process.t_max))
    t, (x0, eps) = jnp.asarray(times), _data(times)
    alpha, sigma = (np.asarray(a) for a in pr.scales(process, t))
    x = alpha * x0 + sigma * eps
    _, trips = _trips(process, {kind: make() for kind, make in PREDICTIONS.items()}, t, x0, eps)
    p = {kind: np.asarray(trip.p) for kind, trip in trips.items()}
    np.testing.assert_array_equal(p["x0"], x0)
    np.testing.assert_array_equal(p["eps"], eps)
    np.testing.assert_allclose(p["v"], alpha * eps - sigma * x0, rtol=1e-12)
    np.testing.assert_allclose(p["score"], -(x - alpha * x0) / sigma**2, rtol=1e-9, atol=1e-9)
    # the flow's velocity f x - g^2/2 score, with the textbook's f and g^2
    f, g2 = (np.asarray(fn(wide(times)), float) for fn in TEXTBOOK[name][2:])
    np.testing.assert_allclose(p["velocity"], f * x - g2 / 2 * p["score"], rtol=1e-7, atol=1e-9)
    # Karras' table 1, on x / alpha, whose noise is sigma / alpha
    for kind, data in (("F(.5)", 0.5), ("F(.7)", 0.7)):
        s = sigma / alpha
        skip, out = data**2 / (s**2 + data**2), s * data / np.sqrt(s**2 + data**2)
        np.testing.assert_allclose(skip * x / alpha + out * p[kind], x0, rtol=1e-9)


@kinds
def test_names(kind):
    assert PREDICTIONS[kind]().name == kind.split("(")[0]


def test_an_own_prediction_has_its_own_name():
    def mixed(process, t):
        return jnp.ones_like(t), jnp.ones_like(t)

    process = pr.edm()
    prediction = pr.Prediction(jax.tree_util.Partial(mixed))
    x0, eps = pr.decode(prediction, process, 3.0, jnp.float32(7.0), jnp.float32(3.0))
    assert (prediction.name, float(x0), float(eps)) == ("mixed", 1.0, 2.0)


def test_decode_takes_times_per_sample_and_trees():
    process = pr.rectified_flow()
    x0 = {"image": jnp.full((2, 3, 3), 0.5), "kernel": jnp.ones((2, 4))}
    eps = jax.tree.map(lambda leaf: 2 * leaf, x0)
    t = jnp.array([0.25, 0.75])
    x, p = pr.perturb(process, t, x0, eps), pr.encode(pr.velocity, process, t, x0, eps)
    got = pr.decode(pr.velocity, process, t, x, p)
    for mine, true in zip(got, (x0, eps)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mine, true)
    tokens = jnp.full((2, 3), 0.5)
    got_x0, _ = pr.decode(pr.velocity, process, tokens, x["image"], p["image"])
    assert got_x0.shape == (2, 3, 3)
