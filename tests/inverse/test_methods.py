"""Every method as a method: its calls of the network, batches, and what it refuses at the door."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from jaxdiff import denoise as dn
from jaxdiff import inverse, process, samplers
from jaxdiff.samplers import run
from jaxdiff.types import GridOnly, Sampler
from tests.inverse.problems import SHAPE
from tests.problems import keys_of, tree_denoiser, vector

FLOW = process.rectified_flow()
MASK = (vector(3, 4, 4, 1) > 0).astype(float)
POOL = inverse.average_pool(2, SHAPE)
SQUARE = inverse.Nonlinear(lambda x: x[::2, ::2] ** 2, SHAPE)
BARE = inverse.linear(lambda x: x[::2, ::2], SHAPE)


def same(x):
    return x


GUIDES = {
    "blind_dps": functools.partial(inverse.blind_dps, var=0.5),
    "ddnm": inverse.ddnm,
    "dds": functools.partial(inverse.dds, gamma=1.0),
    "diffpir": functools.partial(inverse.diffpir, noise=0.1),
    "dmps": functools.partial(inverse.dmps, noise=0.1),
    "dps": functools.partial(inverse.dps, noise=0.1),
    "dps by a law": functools.partial(inverse.dps, noise=inverse.noises.speckle(0.1)),
    "hard_consistency": functools.partial(inverse.hard_consistency, steps=2),
    "hard_consistency by rate": functools.partial(inverse.hard_consistency, steps=2, rate=0.1),
    "mmps": functools.partial(inverse.mmps, noise=0.1),
    "mpgd": functools.partial(inverse.mpgd, rate=0.1),
    "pigdm": functools.partial(inverse.pigdm, noise=0.1),
    "psld": functools.partial(inverse.psld, noise=0.1, decode=same, encode=same),
    "score_ald": functools.partial(inverse.score_ald, noise=0.1),
    "sitcom": functools.partial(inverse.sitcom, noise=0.1, steps=3),
    "tmpd": functools.partial(inverse.tmpd, noise=0.1),
}
SAMPLERS = {
    "ddnm_plus": lambda y: inverse.ddnm_plus(POOL, y, noise=0.1),
    "ddrm": lambda y: inverse.ddrm(POOL, y, noise=0.1),
    "diffface": lambda y: inverse.diffface(MASK, jax.vmap(POOL.pinv)(y))(samplers.ddpm()),
    "dps_poisson": lambda y: inverse.dps_poisson(POOL, jnp.abs(y), zeta=0.1)(samplers.ddim()),
    "flowchef": lambda y: inverse.flowchef(POOL, y, rate=0.3)(samplers.ddim()),
    "flowdps": lambda y: inverse.flowdps(POOL, y),
    "mcg": lambda y: inverse.mcg(POOL, y, zeta=0.1)(samplers.ddpm()),
    "project": lambda y: inverse.project(POOL, y)(samplers.ddpm()),
    "remix": lambda y: inverse.remix(0.3),
    "resample": lambda y: inverse.resample(POOL, y, steps=2)(samplers.ddim()),
    "stsl": lambda y: guided(inverse.stsl(POOL, y, noise=0.1)),
}


def guided(guide):
    """A guide that needs a loop, as a sampler."""
    plain = samplers.ddim()
    return Sampler(plain.init, lambda now, d, state: plain.step(now, guide(d), state))


# forward passes and backward passes in the program, a loop's body counted once
CALLS = {
    "blind_dps": (1, 1),
    "dps": (1, 1),
    "dps by a law": (1, 1),
    "mmps": (1, 2),  # one in the body of the conjugate gradient
    "pigdm": (1, 1),
    "psld": (1, 1),
    "sitcom": (2, 1),  # the body of its loop, and the end
    "tmpd": (1, 2),
    "dps_poisson": (1, 1),
    "stsl": (2, 2),  # with its forward derivative
    "mcg": (1, 1),
}
WEIGHT = vector(9, 29, 29)


def marked(params, x, time, cond):
    """A network of one product with a matrix of a shape that nothing else has."""
    flat = x.reshape(x.shape[0], -1)
    wide = jnp.tanh(jnp.pad(flat, ((0, 0), (0, 0))) @ params["in"])
    return (wide @ params["mark"] @ params["out"]).reshape(x.shape)


def net():
    params = {"in": vector(10, 32, 29), "mark": WEIGHT, "out": vector(11, 29, 32)}
    return dn.bind(dn.model(marked, params, FLOW, process.wiring(process.x0)), None)


def products(jaxpr, found):
    """How often the marked matrix is multiplied, forward and transposed, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general" and eqn.invars[1].aval.shape == (29, 29):
            contracted = eqn.params["dimension_numbers"][0][1]
            found[0 if contracted == (0,) else 1] += 1
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    products(inner, found)
    return tuple(found)


