"""Langevin dynamics and predictor-correctors: their exact moments on Gaussians."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers, trees
from jaxdiff.types import Now, State
from tests.problems import keys_of, mixture, vector
from tests.samplers.moments import at, moments

x64 = pytest.mark.usefixtures("x64")


def line(mean=0.7, var=0.3):
    return exact.gaussian(jnp.array([mean]), jnp.array([[var]]))


@x64
def test_where_langevin_dynamics_come_to_rest():
    """The right mean; the variance S / (1 - h sigma^2/(2 S)), and S by renewal of a point's."""
    dist, proc, t = line(), process.vp_linear(), 0.3
    mean, total = at(proc, dist, t)
    sigma2 = proc.sigma(jnp.asarray(t)) ** 2
    rows = samplers.stay(jnp.full(300, t))

    @jax.jit
    def rest(size):
        walk = samplers.annealed(samplers.langevin(size))
        return moments(exact.denoiser(dist, proc), walk, rows, 3.0, 2.0, draws=1)

    for h in (0.1, 0.5, 1.5):
        found = rest(h)
        known = mean, total / (1 - h * sigma2 / (2 * total))
        np.testing.assert_allclose(found, known, rtol=1e-9)

    @jax.jit
    def renewed(share):
        walk = samplers.annealed(samplers.renewal(share))
        return moments(exact.denoiser(line(var=0.0), proc), walk, rows, 3.0, 2.0, draws=1)

    for share in (0.3, 1.0):
        np.testing.assert_allclose(renewed(share), (mean, sigma2), rtol=1e-9)


@x64
def test_renewal_keeps_the_distribution_to_first_order():
    dist, proc, t = line(), process.edm(), 0.5
    mean, total = at(proc, dist, t)

    @jax.jit
    def error(share):
        walk, rows = samplers.annealed(samplers.renewal(share)), samplers.stay(jnp.full(200, t))
        after = moments(exact.denoiser(dist, proc), walk, rows, mean, total, draws=1)
        return after[0] - mean, after[1] - total

    (off, one), (_, two) = error(0.1), error(0.05)
    assert abs(off) < 1e-12 and 0.9 < np.log2(one / two) < 1.1


PAIRS = {  # name: predictor, corrector, order in the number of steps
    "ddpm": (samplers.ddpm(), None, 1),
    "heun": (samplers.heun(), None, 2),
    "reverse diffusion": (samplers.reverse_diffusion(), None, 1),
    "ddpm and langevin": (samplers.ddpm(), samplers.langevin, 1),
    "heun and langevin": (samplers.heun(), samplers.langevin, 1),
    "euler and renewal": (samplers.euler(), samplers.renewal, 1),
    "reverse diffusion and langevin": (samplers.reverse_diffusion(), samplers.langevin, 1),
}


@x64
@pytest.mark.slow
def test_any_predictor_goes_with_any_corrector():
    """Their weak order in the number of steps n, with a corrector of size 1/n."""
    dist, proc = line(), process.vp_linear()
    denoise, start = exact.denoiser(dist, proc), at(proc, dist, 0.8)

    def ends(n):
        rows, found = samplers.grid(jnp.linspace(0.8, 0.1, n + 1)), {}
        for name, (predictor, make, _) in PAIRS.items():
            pc = predictor if make is None else samplers.corrected(make(1 / n))(predictor)
            found[name] = moments(denoise, pc, rows, *start, draws=int(make is not None))
        return found

    known = at(proc, dist, 0.1)
    fine, finer = (jax.jit(ends, static_argnums=0)(n) for n in (40, 80))
    for name, (_, _, order) in PAIRS.items():
        one, two = (max(abs(a - b) for a, b in zip(f[name], known)) for f in (fine, finer))
        assert abs(np.log2(one / two) - order) < 0.25, (name, one, two)


def stepped(corrector, proc, x, z, t, s):
    """What one step of a corrector makes of x with the noise z."""
    denoise = exact.denoiser(mixture(), proc)
    noise = trees.fold(samplers.tape(churn=z[None, None]), 0)
    now = Now(jnp.asarray(t), jnp.asarray(s), 0, 1, noise, {})
    return corrector(now, denoise, x)[0]


