"""Samplers and corrections: what holds at the end of a run, in limits, and in law."""

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from jaxdiff import exact, inverse, process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.samplers import run, sample
from jaxdiff.types import Estimate
from tests.inverse.problems import OPERATORS, SHAPE, example, gap
from tests.problems import gaussian, keys_of, tree_denoiser, vector

FLOW = process.rectified_flow()
MASK = (vector(3, 4, 4, 1) > 0).astype(float)
TS = jnp.array([1.0, 0.7, 0.4, 0.1, 0.0])
POOL = inverse.average_pool(2, SHAPE)


def walk(solver, denoise, x, ts=TS):
    return run(keys_of(len(jax.tree.leaves(x)[0])), denoise, solver, samplers.grid(ts), x)


QUICK = ("ddrm", "ddrm vp", "diffpir", "mcg", "project", "resample")


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_end_agrees_with_a_clean_measurement(quick):
    """A x = y after the last step of every method that claims it, on processes of both kinds."""
    y, x = vector(1, 2, 2, 2, 2), vector(0, 2, *SHAPE)
    plain, ancestral = samplers.ddim(), samplers.ddpm()
    rows = inverse.linear(lambda x: 2 * x[::2] - x[1::2], SHAPE)
    other, diffpir = vector(4, 2, 2, 4, 2), inverse.diffpir(POOL, y, noise=0.0)

    @jax.jit
    def ends(x):
        flow, vp = tree_denoiser(FLOW), tree_denoiser(process.vp_linear())
        ways = {
            "ddnm": lambda: walk(ancestral, inverse.ddnm(POOL, y)(flow), x),
            "diffpir": lambda: walk(inverse.remix(0.4), diffpir(flow), x),
            "ddrm": lambda: walk(inverse.ddrm(POOL, y, noise=0.0), flow, x),
            "ddrm vp": lambda: walk(inverse.ddrm(POOL, y, noise=0.0, eta=0.0), vp, x),
            "ddnm_plus": lambda: walk(inverse.ddnm_plus(POOL, y, noise=0.0), vp, x),
            "mcg": lambda: walk(inverse.mcg(POOL, y, zeta=0.3)(plain), flow, x),
            "project": lambda: walk(inverse.project(POOL, y)(ancestral), vp, x),
            "resample": lambda: walk(inverse.resample(POOL, y, steps=2)(plain), flow, x),
            "hard": lambda: walk(plain, inverse.hard_consistency(POOL, y, steps=2)(vp), x),
            "dds": lambda: walk(plain, inverse.dds(POOL, y, gamma=1e7, steps=4)(flow), x),
            "rows": lambda: walk(inverse.project(rows, other)(plain), flow, x),
        }
        return {name: make() for name, make in ways.items() if (name in QUICK) == quick}

    for name, end in ends(x).items():
        operator, seen = (rows, other) if name == "rows" else (POOL, y)
        assert gap(jax.vmap(operator.A)(end), seen) < 1e-4, name


def test_spectral_samplers_in_their_limits():
    """DDNM+ without noise is DDNM with new noise; DDRM sees all, nothing, or y in noise."""
    y, x = vector(1, 2, *SHAPE), vector(0, 2, *SHAPE)
    pooled = jax.vmap(POOL.A)(y)
    everything, nothing = (inverse.inpainting(m * jnp.ones((4, 4, 1)), SHAPE) for m in (1, 0))

    @jax.jit
    def ends(x):
        d = tree_denoiser(FLOW)
        dark = jnp.zeros_like(y)
        return {
            "ddnm": walk(inverse.remix(1.0), inverse.ddnm(POOL, pooled)(d), x),
            "ddnm_plus": walk(inverse.ddnm_plus(POOL, pooled, noise=0.0, eta=1.0), d, x),
            "all": walk(inverse.ddrm(everything, y, noise=0.0), d, x),
            "none": walk(inverse.ddrm(nothing, dark, noise=0.1, eta=0.0), d, x),
            "noisy ddrm": walk(inverse.ddrm(POOL, pooled, noise=1e9, eta=1.0), d, x),
            "ddim": walk(samplers.ddim(), d, x),
            "renewed": walk(inverse.remix(1.0), d, x),
            "lcm": walk(samplers.lcm(), d, x),
            "old": walk(inverse.remix(0.0), d, x),
        }

    end = ends(x)
    close = lambda a, b: bool(jnp.max(jnp.abs(end[a] - end[b])) < 1e-4)  # noqa: E731
    assert close("ddnm", "ddnm_plus")
    assert jnp.max(jnp.abs(end["all"] - y)) < 1e-5
    assert close("none", "ddim")
    assert close("noisy ddrm", "renewed") and close("renewed", "lcm") and close("old", "ddim")