@pytest.mark.parametrize("name", [*GUIDES, *SAMPLERS])
def test_calls_of_the_network(name):
    """One forward pass; a backward pass where the method needs one, none where it does not."""
    y, x = vector(1, 2, 2, 2, 2), vector(0, 2, *SHAPE)
    if name in GUIDES:
        guided = GUIDES[name](POOL, y)(net())
        program = jax.make_jaxpr(lambda x: guided(x, 0.5).x0)(x)
    else:
        rows = samplers.grid(jnp.array([0.5, 0.3]))
        program = jax.make_jaxpr(lambda x: run(keys_of(2), net(), SAMPLERS[name](y), rows, x))(x)
    assert products(program.jaxpr, [0, 0]) == CALLS.get(name, (1, 0))


def bent(x, t, now):
    est = tree_denoiser(FLOW).fn(x, t, now)
    return est._replace(x0=jnp.tanh(est.x0), var=None)


@jax.jit
def walk(keys, y, x):
    """Every sampler in one program, on a denoiser that is not linear."""
    denoise, rows = dn.Denoiser(FLOW, Partial(bent)), samplers.grid(jnp.array([1.0, 0.5, 0.0]))
    return {name: run(keys, denoise, make(y), rows, x) for name, make in SAMPLERS.items()}


def test_a_sample_does_not_depend_on_its_batch():
    """Its neighbour's y, x and key are changed, and are of very unlike size."""
    y, x, keys = vector(1, 2, 2, 2, 2), vector(0, 2, *SHAPE), keys_of(2)
    loud = jnp.array([1.0, 30.0])[:, None, None, None]
    first = walk(keys, y, x)
    second = walk(keys.at[1].set(jax.random.key(7)), y * loud, x * loud)
    for name, end in first.items():
        assert jnp.isfinite(end).all(), name
        assert jnp.array_equal(end[0], second[name][0]), name
        assert not jnp.array_equal(end[1], second[name][1]), name


@pytest.mark.slow
def test_a_batch_is_its_samples():
    y, x, keys = vector(1, 2, 2, 2, 2), vector(0, 2, *SHAPE), keys_of(2)
    whole = walk(keys, y, x)
    for i in range(2):
        one = walk(keys[i : i + 1], y[i : i + 1], x[i : i + 1])
        for name, end in whole.items():
            apart = jnp.max(jnp.abs(one[name][0] - end[i]))
            assert apart < 1e-5 * jnp.max(jnp.abs(end[i])), name


@pytest.mark.parametrize(
    "make", [process.rectified_flow, pytest.param(process.edm, marks=pytest.mark.slow)]
)
def test_no_noise_and_the_ends_of_time(make):
    """At alpha = 0, at t_min and between: finite without noise, where pixels are hidden too."""
    proc, mask = make(), inverse.inpainting(MASK, SHAPE)
    denoise, x, y = tree_denoiser(proc), vector(0, 1, *SHAPE), MASK[None] * vector(1, 1, *SHAPE)
    free = (
        "blind_dps",
        "dds",
        "mpgd",
        "hard_consistency",
        "hard_consistency by rate",
        "dps by a law",
    )

    @jax.jit
    def all_ways(t):
        found = {n: GUIDES[n](mask, y)(denoise)(x, t).x0 for n in free}
        clean = {n: functools.partial(g, mask, y) for n, g in GUIDES.items() if n not in free}
        return found | {n: guide(noise=0.0)(denoise)(x, t).x0 for n, guide in clean.items()}

    for t in (proc.t_max, 0.5 * proc.t_max, proc.t_min):
        for name, x0 in all_ways(t).items():
            assert jnp.isfinite(x0).all(), (name, float(t))
            # a guide knows nothing of what is hidden, where pixels are independent
            if name != "dps by a law":
                apart = jnp.where(MASK[None] > 0, 0.0, x0 - denoise(x, t).x0)
                assert jnp.max(jnp.abs(apart)) < 1e-5, (name, float(t))