@x64
@pytest.mark.parametrize("name", [pytest.param("edm", marks=pytest.mark.slow), "vp_linear"])
def test_the_ratio_of_signal_to_noise_is_what_was_asked(name):
    """|step| / |noise| = r, times alpha_t/alpha_s where the process shrinks; and per sample."""
    proc, r, t, s = getattr(process, name)(), 0.05, 0.6, 0.5
    x, z = vector(0, 6, 2), vector(1, 6, 2)
    corrector = samplers.langevin(snr=r)
    go = jax.jit(lambda x, z: stepped(corrector, proc, x, z, t, s) - x)
    forth, back = go(x, z), go(x, -z)
    ratio = jnp.linalg.norm(forth + back, axis=1) / jnp.linalg.norm(forth - back, axis=1)
    shrink = proc.alpha(jnp.asarray(t)) / proc.alpha(jnp.asarray(s))
    np.testing.assert_allclose(ratio, r * shrink, rtol=1e-9)
    np.testing.assert_allclose(go(x[:1], z[:1]), forth[:1], rtol=1e-12)


def test_no_score_no_wild_jump():
    """At the top of a hill, where |eps| = 0."""
    proc = process.edm()
    denoise = exact.denoiser(exact.gaussian(jnp.zeros(2), jnp.eye(2)), proc)
    now = Now(jnp.array(2.0), jnp.array(1.0), 0, 1, keys_of(50), {})
    go = jax.jit(lambda now, x: samplers.langevin(snr=0.16)(now, denoise, x)[0])
    x = go(now, jnp.zeros((50, 2)))
    assert jnp.all(jnp.abs(x) < 2.0 * 2**0.5 * 5) and jnp.all(jnp.isfinite(x))


def test_steps_are_steps():
    """Three steps in a row of the grid are three rows of one; the first estimate is handed out."""
    proc = process.rectified_flow()
    denoise, x, z = exact.denoiser(mixture(), proc), vector(0, 4, 2), vector(1, 3, 4, 2)

    @jax.jit
    def both(x, z):
        def walk(count, noise):
            rows = samplers.stay(jnp.full(len(noise), 0.4))
            sampler = samplers.annealed(samplers.langevin(0.3, steps=count))
            tape = samplers.tape(churn=noise)
            return samplers.run(tape, denoise, sampler, rows, x, look=lambda now, x, est: est.x0)

        return walk(3, z[None]), walk(1, z[:, None])

    (one, first), (three, each) = both(x, z)
    np.testing.assert_allclose(one, three, rtol=1e-5)
    np.testing.assert_allclose(first[0], each[0], rtol=1e-5)
    assert jnp.max(jnp.abs(each[0] - each[2])) > 1e-2