def _known(target, x, t, now):
    return Estimate(jnp.broadcast_to(target, x.shape))


@pytest.mark.parametrize(
    "make", [process.vp_linear, pytest.param(process.edm, marks=pytest.mark.slow)]
)
def test_steps_keep_the_marginal_of_the_truth(make):
    """Where x_0 is known exactly, x_s is N(alpha_s x_0, sigma_s^2), whatever y adds to it.

    Singular values so unlike that y says more than x_s in one direction, less in another, nothing
    in a third.
    """
    proc, b, s, truth = make(), 20_000, 0.3, jnp.array([0.5, -0.3, 0.2])
    rows = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.15, 0.0]])
    lam_t, lam_s = -1.0, 1.0
    t, u = process.time_of(proc, lam_t), process.time_of(proc, lam_s)
    operator, keys = inverse.matrix(rows), keys_of(b)
    y = (rows @ truth)[None] + s * vector(5, b, 2)

    @jax.jit
    def moments(eps):
        denoise = Denoiser(proc, Partial(_known, truth))
        x = process.perturb(proc, t, jnp.broadcast_to(truth, eps.shape), eps)
        grid = samplers.grid(jnp.stack([t, u]))
        solvers = {
            "ddrm": inverse.ddrm(operator, y, noise=s, eta=0.6, eta_b=0.7),
            "ddrm as in the paper": inverse.ddrm(operator, y, noise=s),
            "ddnm_plus": inverse.ddnm_plus(operator, y, noise=s),
            "remix": inverse.remix(0.3),
            "start": None,
        }
        alpha, sigma = process.scales(proc, u)
        found = {}
        for name, solver in solvers.items():
            if solver is None:
                start = inverse.ddrm_start(operator, y, sigma * eps, proc, u, noise=s)
                end, kept = start[:, :1], truth[:1]
            else:
                end, kept = run(keys, denoise, solver, grid, x), truth
            off = (end - alpha * kept[None]) / sigma
            found[name] = off.mean(0), off.std(0)
        return found

    for name, (mean, std) in moments(vector(4, b, 3)).items():
        assert jnp.all(jnp.abs(mean) < 0.04), (name, mean)
        assert jnp.all(jnp.abs(std - 1) < 0.03), (name, std)


def test_corrections_in_their_limits():
    """A mask of all ones gives y, of all zeros the prior sampler, to the rounding of fused code."""
    y, x = vector(1, 2, *SHAPE), vector(0, 2, *SHAPE)
    ones, zeros = jnp.ones((4, 4, 1)), jnp.zeros((4, 4, 1))
    plain = samplers.ddpm()

    @jax.jit
    def ends(x):
        d = tree_denoiser(FLOW)
        masks = {"all": ones, "none": zeros}
        found = {"prior": walk(plain, d, x)}
        for name, mask in masks.items():
            operator = inverse.inpainting(mask, SHAPE)
            seen = mask[None] * y
            fixes = {
                "repaint": inverse.repaint(mask, y, SHAPE),
                "project": inverse.project(operator, seen),
                "diffface": inverse.diffface(1 - mask, y, full=1e-6),
            }
            found |= {f"{fix} {name}": walk(c(plain), d, x) for fix, c in fixes.items()}
        found["late"] = walk(inverse.project(POOL, jax.vmap(POOL.A)(y), until=2.0)(plain), d, x)
        found["weightless"] = walk(
            inverse.project(POOL, jax.vmap(POOL.A)(y), weight=0.0)(plain), d, x
        )
        found["ilvr"] = walk(inverse.ilvr(POOL, y)(plain), d, x)
        found["ilvr as projection"] = walk(inverse.project(POOL, jax.vmap(POOL.A)(y))(plain), d, x)
        found["resampled not at all"] = walk(
            inverse.resample(POOL, jax.vmap(POOL.A)(y), steps=1, every=9)(plain), d, x
        )
        return found

    end = ends(x)
    for fix in ("repaint", "project", "diffface"):
        assert jnp.max(jnp.abs(end[f"{fix} all"] - y)) < 1e-5, fix
        assert jnp.max(jnp.abs(end[f"{fix} none"] - end["prior"])) < 1e-6, fix
    for name in ("late", "weightless", "resampled not at all"):
        assert jnp.max(jnp.abs(end[name] - end["prior"])) < 1e-6, name
    assert jnp.max(jnp.abs(end["ilvr"] - end["ilvr as projection"])) < 1e-6
    assert gap(jax.vmap(POOL.A)(end["ilvr"]), jax.vmap(POOL.A)(y)) < 1e-5