def test_a_guide_that_draws_needs_steps():
    with pytest.raises(GridOnly, match=r"now\.key"):
        asked(inverse.stsl(POOL, Y, noise=0.1))


def asked(guide):
    return guide(tree_denoiser(FLOW))(jnp.zeros((2, *SHAPE)), 0.5)


def stepped(sampler):
    rows = samplers.grid(jnp.array([0.5, 0.3]))
    return run(keys_of(2), tree_denoiser(FLOW), sampler, rows, jnp.zeros((2, *SHAPE)))


Y = jnp.zeros((2, 2, 2, 2))


@pytest.mark.parametrize(
    "name", [*GUIDES, *(n for n in SAMPLERS if n not in ("remix", "diffface"))]
)
def test_measurements_of_the_wrong_shape(name):
    for y in (Y[:1], jnp.zeros((2, *SHAPE)), Y[..., :1]):
        with pytest.raises(ValueError, match="y has shapes"):
            if name in GUIDES:
                asked(GUIDES[name](POOL, y))
            else:
                jax.eval_shape(lambda y=y: stepped(SAMPLERS[name](y)))


LINEAR = ("ddnm", "dds", "diffpir", "dmps", "mmps", "pigdm", "psld", "score_ald", "tmpd")


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_method_refuses_what_is_not_linear(name):
    with pytest.raises(ValueError, match=rf"{name} needs a linear operator .* use "):
        GUIDES[name](SQUARE, Y)


def test_others_take_what_is_not_linear():
    for name in ("dps", "dps by a law", "mpgd", "sitcom", "hard_consistency by rate"):
        found = jax.eval_shape(lambda name=name: asked(GUIDES[name](SQUARE, Y)).x0)
        assert found.shape == (2, *SHAPE)
    for make in (inverse.dps_published, inverse.dps_poisson):
        jax.eval_shape(lambda make=make: stepped(make(SQUARE, Y, zeta=0.1)(samplers.ddim())))
    for make in (inverse.hard_consistency, inverse.resample, inverse.flowdps):
        with pytest.raises(ValueError, match="give a rate"):
            make(SQUARE, Y, steps=2)
    for make in (inverse.project, functools.partial(inverse.mcg, zeta=1.0), inverse.ilvr):
        with pytest.raises(ValueError, match="needs a linear operator"):
            make(SQUARE, Y)


def test_a_known_projection_needs_no_rate():
    """Quantised pixels: x_0 moves to the nearest image that would be seen as y."""
    coarse = inverse.quantise(4, SHAPE)
    y = jax.vmap(coarse.A)(jnp.tanh(vector(1, 2, *SHAPE)))
    guided = inverse.hard_consistency(coarse, y, steps=1)(tree_denoiser(FLOW))
    x = vector(0, 2, *SHAPE)
    found, plain = guided(x, 0.5).x0, tree_denoiser(FLOW)(x, 0.5).x0
    assert coarse.project is not None
    assert jnp.allclose(found, jax.vmap(coarse.project)(plain, y))
    # the cells of 4 levels are 2/3 wide, those at the ends open
    assert jnp.max(jnp.where(jnp.abs(y) < 0.9, jnp.abs(found - y), 0)) < 1 / 3 + 1e-5
    within = jnp.abs(plain - y) < 1 / 3
    assert within.any() and jnp.array_equal(jnp.where(within, found - plain, 0), 0 * y)


def test_a_blind_problem_is_sampled_as_a_tree():
    """Image and kernel together: the blurred image comes to y, which the prior's does not."""
    blurred = inverse.blind_blur((4, 4, 1), (2, 2))
    both = inverse.paired({"image": tree_denoiser(FLOW), "kernel": tree_denoiser(FLOW)})
    x = {"image": vector(0, 2, 4, 4, 1), "kernel": vector(1, 2, 2, 2)}
    y = jax.vmap(blurred.A)({"image": vector(2, 2, 4, 4, 1), "kernel": jnp.ones((2, 2, 2)) / 4})

    @jax.jit
    def misfits(x):
        rows = samplers.grid(jnp.linspace(1.0, 0.0, 21))
        guide = inverse.blind_dps(blurred, y, var=lambda at: 0.01 + 16 * at.sigma**2)
        ends = [run(keys_of(2), d, samplers.ddim(), rows, x) for d in (guide(both), both)]
        return [jnp.linalg.norm(y - jax.vmap(blurred.A)(end)) for end in ends]

    blind, prior = misfits(x)
    assert blind < 0.3 * prior


