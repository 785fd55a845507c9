"""A new number is no new program: every public constructor, two values, one trace.

A (guided) denoiser, a model, a process, an operator or a grid is an ARGUMENT of a jitted function.
Static by design, so not here: samplers, orders, numbers of steps, shapes, sites. A lambda defeats
the rule (each is another function), so functions here live at module level.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import denoise as dn
from jaxdiff import exact, guidance, inverse, process, samplers
from tests.problems import keys_of, vector

SHAPE = (4, 4, 1)
X = vector(0, 2, *SHAPE)
LABELS = jnp.array([0, 1])


def net(params, x, time, cond):
    bias = 0.0 if cond is None else cond.astype(float)[:, None, None, None]
    return params["w"] * x + bias


def model(weight=0.5, proc=None, wiring=None, span=(-1.0, 1.0)):
    proc = process.rectified_flow() if proc is None else proc
    wiring = process.wiring(process.velocity) if wiring is None else wiring
    return dn.model(net, {"w": jnp.array(weight)}, proc, wiring, span=span)


def base(weight=0.5):
    return dn.bind(model(weight), None)


def loss(x0):
    return jnp.sum(x0**2)


def weighted(weight, x0):
    return weight * jnp.sum(x0**2)


def late(scale, at):
    return scale * at.sigma


def by_step(values, now):
    return values[now.i] * jnp.ones(2)


def mask(seed):
    return (vector(seed, 4, 4, 1) > 0).astype(float)


def blur(kernel, x):
    return kernel[0] * x[:2] + kernel[1] * x[2:]


POOL = inverse.average_pool(2, SHAPE)


def measured(value):
    return jnp.full((2, 2, 2, 1), value)


def through_denoiser(make):
    return lambda denoise: denoise(X, 0.6).x0, make


def guided(guide):
    return through_denoiser(lambda value: guide(value)(base()))


def through_process(make):
    def use(proc):
        t = (proc.t_min + proc.t_max) / 2
        times = process.uniform(proc, 3)
        back = process.time_of(proc, process.log_snr(proc, t))
        return process.scales(proc, t), process.posterior(proc, proc.t_min, t), times, back

    return use, make


def through_wiring(make):
    def use(wiring):
        return model(wiring=wiring).fn(X, 0.5, None, None).x0

    return use, make


def through_operator(make):
    def use(operator):
        y = operator.A(X[0])
        return operator.At(y), operator.pinv(y), operator.gram_solve(1.0, 0.1, y)

    return use, make


def through_law(make):
    return lambda law: law(process.edm(), jnp.array([0.2, 0.8])), make


def vectors(make):
    def use(dist):
        return exact.denoiser(dist, process.edm())(jnp.ones((2, 2)), 1.0).x0, exact.mean(dist)

    return use, make


def through_grid(rows):
    def use(ts):
        return samplers.run(keys_of(2), base(), samplers.ddpm(), rows(ts), X)

    return use, lambda end: jnp.array([1.0, 0.6, end, 0.0])


def corrected(make):
    """A correction is built inside the trace, of arrays that are arguments."""

    def use(value):
        sampler = make(value)(samplers.ddpm())
        rows = samplers.grid(jnp.array([1.0, 0.5, 0.0]))
        return samplers.run(keys_of(2), base(), sampler, rows, X)

    return use, jnp.float32


def solved(sampler):
    rows = samplers.grid(jnp.array([1.0, 0.5, 0.0]))
    return samplers.run(keys_of(2), base(), sampler, rows, X)


def loss_free(x):
    return 0.5 * x


def _flow_end(denoise):
    return samplers.integrate(denoise, X)


def _noisy_end(denoise):
    times = jnp.linspace(0.9, 0.1, 4)
    return samplers.integrate(denoise, X, keys=keys_of(2), times=times)


def _by_keys(keys):
    rows = samplers.grid(jnp.array([1.0, 0.5, 0.0]))
    return samplers.run(keys, base(), samplers.ddpm(), rows, X)


def _by_start(key):
    return samplers.sample(key, base(), shape=X.shape, steps=2, times=process.uniform)


def _sampled(denoise):
    return samplers.sample(jax.random.key(0), denoise, start=X, steps=2)


def _at_eta(eta):
    rows = samplers.grid(jnp.array([1.0, 0.5, 0.0]))
    solvers = (samplers.ddim(eta), samplers.heun(eta))
    return [samplers.run(keys_of(2), base(), s, rows, X) for s in solvers]


def number(value):
    return jnp.float32(value)


def sampled_by(make):
    """A sampler is built inside the trace, as a correction is."""
    return corrected(lambda v: lambda _: make(v))


def _daps(v):
    move = inverse.conjugate(POOL, v * measured(1.0), noise=0.1 * v)
    ts = jnp.array([1.0, 0.5, 0.0])
    return inverse.daps(keys_of(2), base(), ts, v * X, move=move, steps=2, v0=v)


def _pnp_dm(v):
    move = inverse.hmc(POOL, v * measured(1.0), noise=0.1 * v, size=0.1 * v, steps=2)
    return inverse.pnp_dm(keys_of(2), base(), v * jnp.array([0.4, 0.2]), X, move=move, steps=2)


def _red_diff(v):
    given = v * jnp.array([0.4, 0.2]), X, POOL, measured(1.0) * v
    return inverse.red_diff(keys_of(2), base(), *given, noise=0.1 * v, weight=v, rate=0.1 * v)


CASES = {
    # processes
    "edm": through_process(lambda v: process.edm(0.002 * v, 80 * v)),
    "ve": through_process(lambda v: process.ve(0.01 * v, 50 * v)),
    "vp_linear": through_process(lambda v: process.vp_linear(0.1 * v, 20 * v)),
    "sub_vp": through_process(lambda v: process.sub_vp(0.1 * v, 20 * v)),
    "vp_cosine": through_process(lambda v: process.vp_cosine(0.008 * v)),
    "rectified_flow": through_process(lambda v: process.rectified_flow(t_min=0.01 * v)),
    "from_betas": through_process(lambda v: process.from_betas(process.linear_betas(9, 0.1 * v))),
    "from_scales": through_process(
        lambda v: process.from_scales(jnp.ones_like, Partial(jnp.multiply, v), 0.1 * v, 2.0)
    ),
    # wirings and predictions
    "wiring": through_wiring(lambda v: process.wiring(process.velocity, center=0.1 * v)),
    "edm_wiring": through_wiring(lambda v: process.edm_wiring(0.5 * v, center=0.1 * v)),
    "F": through_wiring(lambda v: process.wiring(process.F(0.5 * v))),
    # laws of training times
    "log_normal": through_law(lambda v: process.log_normal(-v, v)),
    "logit_normal": through_law(lambda v: process.logit_normal(-v, v)),
    # models and denoisers
    "model": through_denoiser(base),
    "model span": through_denoiser(lambda v: dn.bind(model(span=(-1.0 * v, 1.0 * v)), None)),
    "bind": through_denoiser(lambda v: dn.bind(model(), LABELS * v)),
    "bind by step": (
        lambda d: samplers.run(
            keys_of(2), d, samplers.ddim(), samplers.grid(jnp.array([1.0, 0.5, 0.0])), X
        ),
        lambda v: dn.bind(model(), Partial(by_step, v * jnp.arange(2.0))),
    ),
    "cfg": through_denoiser(lambda v: dn.cfg(model(), LABELS, LABELS + 1, 1.0 * v)),
    "cfg cond": through_denoiser(lambda v: dn.cfg(model(), LABELS * int(v), LABELS + 1, 2.0)),
    "cfg of a function": through_denoiser(
        lambda v: dn.cfg(model(), LABELS, LABELS + 1, Partial(late, v))
    ),
    "mix": through_denoiser(lambda v: dn.mix(model(), (LABELS, LABELS + 1), (v, 1 - v))),
    "blend": through_denoiser(lambda v: dn.blend((base(0.3), base(0.4 * v)), (v, 1 - v))),
    "rebase": through_denoiser(lambda v: dn.rebase(base(), process.edm(sigma_max=80.0 * v))),
    "interval": through_denoiser(
        lambda v: dn.cfg(model(), LABELS, LABELS + 1, guidance.interval(2.0 * v, 0.1 * v, 3.0 * v))
    ),
    # exact distributions
    "gaussian": vectors(lambda v: exact.gaussian(v * jnp.ones(2), v * jnp.eye(2))),
    "mixture": vectors(
        lambda v: exact.mixture(jnp.array([v, 1.0]), v * jnp.eye(2), jnp.stack([jnp.eye(2)] * 2))
    ),
    "points": vectors(lambda v: exact.points(v * jnp.eye(2), jnp.array([v, 1.0]))),
    "condition": vectors(
        lambda v: exact.condition(
            exact.gaussian(jnp.zeros(2), jnp.eye(2)), v * jnp.ones((1, 2)), jnp.ones(1), 0.1 * v
        )
    ),
    # guides
    "towards": guided(lambda v: guidance.towards(loss, 1.0 * v)),
    "towards partial": guided(lambda v: guidance.towards(Partial(weighted, v), Partial(late, v))),
    "energy": guided(lambda v: guidance.pulled(guidance.energy(loss, 1.0 * v))),
    "add": guided(
        lambda v: guidance.pulled(
            guidance.add(guidance.energy(loss, 1.0 * v), guidance.energy(loss, v))
        )
    ),
    "clip": guided(lambda v: guidance.clip(-1.0 * v, 1.0 * v)),
    "chain": guided(lambda v: guidance.chain(guidance.clip(-v, v), guidance.towards(loss, v))),
    # inverse problems
    "pigdm": guided(lambda v: inverse.pigdm(POOL, measured(v), noise=0.1 * v, v0=1.0 * v)),
    "mmps": guided(lambda v: inverse.mmps(POOL, measured(v), noise=0.1 * v)),
    "dps": guided(lambda v: inverse.dps(POOL, measured(v), noise=0.1 * v)),
    "dps var": guided(lambda v: inverse.dps(POOL, measured(v), noise=0.1, var=1.0 * v)),
    "ddnm": guided(lambda v: inverse.ddnm(POOL, measured(v))),
    "blind_dps": guided(lambda v: inverse.blind_dps(POOL, measured(v), var=0.1 * v)),
    "dds": guided(lambda v: inverse.dds(POOL, measured(v), gamma=1.0 * v)),
    "diffpir": guided(lambda v: inverse.diffpir(POOL, measured(v), noise=0.1 * v, lam=1.0 * v)),
    "dmps": guided(lambda v: inverse.dmps(POOL, measured(v), noise=0.1 * v, v0=1.0 * v)),
    "dps by a law": guided(
        lambda v: inverse.dps(POOL, measured(v), noise=inverse.noises.poisson(9.0 * v), r2=v)
    ),
    "hard_consistency": guided(
        lambda v: inverse.hard_consistency(POOL, measured(v), steps=2, rate=0.1 * v)
    ),
    "latent": guided(
        lambda v: inverse.dps(inverse.latent(POOL, loss_free, SHAPE), measured(v), noise=0.1 * v)
    ),
    "mpgd": guided(lambda v: inverse.mpgd(POOL, measured(v), rate=v, autoencode=loss_free)),
    "psld": guided(
        lambda v: inverse.psld(
            POOL, measured(v), decode=loss_free, encode=loss_free, noise=0.1 * v, gamma=0.1 * v
        )
    ),
    "score_ald": guided(lambda v: inverse.score_ald(POOL, measured(v), noise=0.1, gamma=1.0 * v)),
    "sitcom": guided(
        lambda v: inverse.sitcom(POOL, measured(v), noise=0.1 * v, rate=0.1 * v, lam=0.1 * v)
    ),
    "tmpd": guided(lambda v: inverse.tmpd(POOL, measured(v), noise=0.1 * v)),
    "paired": (
        lambda d: d({"image": X, "kernel": X}, 0.6).x0,
        lambda v: inverse.paired({"image": base(v), "kernel": base(0.5)}),
    ),
    "ddnm with noise": guided(lambda v: inverse.ddnm(POOL, measured(v), noise=0.1 * v, v0=1.0 * v)),
    "pigdm by a mask": guided(
        lambda v: inverse.pigdm(inverse.inpainting(mask(int(v)), SHAPE), X, noise=0.1)
    ),
    "mmps of a stack": guided(
        lambda v: inverse.mmps(
            inverse.stack(POOL, inverse.inpainting(mask(int(v)), SHAPE)),
            (measured(v), X),
            noise=0.1 * v,
        )
    ),
    # operators
    "inpainting": through_operator(lambda v: inverse.inpainting(mask(int(v)), SHAPE)),
    "average_pool": through_operator(lambda v: inverse.average_pool(2, SHAPE)),
    "linear": through_operator(lambda v: inverse.linear(Partial(blur, jnp.array([v, 0.5])), SHAPE)),
    "matrix": (
        lambda op: (op.At(jnp.ones(2)), op.pinv(jnp.ones(2)), op.gram_solve(1.0, 0.1, jnp.ones(2))),
        lambda v: inverse.matrix(v * vector(0, 2, 3)),
    ),
    "stack": through_operator(
        lambda v: inverse.stack(POOL, inverse.inpainting(mask(int(v)), SHAPE))
    ),
    # the loop
    "grid": through_grid(samplers.grid),
    "travel": through_grid(lambda ts: samplers.travel(ts, repeat=2)),
    "keys": (_by_keys, lambda v: keys_of(2, int(v))),
    "sample": (_sampled, lambda v: inverse.dps(POOL, measured(v), noise=0.1 * v)(base(v))),
    "one key": (_by_start, lambda v: jax.random.key(int(v))),
    "eta and frame": (_at_eta, number),
    "integrate": (_flow_end, base),
    "integrate, noisy": (_noisy_end, base),
    # corrections: functions, made inside the trace
    "dps_published": corrected(lambda v: inverse.dps_published(POOL, measured(1.0) * v, zeta=v)),
    "ddnm_plus": (
        lambda v: solved(inverse.ddnm_plus(POOL, measured(1.0) * v, noise=v)),
        jnp.float32,
    ),
    "ddrm": (lambda v: solved(inverse.ddrm(POOL, measured(1.0) * v, noise=v, eta=v)), jnp.float32),
    "diffface": corrected(lambda v: inverse.diffface(mask(0) * (v > 0), X * v, full=v)),
    "flowchef": corrected(lambda v: inverse.flowchef(POOL, measured(1.0) * v, rate=v)),
    "flowdps": (lambda v: solved(inverse.flowdps(POOL, measured(1.0) * v, rate=v)), jnp.float32),
    "project": corrected(lambda v: inverse.project(POOL, measured(1.0) * v, weight=v, until=v)),
    "remix": (lambda v: solved(inverse.remix(v)), jnp.float32),
    "resample": corrected(
        lambda v: inverse.resample(POOL, measured(1.0) * v, steps=2, rate=v, gamma=v)
    ),
    "repaint": corrected(lambda v: inverse.repaint(mask(0) * (v > 0), X * v, SHAPE)),
    "steered": corrected(lambda v: inverse.steered(loss, particles=2, scale=v, threshold=0.3 * v)),
    "twisted": sampled_by(
        lambda v: inverse.twisted(
            POOL, measured(1.0)[:1] * v, noise=0.1 * v, particles=2, v0=v, eta=0.5 * v
        )
    ),
    "fps": sampled_by(
        lambda v: inverse.fps(POOL, measured(1.0)[:1] * v, noise=0.1 * v, particles=2, v0=v)
    ),
    "mcgdiff": sampled_by(
        lambda v: inverse.mcgdiff(
            inverse.inpainting(mask(0), SHAPE), X[:1] * v, noise=0.1 * v, particles=2
        )
    ),
    "daps": (_daps, number),
    "pnp_dm": (_pnp_dm, number),
    "red_diff": (_red_diff, number),
    "through": corrected(lambda v: samplers.through(jax.vmap(loss), v)),
}


def traces_of(use, values):
    """How often `use` is traced when a jitted function is given these values in turn.

    Shapes are evaluated and nothing is compiled: the traces of a jitted function are kept and
    found again in the same way.
    """
    traces = []

    @jax.jit
    def counted(value):
        traces.append(value)  # runs while tracing, and only then
        return use(value)

    for value in values:
        jax.eval_shape(counted, value)
    return len(traces)


@pytest.mark.parametrize("name", CASES)
def test_two_values_are_one_trace(name):
    use, make = CASES[name]
    first, second = (make(value) for value in VALUES.get(name, (1.0, 2.0)))
    if name != "average_pool":  # there nothing may change
        assert any(
            not np.array_equal(_data(a), _data(b))
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        )
    assert traces_of(use, (first, second)) == 1


def _data(leaf):
    leaf = jnp.asarray(leaf)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


VALUES = {"grid": (0.3, 0.2), "travel": (0.3, 0.2)}


def test_the_count_is_a_count():
    """What is static by design does retrace; so does a function made anew."""
    for make in (
        lambda v: inverse.mmps(POOL, measured(1.0), noise=0.1, steps=v)(base()),
        lambda v: guidance.towards(lambda x0: jnp.sum(x0**v))(base()),
    ):
        assert traces_of(lambda denoise: denoise(X, 0.5).x0, (make(1), make(2))) == 2


def test_a_program_is_compiled_once():
    """The whole way, not its shapes: one program serves two measurements and two scales."""
    traces = []

    @jax.jit
    def counted(denoise):
        traces.append(1)
        return samplers.sample(jax.random.key(0), denoise, start=X, steps=2)

    first, second = (
        counted(inverse.pigdm(POOL, measured(v), noise=0.1 * v)(base(v))) for v in (1.0, 2.0)
    )
    assert len(traces) == 1 and not jnp.allclose(first, second)