PUBLISHED = {  # sigma_1, L, T, epsilon; sigma_L = 0.01
    "CIFAR-10": (50.0, 232, 5, 6.2e-6),
    "CelebA": (90.0, 500, 5, 3.3e-6),
    "LSUN bedroom and tower": (190.0, 1086, 3, 1.8e-6),
    "FFHQ": (348.0, 2311, 3, 0.9e-6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_ncsn_sizes_are_those_published(name):
    largest, count, steps, epsilon = PUBLISHED[name]
    found = samplers.ncsn_size((largest / 0.01) ** (1 / (count - 1)), steps) * 0.01**2
    assert found == pytest.approx(epsilon, rel=0.02)


@x64
def test_ncsn_size_is_best():
    """A point, with the noise of the level before: the variance that the dynamics leave."""
    proc, ratio, steps = process.edm(), 1.4, 4
    denoise, rows = exact.denoiser(line(0.0, 0.0), proc), samplers.stay(jnp.array([0.5]))

    @jax.jit
    def left(h):
        walk = samplers.annealed(samplers.langevin(h, steps=steps))
        return moments(denoise, walk, rows, 0.0, (0.5 * ratio) ** 2, draws=steps)[1]

    best = samplers.ncsn_size(ratio, steps)
    assert left(best) > 0.25
    assert left(best) < min(left(0.9 * best), left(1.1 * best))


@pytest.mark.slow
def test_annealing_finds_all_of_a_mixture():
    """NCSN's levels on two Gaussians of weights 1/4 and 3/4; the end is an estimate, not noise."""
    proc = process.edm()
    dist = exact.mixture(jnp.array([0.25, 0.75]), jnp.array([[-2.0], [2.0]]), jnp.zeros((2, 1, 1)))
    ts = jnp.append(jnp.geomspace(10.0, 0.05, 40), 0.0)
    size = samplers.ncsn_size(200 ** (1 / 39), 5)
    walk = samplers.annealed(samplers.langevin(size, steps=5))

    @jax.jit
    def ends(keys, x):
        denoise = exact.denoiser(dist, proc)
        clean = samplers.run(keys, denoise, walk, samplers.grid(ts), x)
        return clean, samplers.run(keys, denoise, walk, samplers.stay(ts[:-1]), x)

    clean, noisy = ends(keys_of(500), 10.0 * vector(0, 500, 1))
    assert jnp.max(jnp.abs(jnp.abs(clean) - 2.0)) < 1e-3
    assert 0.65 < float(jnp.mean(clean > 0)) < 0.85
    assert 0.04 < float(jnp.std(jnp.abs(noisy))) < 0.07  # NCSN v1: the last level's noise


def test_numbers_are_arguments():
    traces = []
    denoise = exact.denoiser(mixture(), process.edm())

    @jax.jit
    def walk(x, a):
        traces.append(1)
        rows = samplers.grid(process.karras(process.edm(), 3))
        made = (samplers.langevin(a), samplers.langevin(snr=a), samplers.renewal(a))
        kinds = [samplers.corrected(c)(samplers.euler()) for c in made]
        return [samplers.run(keys_of(2), denoise, s, rows, x) for s in kinds]

    x = 80 * vector(0, 2, 2)
    one, two = walk(x, 0.1), walk(x, 0.2)
    assert len(traces) == 1 and all(jnp.any(a != b) for a, b in zip(one, two))


@pytest.mark.slow
def test_times_per_sample():
    """Annealing, two samples on grids of their own: as each would be alone."""
    denoise, x = exact.denoiser(mixture(), process.edm()), vector(0, 2, 2)
    ts = jnp.array([[5.0, 3.0], [1.0, 0.5], [0.0, 0.0]])
    walk = samplers.annealed(samplers.langevin(snr=0.2, steps=2))

    @jax.jit
    def go(keys, ts, x):
        return samplers.run(keys, denoise, walk, samplers.grid(ts), x)

    both = go(keys_of(2), ts, x)
    for i in (0, 1):
        alone = go(keys_of(2)[i : i + 1], ts[:, i : i + 1], x[i : i + 1])
        np.testing.assert_allclose(alone, both[i : i + 1], rtol=1e-5)


def test_bad_numbers():
    cases: tuple[dict[str, Any], ...] = (
        {}, {"size": 0.1, "snr": 0.1}, {"size": 2.0}, {"size": 0.0}, {"snr": -0.1},
    )  # fmt: skip
    for bad in cases:
        with pytest.raises(ValueError, match=r"size|snr"):
            samplers.langevin(**bad)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share="):
            samplers.renewal(share)
    for make in (samplers.langevin, samplers.renewal):
        with pytest.raises(ValueError, match="steps=0"):
            make(0.1, steps=0)
    for ratio, steps in ((1.0, 5), (2.0, 0)):
        with pytest.raises(ValueError, match="ratio="):
            samplers.ncsn_size(ratio, steps)


def test_a_history_is_refused():
    sampler = samplers.corrected(samplers.renewal())(samplers.dpmpp_2m())
    now = Now(jnp.array(1.0), jnp.array(0.0), 0, 1, keys_of(2), {})
    with pytest.raises(ValueError, match="keeps a history"):
        sampler.step(now, exact.denoiser(mixture(), process.edm()), sampler.init(jnp.ones((2, 2))))
    assert isinstance(sampler.init(jnp.ones((2, 2))), State)
