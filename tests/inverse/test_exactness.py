"""What claims to be exact is exact: Gaussian priors, closed forms, optimality, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import exact, inverse, process
from jaxdiff.denoise import Denoiser
from jaxdiff.inverse import noises
from jaxdiff.types import Estimate, Now
from tests.problems import PROCESSES, gaussian, keys_of, mixture, tree_denoiser, vector

A, MATRIX, Y = vector(20, 2, 3), inverse.matrix(vector(20, 2, 3)), vector(21, 1, 2)
NOISE, V0 = 0.3, 0.8


def operator():
    return inverse.matrix(vector(20, 2, 3))


def measured():
    return vector(21, 1, 2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["flow", pytest.param("edm", marks=pytest.mark.slow)])
def test_exact_on_gaussian_priors(name):
    """DMPS on N(0, v0 I), and on a wide prior with the flat one; TMPD where rows do not overlap."""
    proc, y = PROCESSES[name](), measured()
    a, widths = vector(20, 2, 3), jnp.array([0.4, 1.0, 2.0])
    mask = inverse.matrix(jnp.eye(3)[:2])
    row = inverse.matrix(a[:1])
    flat = exact.gaussian(jnp.zeros(3), V0 * jnp.eye(3))
    wide = exact.gaussian(jnp.ones(3), 1e9 * jnp.eye(3))
    diagonal = exact.gaussian(vector(1, 3), jnp.diag(widths))
    dense = gaussian()
    # name -> (prior, A, y, guide)
    ways = {
        "dmps": (flat, a, y, inverse.dmps(operator(), y, noise=NOISE, v0=V0)),
        "dmps as published": (wide, a, y, inverse.dmps(operator(), y, noise=NOISE)),
        "tmpd of a mask": (diagonal, jnp.eye(3)[:2], y, inverse.tmpd(mask, y, noise=NOISE)),
        "tmpd of one row": (dense, a[:1], y[:, :1], inverse.tmpd(row, y[:, :1], noise=NOISE)),
    }

    @jax.jit
    def both(x, t):
        out = {}
        for way, (prior, rows, seen, guide) in ways.items():
            truth = exact.denoiser(exact.condition(prior, rows, seen[0], NOISE), proc)
            out[way] = guide(exact.denoiser(prior, proc))(x, t).x0, truth(x, t).x0
        return out

    for lam in (3.0, 0.0, -3.0):
        t = process.time_of(proc, lam)
        alpha, sigma = process.scales(proc, t)
        found = both(alpha * 0.3 + sigma * vector(2, 1, 3), t)
        for way, (x0, expected) in found.items():
            # the flat prior is a limit: off by about sigma^2 / (alpha^2 1e9)
            allowed = 1e-5 if way == "dmps as published" else 1e-10
            assert jnp.max(jnp.abs(x0 - expected)) < allowed, (way, lam)


def test_score_ald_is_dmps_where_the_rows_are_orthonormal():
    y, x = vector(1, 2, 2), vector(0, 2, 3)
    rows = inverse.matrix(jnp.linalg.qr(vector(3, 3, 2))[0].T)
    denoise = tree_denoiser(process.rectified_flow())

    @jax.jit
    def all_ways(t):
        ald, own = (inverse.score_ald(rows, y, noise=NOISE, **more)(denoise)(x, t).x0
                    for more in ({}, {"gamma": lambda at: at.sigma / at.alpha}))  # fmt: skip
        return ald, own, inverse.dmps(rows, y, noise=NOISE)(denoise)(x, t).x0

    ald, own, dmps = all_ways(jnp.array(0.4))
    assert jnp.allclose(ald, dmps, atol=1e-5) and jnp.allclose(ald, own, atol=1e-5)
    for found in all_ways(jnp.array(1.0))[::2]:  # alpha = 0: nothing is known of x_0
        assert jnp.array_equal(found, denoise(x, 1.0).x0)


def test_tmpd_is_not_turned_around_by_negative_row_sums():
    """Each measured number pulls towards itself; as published one of these pushes away."""
    cov = jnp.array([[1.0, -0.9], [-0.9, 0.82]])
    whole, y, t = inverse.matrix(jnp.eye(2)), jnp.array([[2.0, -3.0]]), 5.0
    denoise = exact.denoiser(exact.gaussian(jnp.zeros(2), cov), process.edm())
    guided = inverse.tmpd(whole, y, noise=1e-2)(denoise)
    move = jax.jit(lambda x: guided(x, t).x0)(jnp.zeros((1, 2)))
    left = 25.0 * cov @ jnp.linalg.inv(cov + 25.0 * jnp.eye(2))
    assert left[1].sum() < 0
    cotangent = jnp.linalg.solve(left, move[0])
    assert jnp.array_equal(jnp.sign(cotangent), jnp.sign(y[0]))
    assert jnp.abs(cotangent[1]) < 2 * jnp.abs(y[0, 1])  # r^2 is about 1


@pytest.mark.usefixtures("x64")
def test_the_pull_of_dps_is_the_gradient_of_the_log_likelihood():
    """By finite differences through the network, for a measurement of a tree, not linear."""
    flow, h, t = process.rectified_flow(), 1e-5, 0.4
    parts = {"image": curved(3), "kernel": curved(2)}
    pair = inverse.paired(parts)
    blind = inverse.Nonlinear(_product, {"image": (3,), "kernel": (2,)})
    x, y = {"image": vector(0, 1, 3), "kernel": vector(1, 1, 2)}, vector(2, 1, 3)
    plain = pair(x, t)
    for name, one in parts.items():
        assert jnp.array_equal(plain.x0[name], one(x[name], t).x0)

    def cost(x):
        x0 = pair(x, t).x0
        slack = jnp.sum(jnp.abs(x0["kernel"])) * 0.3
        return -jnp.sum((y[0] - _product(jax.tree.map(lambda a: a[0], x0))) ** 2) / 1.4 - slack

    @jax.jit
    def guided(x):
        guide = inverse.blind_dps(blind, y, noise=0.1, var=0.7, sparsity={"kernel": 0.3})
        return guide(pair)(x, t).x0

    cost, found = jax.jit(cost), guided(x)
    for name, n in (("image", 3), ("kernel", 2)):
        ends = [[cost({**x, name: x[name] + s * h * e}) for s in (1, -1)]
                for e in np.eye(n)[:, None]]  # fmt: skip
        slope = np.array([(up - down) / (2 * h) for up, down in ends])
        assert np.allclose(found[name] - plain.x0[name], 0.4**2 / 0.6 * slope, atol=1e-8)
    with pytest.raises(ValueError, match="x is"):
        pair({"image": x["image"]}, t)
    with pytest.raises(ValueError, match="'kernel' has another process"):
        inverse.paired({"image": tree_denoiser(flow), "kernel": tree_denoiser(process.edm())})
    with pytest.raises(ValueError, match="at least one"):
        inverse.paired({})


def _bent(weight, x, t, now):
    return Estimate(jnp.tanh(x @ weight) + 0.3 * x)


def curved(d):
    """A denoiser whose Jacobian is not symmetric and changes with x."""
    return Denoiser(process.rectified_flow(), Partial(_bent, vector(30, d, d)))


def _product(x):
    return x["image"] * jnp.sum(x["kernel"] ** 2) + x["kernel"][0]


def test_dps_with_other_noises():
    """Gaussian by its law as by its number; Poisson in closed form, dark pixels included."""
    flow, x, t = process.rectified_flow(), vector(0, 2, 3), 0.4
    denoise, rate, r2 = tree_denoiser(flow), 5.0, 0.2
    y = jnp.array([[0.4, 2.0], [0.0, 1.0]])

    @jax.jit
    def all_ways(x):
        poisson = noises.poisson(rate)
        guides = {
            "number": inverse.dps(MATRIX, y, noise=0.3),
            "law": inverse.dps(MATRIX, y, noise=noises.gaussian(0.3)),
            "poisson": inverse.dps(MATRIX, y, noise=poisson, r2=r2),
            "var": inverse.dps(MATRIX, y, noise=0.3, var=0.09 + r2),
            "r2": inverse.dps(MATRIX, y, noise=0.3, r2=lambda at: r2 * at.sigma / t),
        }
        return {name: guide(denoise)(x, t).x0 for name, guide in guides.items()}

    found = all_ways(x)
    assert jnp.allclose(found["number"], found["law"], atol=1e-5)
    assert jnp.allclose(found["var"], found["r2"], atol=1e-5)
    gain = 0.6 / (0.6**2 + 0.4**2)
    clean = gain * x @ A.T
    slope = jnp.where(y > 0, (y - clean) / (jnp.maximum(y, 0.1) / rate + r2), -rate)
    expected = gain * x + 0.4**2 / 0.6 * gain * slope @ A
    assert jnp.allclose(found["poisson"], expected, atol=1e-4)
    for more in ({"noise": noises.poisson(1.0), "var": 1.0}, {"noise": 0.1, "var": 1.0, "r2": 1.0}):
        with pytest.raises(ValueError, match="give r2"):
            inverse.dps(MATRIX, y, **more)


def test_a_linear_decoder_is_a_linear_operator():
    """DPS of latents is DPS of the product; PSLD with D = E = 1 is DPS with a larger weight."""
    x, y, t = vector(0, 2, 3), vector(1, 2, 2), 0.4
    decoder, denoise = vector(7, 3, 3), tree_denoiser(process.rectified_flow())
    rows = inverse.matrix(jnp.linalg.qr(vector(3, 3, 2))[0].T)
    same = lambda z: z  # noqa: E731
    of_latents = inverse.latent(MATRIX, lambda z: decoder @ z, (3,))

    @jax.jit
    def all_ways(x):
        guides = (
            inverse.dps(of_latents, y, noise=0.3),
            inverse.dps(inverse.matrix(A @ decoder), y, noise=0.3),
            inverse.psld(rows, y, decode=same, encode=same, noise=0.3, var=0.7, gamma=0.4),
            inverse.dps(rows, y, noise=0.3, var=0.7 / 1.4),
            inverse.psld(
                MATRIX, y, decode=lambda z: decoder @ z, encode=same, noise=0.3, gamma=0.0
            ),
        )
        return [guide(denoise)(x, t).x0 for guide in guides]

    through, product, glued, heavier, unglued = all_ways(x)
    for found in (through, unglued):
        assert jnp.allclose(found, product, atol=1e-4)
    assert jnp.allclose(glued, heavier, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_the_gluing_term_is_a_gradient():
    """Through an encoder and a decoder that are no inverses, by finite differences."""
    h, t = 1e-5, 0.4
    rows, denoise, y = operator(), curved(3), vector(1, 1, 2)
    decode = lambda z: jnp.tanh(z) + z  # noqa: E731
    encode = lambda x: 0.5 * x + 0.1 * x**2  # noqa: E731

    @jax.jit
    def cost(x):
        z = denoise(x, t).x0[0]
        rest = y[0] - rows.A(decode(z))
        gap = z - encode(decode(z) + rows.pinv(rest))
        return -(jnp.sum(rest**2) + 0.3 * jnp.sum(gap**2)) / 1.4

    x = vector(0, 1, 3)
    guide = inverse.psld(rows, y, decode=decode, encode=encode, noise=0.1, var=0.7, gamma=0.3)
    change = jax.jit(lambda x: guide(denoise)(x, t).x0)(x) - denoise(x, t).x0
    slope = np.array([(cost(x + h * e) - cost(x - h * e)) / (2 * h) for e in np.eye(3)[:, None]])
    assert np.allclose(change[0], 0.4**2 / 0.6 * slope, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_proximal_steps_are_at_their_minimum():
    """The gradient of what DDS and DiffPIR minimise is 0 at their answers."""
    x, y, t = vector(0, 2, 3), vector(1, 2, 2), 0.4
    a, denoise = vector(20, 2, 3), tree_denoiser(process.rectified_flow())
    plain = denoise(x, t).x0

    @jax.jit
    def both(x):
        dds = inverse.dds(operator(), y, gamma=1.7, steps=3)
        diffpir = inverse.diffpir(operator(), y, noise=0.3, lam=2.0)
        fitted = inverse.hard_consistency(operator(), y, steps=2)
        slowly = inverse.hard_consistency(operator(), y, steps=400, rate=0.2)
        at_once = inverse.ddnm(operator(), y)
        return [guide(denoise)(x, t).x0 for guide in (dds, diffpir, fitted, slowly, at_once)]

    dds, diffpir, fitted, slowly, at_once = both(x)
    assert jnp.max(jnp.abs(1.7 * (y - dds @ a.T) @ a - (dds - plain))) < 1e-10
    pull = (y - diffpir @ a.T) @ a / 0.3**2
    assert jnp.max(jnp.abs(pull - 2.0 * (0.6 / 0.4) ** 2 * (diffpir - plain))) < 1e-10
    assert jnp.max(jnp.abs(fitted - at_once)) < 1e-10
    assert jnp.max(jnp.abs(slowly - at_once)) < 1e-6


def test_sitcom_fits_through_the_network():
    """It comes within the noise, changes nothing that is within it, and lambda holds it back."""
    denoise, x, t = tree_denoiser(process.rectified_flow()), vector(0, 2, 3), 0.4
    plain = denoise(x, t).x0
    y = plain @ A.T + jnp.array([[0.5, -0.4], [0.01, 0.0]])

    @jax.jit
    def both(x):
        make = lambda **more: inverse.sitcom(MATRIX, y, noise=0.05, rate=0.05, **more)  # noqa: E731
        guides = make(steps=60), make(steps=60, lam=10.0)
        return [guide(denoise)(x, t).x0 for guide in guides]

    fitted, held = both(x)
    assert jnp.all(jnp.linalg.norm(y - fitted @ A.T, axis=1) <= 0.05 * 2**0.5)
    assert jnp.allclose(fitted[1], plain[1], atol=1e-6)
    assert jnp.linalg.norm(held[0] - plain[0]) < 0.5 * jnp.linalg.norm(fitted[0] - plain[0])


@pytest.mark.slow
def test_the_second_order_term_is_the_gradient_of_the_trace():
    """On average over probes, on a mixture; on a Gaussian it is 0 and STSL is DPS."""
    rows, y, t, b = inverse.matrix(vector(20, 2, 2)), vector(1, 1, 2), 0.5, 4000
    a, flow, x = vector(20, 2, 2), process.rectified_flow(), vector(3, 1, 2)
    curved, straight = (exact.denoiser(d, flow) for d in (mixture(), gaussian(2)))
    many = lambda v: jnp.broadcast_to(v, (b, 2))  # noqa: E731

    def trace(x):
        jacobian = jax.jacobian(lambda v: curved(v[None], t).x0[0])(x)
        return jnp.trace(a @ jacobian @ a.T) * t**2 / (1 - t)

    @jax.jit
    def found(x):
        now = Now(t, 0.4, 0, 1, keys_of(b), {})
        make = lambda y: inverse.stsl(rows, y, noise=0.3, var=0.7)  # noqa: E731
        dps = inverse.dps(rows, y, noise=0.3, var=0.7)
        probed = make(many(y))(curved).fn(many(x), t, now).x0 - dps(curved)(x, t).x0
        few = make(y)(straight).fn(x, t, now._replace(key=keys_of(1))).x0
        expected = -(t**2) / (1 - t) * jax.grad(trace)(x[0]) / 1.4
        return probed, expected, few, dps(straight)(x, t).x0

    probed, expected, few, dps = found(x)
    error = probed.std(0) / b**0.5
    assert jnp.all(jnp.abs(probed.mean(0) - expected) < 4 * error)
    assert jnp.all(jnp.abs(expected) > 6 * error)
    assert jnp.allclose(few, dps, atol=1e-5)