def test_diffface_grows_its_part():
    """Step i of n keeps 1 - i/(n full) of the picture where the mask is 1."""
    y, x = jnp.ones((1, *SHAPE)), jnp.zeros((1, *SHAPE))
    denoise = Denoiser(process.edm(), Partial(_known, jnp.zeros(SHAPE)))
    solver = inverse.diffface(jnp.ones((4, 4, 1)), y, full=0.5)(samplers.ddim())
    look = lambda now, x, est: x.mean()  # noqa: E731
    ts = jnp.array([4e-3, 3e-3, 2e-3, 1e-3, 0.0])  # hardly any noise

    @jax.jit
    def means(x):
        return run(keys_of(1), denoise, solver, samplers.grid(ts), x, look=look)[1]

    # half the steps: 1/2, then the whole part is free and the picture fades with its noise
    assert jnp.allclose(means(x)[0], 0.5, atol=2e-3)
    assert jnp.all(jnp.abs(means(x)[1:] - means(x)[0] * jnp.array([0.67, 0.33, 0.0])) < 3e-3)


def test_flow_samplers_in_their_limits():
    """FlowDPS without a misfit keeps the marginal; FlowChef moves down the gradient."""
    b, truth, rows = 20_000, jnp.array([0.5, -0.3, 0.2]), vector(20, 2, 3)
    operator = inverse.matrix(rows)
    y = jnp.broadcast_to(rows @ truth, (b, 2))
    t, u = 0.7, 0.4

    @jax.jit
    def found(eps):
        denoise = Denoiser(FLOW, Partial(_known, truth))
        x = process.perturb(FLOW, t, jnp.broadcast_to(truth, eps.shape), eps)
        grid = samplers.grid(jnp.array([t, u]))
        end = run(keys_of(b), denoise, inverse.flowdps(operator, y, steps=2), grid, x)
        off = (end - (1 - u) * truth[None]) / u
        few, d = x[:2], exact.denoiser(gaussian(), FLOW)
        plain = run(keys_of(2), d, samplers.ddim(), grid, few)
        chef = inverse.flowchef(operator, y[:2], rate=0.3)(samplers.ddim())
        parts = (d(few, t).x0, plain, run(keys_of(2), d, chef, grid, few))
        # one step from t to clean data goes the share t of the way
        last = samplers.grid(jnp.array([t, 0.0]))
        partly = run(keys_of(2), d, inverse.flowdps(operator, y[:2], steps=2), last, few)
        return off.mean(0), off.std(0), parts, partly

    mean, std, (x0, plain, moved), partly = found(vector(4, b, 3))
    assert jnp.all(jnp.abs(mean) < 0.04) and jnp.all(jnp.abs(std - 1) < 0.03)
    residual = y[:2] - x0 @ rows.T
    assert jnp.allclose(moved - plain, 0.3 * residual @ rows, atol=1e-5)
    assert jnp.allclose(y[:2] - partly @ rows.T, (1 - t) * residual, atol=1e-4)


