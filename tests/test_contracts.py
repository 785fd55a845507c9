"""Every public name keeps the contract of its kind; a public name without an entry here fails.

The tables say how to build one of each, small. What is of no kind (helpers, types) is listed too,
so that a new name is a decision.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import denoise as dn
from jaxdiff import exact, guidance, inverse, process, samplers
from jaxdiff.inverse.operators import struct
from jaxdiff.types import Estimate, Now, Sampler, State
from tests.problems import keys_of, tree_denoiser, vector

SHAPE = (4, 4, 2)
B, DEVICES = 2, 8
MASK = (vector(3, 4, 4, 1) > 0).astype(float)


def half(t):
    return t / 2


def net(params, x, time, cond):
    return params * x + (0.0 if cond is None else cond.reshape(-1, 1, 1, 1).astype(float))


def model():
    flow = process.rectified_flow()
    return dn.model(net, jnp.array(0.5), flow, process.wiring(process.velocity))


def larger(branches, at):
    return Estimate(jnp.maximum(*branches))


PROCESSES = {
    "edm": process.edm,
    "from_betas": lambda: process.from_betas(process.linear_betas()),
    "from_scales": lambda: process.from_scales(jnp.ones_like, half, 0.1, 10.0),
    "rectified_flow": process.rectified_flow,
    "sub_vp": process.sub_vp,
    "trig_flow": process.trig_flow,
    "ve": process.ve,
    "vp_cosine": process.vp_cosine,
    "vp_linear": process.vp_linear,
}
PREDICTIONS = {
    "F": process.F(0.5),
    "eps": process.eps,
    "score": process.score,
    "v": process.v,
    "velocity": process.velocity,
    "x0": process.x0,
}
GRIDS = {
    "align_your_steps": functools.partial(
        process.align_your_steps, ratios=process.AYS["stable_diffusion"]
    ),
    "beta": process.beta,
    "discard_penultimate": process.discard_penultimate(process.karras),
    "karras": process.karras,
    "kl_optimal": process.kl_optimal,
    "lcm_times": process.lcm_times,
    "leading": process.leading,
    "linspace": process.linspace,
    "polyexponential": process.polyexponential,
    "quadratic": process.quadratic,
    "simple": process.simple,
    "stretched": process.stretched(10.0, process.linspace),
    "root_flow": process.root_flow,
    "trailing": process.trailing,
    "uniform": process.uniform,
    "uniform_lambda": process.uniform_lambda,
    "uniform_ratio": process.uniform_ratio,
}
BELOW_THE_TOP = {"align_your_steps", "leading", "quadratic"}  # these do not begin at t_max
DENOISERS = {
    "bind": lambda: dn.bind(model(), None),
    "blend": lambda: dn.blend((dn.bind(model(), None), tree_denoiser(FLOW)), (0.5, 0.5)),
    "apg": lambda: guidance.apg(model(), 1, 0, 2.0, eta=0.5, norm=2.0),
    "autoguided": lambda: guidance.autoguided(dn.bind(model(), None), tree_denoiser(FLOW), 2.0),
    "cfg": lambda: dn.cfg(model(), 1, 0, 2.0),
    "combined": lambda: dn.combined(model(), (1, 0), larger),
    "compose": lambda: guidance.compose(model(), (1, 2), 0, (2.0, -1.0)),
    "mix": lambda: dn.mix(model(), (0, 1, 2), (0.5, 0.25, 0.25)),
    "rebase": lambda: dn.rebase(tree_denoiser(process.edm()), FLOW),
    "rescaled_cfg": lambda: guidance.rescaled_cfg(model(), 1, 0, 2.0, rescale=0.5),
}
FLOW = process.rectified_flow()


def cost(x0):
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(x0)]))


def noisy_cost(x, t):
    return t * cost(x)


def logits(x, t):
    return jnp.stack([cost(x), 0.5 * t])


def costs(x0):
    return jax.vmap(cost)(x0)


def fix(now, proc, x, est):
    return jax.tree.map(lambda a, b: a + now.s * b, x, est.x0)


POOL = inverse.average_pool(2, SHAPE)
Y = vector(1, B, 2, 2, 2)


def level(x):
    return jnp.zeros(len(jax.tree.leaves(x)[0]))


EVERYWHERE = samplers.Statistics(
    jnp.array([-3.0, 3.0]), jnp.array([0.5, 1.0]), jnp.array([-0.4, 0.1]), jnp.array([0.3, -0.2])
)
SAMPLERS = {
    "adams": samplers.adams(3),
    "checked": samplers.checked(samplers.heun()),
    "adjusted": samplers.adjusted(level)(samplers.ddpm()),
    "analytic": samplers.analytic(0.5, last=True, calm=0.1),
    "annealed": samplers.annealed(samplers.langevin(snr=0.1, steps=2)),
    "adams_moulton": samplers.adams_moulton(),
    "churn": samplers.churn()(samplers.euler()),
    "deis": samplers.deis(),
    "corrected": samplers.corrected(samplers.renewal(0.1))(samplers.heun()),
    "dpm_2": samplers.dpm_2(),
    "dpm_solver_m": samplers.dpm_solver_m(2, 0.5),
    "dpm_3": samplers.dpm_3(0.5),
    "dpm_fast": samplers.dpm_fast(4),
    "dpmpp_3s": samplers.dpmpp_3s(),
    "dpmpp_sde": samplers.dpmpp_sde(),
    "er_sde": samplers.er_sde(),
    "singlestep": samplers.singlestep((3, 1), r1=0.2, eta=1.0),
    "dpmpp_2s": samplers.dpmpp_2s(0.5),
    "ddim": samplers.ddim(0.5),
    "ddpm": samplers.ddpm(),
    "dpmpp_2m": samplers.dpmpp_2m(),
    "dpmpp_3m": samplers.dpmpp_3m(0.5),
    "dpm_solver_v3": samplers.dpm_solver_v3(EVERYWHERE),
    "euler": samplers.euler(),
    "heun": samplers.heun(),
    "ipndm": samplers.ipndm(),
    "ito": samplers.ito(),
    "lcm": samplers.lcm(),
    "plms": samplers.plms(),
    "pndm": samplers.pndm(),
    "tcd": samplers.tcd(0.3),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "sa_solver": samplers.sa_solver(),
    "unipc": samplers.unipc(),
    "ancestral_classifier": guidance.ancestral_classifier(logits, 1, 0.1)(samplers.ddpm()),
    "tfg": guidance.tfg(cost, rho=0.1, mu=0.1, iterations=2, gamma=0.5, samples=2)(samplers.ddim()),
    "after": samplers.after(fix)(samplers.ddpm()),
    "through": samplers.through(costs, 0.1)(samplers.dpmpp_2m()),
    "remix": inverse.remix(0.3),
}
IMAGE_SAMPLERS = {  # corrections whose operator says the shape
    "ddnm_plus": inverse.ddnm_plus(POOL, Y, noise=0.1),
    "ddrm": inverse.ddrm(POOL, Y, noise=0.1),
    "diffface": inverse.diffface(MASK, vector(2, B, *SHAPE))(samplers.heun()),
    "dps_poisson": inverse.dps_poisson(POOL, Y, zeta=0.1, low=-9.0)(samplers.ddim()),
    "dps_published": inverse.dps_published(POOL, Y, zeta=0.1)(samplers.ddim()),
    "fps": inverse.fps(POOL, Y[:1], noise=0.1, particles=B),
    "mcgdiff": inverse.mcgdiff(
        inverse.inpainting(MASK, SHAPE), vector(2, 1, *SHAPE), noise=0.1, particles=B
    ),
    "steered": inverse.steered(cost, particles=B)(samplers.ddpm()),
    "twisted": inverse.twisted(POOL, Y[:1], noise=0.1, particles=B),
    "flowchef": inverse.flowchef(POOL, Y, rate=0.1)(samplers.euler()),
    "flowdps": inverse.flowdps(POOL, Y),
    "ilvr": inverse.ilvr(POOL, vector(2, B, *SHAPE))(samplers.ddpm()),
    "mcg": inverse.mcg(POOL, Y, zeta=0.1)(samplers.ddpm()),
    "project": inverse.project(POOL, Y)(samplers.ddpm()),
    "repaint": inverse.repaint(MASK, vector(2, B, *SHAPE), SHAPE)(samplers.ddpm()),
    "resample": inverse.resample(POOL, Y, steps=2)(samplers.ddim()),
}


def twice(z):
    return 2 * z


def to_zero(est, at):
    return jax.tree.map(jnp.negative, est.x0)


GUIDES = {
    "add": lambda y: guidance.pulled(guidance.add(to_zero, guidance.energy(cost))),
    "chain": lambda y: guidance.chain(guidance.clip(), guidance.pulled(to_zero)),
    "classifier": lambda y: guidance.classifier(logits, 1, 0.1),
    "clip": lambda y: guidance.clip(),
    "dynamic_threshold": lambda y: guidance.dynamic_threshold(0.9),
    "edited": lambda y: guidance.edited(to_zero),
    "energy": lambda y: guidance.pulled(guidance.energy(cost, 0.1)),
    "noisy": lambda y: guidance.noisy(noisy_cost, 0.1),
    "pulled": lambda y: guidance.pulled(to_zero),
    "towards": lambda y: guidance.towards(cost, 0.1),
    "blind_dps": lambda y: inverse.blind_dps(POOL, y, var=0.5),
    "ddnm": lambda y: inverse.ddnm(POOL, y),
    "dds": lambda y: inverse.dds(POOL, y, gamma=2.0),
    "diffpir": lambda y: inverse.diffpir(POOL, y, noise=0.1),
    "dmps": lambda y: inverse.dmps(POOL, y, noise=0.1),
    "dps": lambda y: inverse.dps(POOL, y, noise=0.1),
    "hard_consistency": lambda y: inverse.hard_consistency(POOL, y, steps=2),
    "mmps": lambda y: inverse.mmps(POOL, y, noise=0.1),
    "mpgd": lambda y: inverse.mpgd(POOL, y, rate=1.0),
    "pigdm": lambda y: inverse.pigdm(POOL, y, noise=0.1),
    "psld": lambda y: inverse.psld(POOL, y, decode=twice, encode=half, noise=0.1),
    "score_ald": lambda y: inverse.score_ald(POOL, y, noise=0.1),
    "sitcom": lambda y: inverse.sitcom(POOL, y, noise=0.1, steps=3),
    "tmpd": lambda y: inverse.tmpd(POOL, y, noise=0.1),
}
OPERATORS = {
    "average_pool": lambda: POOL,
    "bicubic": lambda: inverse.bicubic(2, SHAPE),
    "blur": lambda: inverse.blur(inverse.gaussian_kernel(0.5, 3), SHAPE),
    "coils": lambda: inverse.coils(MASK, vector(6, 2, 4, 4, 2), SHAPE, steps=9),
    "colourisation": lambda: inverse.colourisation(SHAPE),
    "compose": lambda: inverse.compose(POOL, inverse.inpainting(MASK, SHAPE), steps=9),
    "fourier": lambda: inverse.fourier(MASK, SHAPE),
    "gaussian_sensing": lambda: inverse.gaussian_sensing(5, SHAPE, key=jax.random.key(1)),
    "hadamard": lambda: inverse.hadamard(5, SHAPE, key=jax.random.key(2)),
    "inpainting": lambda: inverse.inpainting(MASK, SHAPE),
    "linear": lambda: inverse.linear(lambda x: x[1:] - x[:-1], SHAPE),
    "matrix": lambda: inverse.matrix(vector(5, 3, 5)),
    "radon": lambda: inverse.radon((0.0, 50.0), SHAPE, detectors=4, steps=12),
    "stack": lambda: inverse.stack(POOL, inverse.inpainting(MASK, SHAPE)),
    "varying_blur": lambda: inverse.varying_blur(
        vector(7, 2, 3, 3), vector(8, 2, 4, 4), SHAPE, steps=40
    ),
}
MEASUREMENTS = {  # not linear
    "blind_blur": lambda: inverse.blind_blur(SHAPE, (3, 3)),
    "hdr": lambda: inverse.hdr(SHAPE),
    "jpeg": lambda: inverse.jpeg(50, (8, 8, 1)),
    "nonlinear_blur": lambda: inverse.nonlinear_blur(inverse.gaussian_kernel(0.5, 3), SHAPE),
    "phase_retrieval": lambda: inverse.phase_retrieval(SHAPE, pad=1),
    "quantise": lambda: inverse.quantise(4, SHAPE),
}
NOISES = {
    "gaussian": lambda: inverse.noises.gaussian(0.1),
    "poisson": lambda: inverse.noises.poisson(20.0, low=-6.0),
    "poisson_gaussian": lambda: inverse.noises.poisson_gaussian(20.0, 0.1, low=-6.0),
    "speckle": lambda: inverse.noises.speckle(0.1),
}
OF_NO_KIND = {
    "process": """
        AYS AYS_TIMES Kernel Posterior Prediction Process Root Wiring by_log_ratio by_ratio
        check_decodable check_grid cosine_betas decode diffusion2 drift edm_clock edm_wiring
        encode flux_mu independent integer_law is_table laplace_betas linear_betas log_normal
        log_snr logit_normal low_discrepancy own_time perturb posterior root root_place
        scaled_linear_betas scales sections shift shifted sigmoid_betas strided_betas thousand
        time_of transition uniform_law unit wiring zero_snr
    """,
    "samplers": """
        Statistics analytic_variance bits_per_dim ddib dequantise dpm_adaptive encode
        fast_steps fibonacci_left fixed_large fixed_small gits grid integrate invert
        langevin learned_range linear_left log_likelihood model_statistics named
        ncsn_size noise_power npr_variance renewal renoise restart run sample
        sn_variance stay tape travel
    """,
    "inverse": """
        LUMA Measurement Noise Nonlinear Operator Svd adir anisotropic_kernel box_mask cg
        check_solve column_mask conjugate daps ddrm_start difference effective_size
        gaussian_kernel gibbs_ddrm greatest hmc ladibi langevin latent log_likelihood metropolis
        misfit motion_kernel nearest noises paired pnp_dm random_mask red_diff residual
        stroke_mask stsl systematic total walsh_hadamard
    """,
    "noises": "Noise",
    "guidance": """
        Guide by_step cfg_plus colour controlled falling gram identity_attention interval
        latent_edges middle noisy_similarity pag palette rising sag segmentation similarity sketch
        smoothed stacked_taps style tapped tfg_dps tfg_freedom tfg_lgd tfg_mpgd tfg_ugd tweedie_gain
        unit_spread
    """,
    "denoise": """
        Denoiser Model Number Rule all_memories check_range halves joined learned_variance model
        noise numeric parted predict score value_at velocity
    """,
    "exact": """
        Mixture Points condition covariance denoiser draw gaussian log_density mean mixture points
    """,
}
KINDS = {
    "process": [PROCESSES, PREDICTIONS, GRIDS],
    "samplers": [SAMPLERS],
    "inverse": [GUIDES, OPERATORS, MEASUREMENTS, SAMPLERS, IMAGE_SAMPLERS],
    "noises": [NOISES],
    "guidance": [DENOISERS, GUIDES, SAMPLERS],
    "denoise": [DENOISERS],
    "exact": [],
}
MODULES = {"process": process, "samplers": samplers, "guidance": guidance, "inverse": inverse,
           "noises": inverse.noises,
           "denoise": dn, "exact": exact}  # fmt: skip


def public(module):
    if hasattr(module, "__all__"):
        return set(module.__all__)
    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    return {n for n, v in own.items() if not n.startswith("_") and (callable(v))}


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_an_entry(name):
    names = public(MODULES[name])
    listed = OF_NO_KIND[name].split()
    of_a_kind = [n for table in KINDS[name] for n in table]
    assert names - set(listed) - set(of_a_kind) == set(), "give the new names an entry here"
    assert set(listed) - names == set(), "entries for names that are gone"
    assert not set(listed) & set(of_a_kind)
    assert all(hasattr(MODULES[name], n) for n in names)


def test_every_entry_is_public():
    names = set().union(*map(public, MODULES.values()))
    for tables in KINDS.values():
        for table in tables:
            assert set(table) <= names


def test_every_public_function_is_documented():
    for module in MODULES.values():
        for name in public(module):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert inspect.getdoc(value), f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process(name):
    proc = PROCESSES[name]()

    @jax.jit
    def facts(proc):
        steps = jnp.linspace(0.0, 1.0, 101)
        whole = proc.t_clean + steps * (proc.t_max - proc.t_clean)
        asked = proc.t_min + steps[1:-1] * (proc.t_max - proc.t_min)
        shapes = [process.scales(proc, whole[:4].reshape(s)) for s in ((4,), (2, 2))]
        curve = process.log_snr(proc, asked)
        return (
            process.scales(proc, proc.t_clean), process.scales(proc, whole), shapes, curve,
            process.log_snr(proc, process.time_of(proc, curve)),
        )  # fmt: skip

    clean, (alpha, sigma), shapes, curve, back = facts(proc)
    assert [float(c) for c in clean] == [1.0, 0.0]
    assert jnp.all(jnp.diff(alpha) <= 0) and jnp.all(jnp.diff(sigma) >= 0)
    assert jnp.all(alpha >= 0) and jnp.all(jnp.isfinite(sigma))
    assert jnp.all(jnp.diff(curve) < 0)
    assert jnp.max(jnp.abs(back - curve)) < 1e-3
    for (a, s), shape in zip(shapes, ((4,), (2, 2)), strict=True):
        assert a.shape == s.shape == shape


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_prediction(name):
    prediction, proc = PREDICTIONS[name], process.vp_linear()
    x0, eps, t = vector(0, B, 3), vector(1, B, 3), jnp.array([0.2, 0.7])
    assert prediction.name == name

    @jax.jit
    def round_trip(prediction, x0, eps):
        p = process.encode(prediction, proc, t, x0, eps)
        x = process.perturb(proc, t, x0, eps)
        return prediction(proc, t), process.decode(prediction, proc, t, x, p)

    (a, b), found = round_trip(prediction, x0, eps)
    assert a.shape == b.shape == t.shape
    assert jnp.max(jnp.abs(jnp.stack(found) - jnp.stack([x0, eps]))) < 1e-4


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid(name):
    proc = process.from_betas(process.linear_betas())
    counts = (1, 2, 7)
    grids = jax.jit(lambda p: [GRIDS[name](p, n) for n in counts])(proc)
    for n, ts in zip(counts, grids, strict=True):
        assert ts.shape == (n + 1,)
        assert np.all(np.diff(ts) < 0) and ts[-1] == proc.t_clean and ts[0] <= proc.t_max
        assert name in BELOW_THE_TOP or ts[0] == proc.t_max


X = {"image": vector(0, B, *SHAPE), "kernel": vector(1, B, 3)}
IMAGE = X["image"]


def now_at(t, s, keys):
    return Now(t, s, jnp.array(0), jnp.array(2), keys, {})


def two_steps(sampler, keys, x):
    denoise = tree_denoiser(FLOW)
    state = sampler.init(x)
    middle, first = sampler.step(now_at(jnp.array(0.9), jnp.array(0.5), keys), denoise, state)
    last, second = sampler.step(now_at(jnp.array(0.5), jnp.array(0.0), keys), denoise, middle)
    return (state, middle, last), (first, second)


@jax.jit
def all_steps(keys, x):
    """Two steps of every sampler, on a tree of arrays and on images."""
    on_trees = {n: two_steps(s, keys, x) for n, s in SAMPLERS.items()}
    return on_trees | {n: two_steps(s, keys, x["image"]) for n, s in IMAGE_SAMPLERS.items()}


def assert_like(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype


def test_every_sampler():
    for name, (states, estimates) in all_steps(keys_of(B), X).items():
        x = X if name in SAMPLERS else IMAGE
        for state in states:
            assert isinstance(state, State), name
            assert_like(state.x, x)
            assert_like(state, states[0])  # a step keeps shapes and types: it can be scanned
            assert all(leaf.shape[:1] == (B,) for leaf in jax.tree.leaves(state)), name
            assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.x)), name
        for estimate in estimates:
            assert isinstance(estimate, Estimate), name
            assert_like(estimate.x0, x)
    for sampler in (SAMPLERS | IMAGE_SAMPLERS).values():
        assert isinstance(sampler, Sampler)


def shards(tree):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * DEVICES), tree)


def assert_same_on_every_device(pmapped, alone):
    for a, b in zip(jax.tree.leaves(pmapped), jax.tree.leaves(alone), strict=True):
        assert a.shape == (DEVICES, *b.shape)
        b = np.asarray(b)
        scale = max(1.0, np.abs(b).max()) if b.size else 1.0
        assert np.allclose(np.asarray(a), b[None], atol=1e-5 * scale)


@pytest.mark.slow
def test_every_step_runs_under_pmap():
    keys = jax.random.split(jax.random.key(0), DEVICES * B).reshape(DEVICES, B)
    found = jax.pmap(all_steps)(keys, shards(X))
    for i in (0, DEVICES - 1):
        alone = all_steps(keys[i], X)
        for name, result in found.items():
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], result)
            for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(alone[name]), strict=True):
                assert np.allclose(np.asarray(a), np.asarray(b), atol=1e-5), name


@jax.jit
def called(denoisers, x):
    return {name: denoise(x, 0.6).x0 for name, denoise in denoisers.items()}


def base():
    return dn.bind(model(), None)


def test_every_guide_and_denoiser():
    """A Denoiser of the same process; an argument of jit; each sample for itself; under pmap."""
    made = {n: g(Y)(base()) for n, g in GUIDES.items()}
    made |= {n: make() for n, make in DENOISERS.items()}
    for name, denoise in made.items():
        assert isinstance(denoise, dn.Denoiser), name
        assert jax.tree.structure(denoise.process) == jax.tree.structure(FLOW), name
    whole = called(made, IMAGE)
    for i in range(B):
        one = {n: g(Y[i : i + 1])(base()) for n, g in GUIDES.items()}
        one |= {n: make() for n, make in DENOISERS.items()}
        for name, x0 in called(one, IMAGE[i : i + 1]).items():
            assert x0.shape == (1, *SHAPE) and x0.dtype == jnp.float32, name
            assert jnp.allclose(x0[0], whole[name][i], atol=1e-5), name
    assert_same_on_every_device(jax.pmap(functools.partial(called, made))(shards(IMAGE)), whole)


def operated(key):
    found = {}
    for name, make in OPERATORS.items():
        operator = make()
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(operator)), name
        if name != "linear":  # a lambda is equal to itself alone; others do not retrace
            assert jax.tree.structure(operator) == jax.tree.structure(make()), name
        x = jax.random.normal(key, operator.shape)
        y = operator.A(x)
        assert_like(jax.eval_shape(operator.pinv, y), x)
        assert_like(jax.eval_shape(operator.gram_solve, 1.0, 0.3, y), y)
        found[name] = x, y, operator.At(y)
    return found


def dot(a, b):
    return sum(jnp.sum(u * v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_every_operator():
    """Made and used in a trace, under pmap; an argument of jit. Its folder tests its solves."""
    whole = jax.pmap(operated)(jax.random.split(jax.random.key(0), DEVICES))
    for i in (0, DEVICES - 1):
        mine = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), whole)
        for name, (x, y, back) in mine.items():
            assert_like(back, x)
            assert np.allclose(dot(y, y), dot(x, back), rtol=1e-4), name


def test_every_measurement_that_is_not_linear():
    """Each sample for itself, an argument of jit; slopes and projections are finite, like x."""

    traces = []

    @jax.jit
    def measured(operators, x):
        traces.append(None)

        def one(op, x):
            y, pull = jax.vjp(op.A, x)
            near = x if op.project is None else op.project(x, 0.9 * y)
            return y, pull(jnp.ones_like(y))[0], near

        return {n: jax.vmap(functools.partial(one, op))(x[n]) for n, op in operators.items()}

    made = {n: make() for n, make in MEASUREMENTS.items()}
    structs = {n: struct(op.shape) for n, op in made.items()}
    x = jax.tree.map(lambda s: vector(4, B, *s.shape), structs)
    whole = measured(made, x)
    for name, (y, slope, near) in whole.items():
        assert_like(slope, x[name]), assert_like(near, x[name])
        assert all(jnp.isfinite(v).all() for v in jax.tree.leaves((y, slope, near))), name
    other = measured(made, jax.tree.map(lambda leaf: leaf.at[0].add(1.0), x))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
        assert jnp.allclose(a[1], b[1], atol=1e-5)
    measured(jax.tree.map(lambda leaf: 1.1 * leaf, made), x)
    assert len(traces) == 1


def test_every_noise():
    """One example; a sample of a batch is that sample alone; levels may change under one trace."""

    traces = []

    @jax.jit
    def noised(laws, keys, clean):
        traces.append(None)
        y = {n: jax.vmap(law.draw)(keys, clean) for n, law in laws.items()}
        return {n: (y[n], jax.vmap(laws[n].log_prob)(y[n], clean)) for n in laws}

    clean = vector(6, B, 3, 2)
    laws = {n: make() for n, make in NOISES.items()}
    whole = noised(laws, keys_of(B), clean)
    for name, (y, log_prob) in whole.items():
        assert_like(y, clean)
        assert log_prob.shape == (B,) and jnp.isfinite(log_prob).all(), name
    other = noised(laws, keys_of(B).at[0].set(jax.random.key(9)), clean.at[0].add(1.0))
    for name, (y, log_prob) in other.items():
        assert jnp.allclose(y[1], whole[name][0][1], atol=1e-5), name
        assert jnp.allclose(log_prob[1], whole[name][1][1], rtol=1e-5), name
    noised(jax.tree.map(lambda leaf: 1.1 * leaf, laws), keys_of(B), clean)
    assert len(traces) == 1