def test_a_spectral_method_says_how_to_get_an_svd():
    for make in (inverse.ddrm, inverse.ddnm_plus):
        with pytest.raises(ValueError, match=r"inverse\.matrix"):
            make(BARE, Y, noise=0.1)
        with pytest.raises(ValueError, match="needs a linear operator"):
            make(SQUARE, Y, noise=0.1)
    with pytest.raises(ValueError, match=r"inverse\.matrix"):
        inverse.ddrm_start(BARE, Y, jnp.zeros((2, *SHAPE)), FLOW, 1.0, noise=0.1)


REFUSED = {
    "diffpir lam": (lambda: inverse.diffpir(POOL, Y, noise=0.1, lam=0.0), "lam=0.0"),
    "blind var": (lambda: inverse.blind_dps(POOL, Y, var=0.0), "var=0.0"),
    "dds gamma": (lambda: inverse.dds(POOL, Y, gamma=-1.0), "gamma=-1.0"),
    "dds steps": (lambda: inverse.dds(POOL, Y, gamma=1.0, steps=0), "steps=0"),
    "dmps v0": (lambda: inverse.dmps(POOL, Y, noise=0.1, v0=0.0), "v0=0.0"),
    "dps var": (lambda: inverse.dps(POOL, Y, noise=0.1, var=0.0), "var=0.0"),
    "mpgd rate": (lambda: inverse.mpgd(POOL, Y, rate=0.0), "rate=0.0"),
    "flowchef rate": (lambda: inverse.flowchef(POOL, Y, rate=-1.0), "rate=-1.0"),
    "hard steps": (lambda: inverse.hard_consistency(POOL, Y, steps=0), "steps=0"),
    "hard rate": (lambda: inverse.hard_consistency(POOL, Y, steps=1, rate=0.0), "rate=0.0"),
    "resample gamma": (lambda: inverse.resample(POOL, Y, steps=1, gamma=0.0), "gamma=0.0"),
    "resample every": (lambda: inverse.resample(POOL, Y, steps=1, every=0), "every=0"),
    "sitcom steps": (lambda: inverse.sitcom(POOL, Y, noise=0.1, steps=0), "steps=0"),
    "sitcom rate": (lambda: inverse.sitcom(POOL, Y, noise=0.1, rate=0.0), "rate=0.0"),
    "sitcom lam": (lambda: inverse.sitcom(POOL, Y, noise=0.1, lam=-1.0), "lam=-1.0"),
    "ddrm eta": (lambda: inverse.ddrm(POOL, Y, noise=0.1, eta=1.5), "eta=1.5"),
    "ddrm eta_b": (lambda: inverse.ddrm(POOL, Y, noise=0.1, eta_b=-0.5), "eta_b=-0.5"),
    "ddnm_plus eta": (lambda: inverse.ddnm_plus(POOL, Y, noise=0.1, eta=2.0), "eta=2.0"),
    "remix zeta": (lambda: inverse.remix(1.1), "zeta=1.1"),
    "project weight": (lambda: inverse.project(POOL, Y, weight=2.0), "weight=2.0"),
    "poisson floor": (lambda: inverse.dps_poisson(POOL, Y, zeta=1.0, floor=0.0), "floor=0.0"),
    "ilvr image": (lambda: inverse.ilvr(POOL, Y), "one example of shape"),
    "diffface mask": (lambda: inverse.diffface(MASK[:2], jnp.zeros((2, *SHAPE))), "mask of shape"),
    "diffface values": (lambda: inverse.diffface(2 * MASK, jnp.zeros((2, *SHAPE))), r"in \[0, 1\]"),
    "diffface full": (
        lambda: inverse.diffface(MASK, jnp.zeros((2, *SHAPE)), full=0.0), "full=0.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_that_are_refused(name):
    make, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make", [GUIDES[n] for n in ("diffpir", "dmps", "psld", "score_ald", "sitcom", "tmpd")]
)
def test_a_negative_noise_is_refused(make):
    for noise in (-0.1, jnp.nan):
        with pytest.raises(ValueError, match="noise="):
            make(POOL, Y, noise=noise)


def test_pictures_in_other_units_are_refused():
    """Pixels in 0 ... 255 for a model in [-1, 1], where y lives among the samples; also in jit."""
    ranged = dn.bind(dn.model(marked, {}, FLOW, process.wiring(process.x0)), None)
    rows = samplers.grid(jnp.array([0.5, 0.3]))
    x, image = jnp.zeros((2, *SHAPE)), 255 * jnp.ones((2, *SHAPE))
    makes = (
        lambda y: inverse.repaint(jnp.ones((4, 4, 1)), y, SHAPE),
        lambda y: inverse.diffface(MASK, y),
        lambda y: inverse.ilvr(POOL, y),
    )
    for make in makes:
        for walk in (run, lambda *args: jax.jit(functools.partial(run, *args[:-1]))(args[-1])):
            with pytest.raises(ValueError, match=r"spans \[255, 255\]"):
                walk(keys_of(2), ranged, make(image)(samplers.ddim()), rows, x)
        with pytest.raises(ValueError, match="NaN"):
            run(keys_of(2), ranged, make(jnp.nan * image)(samplers.ddim()), rows, x)
        with pytest.raises(ValueError, match="they must agree"):
            run(keys_of(2), ranged, make(image[:1])(samplers.ddim()), rows, x)
    # what is not seen does not count, and a little noise may leave the range
    hidden = jnp.where(MASK[None] > 0, 1.4, jnp.nan * image)
    fine = inverse.repaint(MASK, hidden, SHAPE)(samplers.ddim())
    end = jax.jit(lambda x: run(keys_of(2), net(), fine, rows, x))(x)
    assert jnp.isfinite(end).all()


IN_RANGE = {
    "dps": lambda op, y: inverse.dps(op, y, noise=0.05),
    "pigdm": lambda op, y: inverse.pigdm(op, y, noise=0.05),
    "mmps": lambda op, y: inverse.mmps(op, y, noise=0.05),
    "tmpd": lambda op, y: inverse.tmpd(op, y, noise=0.05),
    "ddnm": lambda op, y: inverse.ddnm(op, y),
    "ddnm with noise": lambda op, y: inverse.ddnm(op, y, noise=0.05),
    "dmps": lambda op, y: inverse.dmps(op, y, noise=0.05),
    "score_ald": lambda op, y: inverse.score_ald(op, y, noise=0.05),
    "diffpir": lambda op, y: inverse.diffpir(op, y, noise=0.05),
    "dds": lambda op, y: inverse.dds(op, y, gamma=1.0),
    "mpgd": lambda op, y: inverse.mpgd(op, y, rate=1.0),
}


@pytest.mark.parametrize("name", IN_RANGE)
def test_a_measurement_in_other_units_is_refused(name):
    """Pixels from 0 to 255 for a denoiser of [-1, 1]; NaN where nothing was measured."""
    operator = inverse.average_pool(2, SHAPE)
    denoise = dataclasses.replace(tree_denoiser(FLOW), span=(jnp.array(-1.0), jnp.array(1.0)))
    y = 0.3 * vector(1, 2, 2, 2, SHAPE[-1])
    IN_RANGE[name](operator, y)(denoise)
    IN_RANGE[name](operator, 1e3 * y)(tree_denoiser(FLOW))  # no range, nothing to say
    for bad, words in ((127.5 * (y + 1), "value range"), (y.at[0, 0, 0].set(jnp.nan), "NaN")):
        with pytest.raises(ValueError, match=words):
            IN_RANGE[name](operator, bad)(denoise)


def test_loud_noise_is_not_a_unit():
    operator = inverse.inpainting(jnp.ones((*SHAPE[:2], 1)), SHAPE)
    denoise = dataclasses.replace(tree_denoiser(FLOW), span=(jnp.array(-1.0), jnp.array(1.0)))
    inverse.pigdm(operator, 30 * vector(1, 2, *SHAPE), noise=20.0)(denoise)