def test_mpgd_in_its_limits():
    """With a mask and a rate of 1 it is DDNM; the projection acts last."""
    y, x = vector(1, 2, *SHAPE), vector(0, 2, *SHAPE)
    mask, d = inverse.inpainting(MASK, SHAPE), tree_denoiser(FLOW)

    @jax.jit
    def found(x):
        seen = MASK[None] * y
        halved = lambda x: x / 2  # noqa: E731
        guides = (
            inverse.ddnm(mask, seen),
            inverse.mpgd(mask, seen, rate=1.0),
            inverse.mpgd(mask, seen, rate=lambda at: at.sigma / 0.4, autoencode=halved),
        )
        return [guide(d)(x, 0.4).x0 for guide in guides]

    ddnm, mpgd, projected = found(x)
    assert jnp.allclose(mpgd, ddnm, atol=1e-6) and jnp.allclose(2 * projected, ddnm, atol=1e-6)


def test_a_start_from_the_measurement():
    """CCDF: from A^+ y at a strength, with projection; nearer to y's picture than from noise."""
    y = jax.vmap(POOL.A)(vector(1, 2, *SHAPE))
    start = jax.vmap(POOL.pinv)(y)
    d = tree_denoiser(process.edm())
    ccdf = jax.jit(
        lambda image: sample(
            jax.random.key(0), d, inverse.project(POOL, y)(samplers.ddpm()),
            image=image, strength=0.3, steps=10,
        )
    )  # fmt: skip
    end = ccdf(start)
    assert gap(jax.vmap(POOL.A)(end), y) < 1e-5 and jnp.max(jnp.abs(end - start)) > 1e-3


@pytest.mark.slow
def test_operators_of_other_shapes_serve():
    """Trees by projection, matrices by the spectrum: the end agrees with y."""
    tree = OPERATORS["linear on a tree"]()
    x = jax.tree.map(lambda leaf: leaf[None], example(tree, 7))
    y = jax.tree.map(lambda leaf: leaf[None], tree.A(example(tree, 3)))
    low = OPERATORS["matrix of low rank"]()
    flat, seen = vector(0, 2, 5), jax.vmap(low.A)(vector(1, 2, 5))

    @jax.jit
    def ends(x, flat):
        d = tree_denoiser(FLOW)
        on_tree = walk(inverse.project(tree, y)(samplers.ddim()), d, x)
        fitted = walk(samplers.ddim(), inverse.hard_consistency(tree, y, steps=12)(d), x)
        return on_tree, fitted, walk(inverse.ddrm(low, seen, noise=0.0), d, flat)

    on_tree, fitted, end = ends(x, flat)
    for found in (on_tree, fitted):
        assert gap(jax.vmap(tree.A)(found), y) < 1e-3
    assert gap(jax.vmap(low.A)(end), seen) < 1e-4


@pytest.mark.slow
def test_the_marginal_of_the_truth_in_complex_coordinates():
    """A blur's singular vectors are waves: noise for them is the transform of noise for pixels."""
    b, s, shape, proc = 4000, 0.1, (4, 4, 1), process.vp_linear()
    kernel = inverse.gaussian_kernel(0.8, 3)
    operator, truth = inverse.blur(kernel, shape), jnp.tanh(vector(1, *shape))
    t, u = process.time_of(proc, 0.0), process.time_of(proc, 3.0)
    y = operator.A(truth)[None] + s * vector(5, b, *shape)

    @jax.jit
    def moments(eps):
        denoise = Denoiser(proc, Partial(_known, truth))
        x = process.perturb(proc, t, jnp.broadcast_to(truth, eps.shape), eps)
        alpha, sigma = process.scales(proc, u)
        found = {}
        for name, make in (("ddrm", inverse.ddrm), ("ddnm_plus", inverse.ddnm_plus)):
            rows = samplers.grid(jnp.stack([t, u]))
            end = run(keys_of(b), denoise, make(operator, y, noise=s), rows, x)
            off = (end - alpha * truth[None]) / sigma
            found[name] = off.mean(0), off.std(0)
        return found

    for name, (mean, std) in moments(vector(4, b, *shape)).items():
        assert jnp.all(jnp.abs(mean) < 0.07), name
        assert jnp.all(jnp.abs(std - 1) < 0.05), name
