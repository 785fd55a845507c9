"""The order of every deterministic solver, measured against exact end points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, process, samplers
from tests.problems import (
    PROCESSES,
    ends,
    flow_map,
    gaussian,
    keep_x,
    keys_of,
    mixture,
    passes,
    restart,
    vector,
)

COUNTS = (64, 128, 256)
REFERENCE = 1024
SOLVERS = {
    "heun": (samplers.heun(), 2),
    "dpmpp_2m": (samplers.dpmpp_2m(), 2),
    "euler": (samplers.euler(), 1),
    "heun in a flow's frame": (samplers.heun(1.0), 2),
}
WITH = {
    "edm": ("dpmpp_2m", "euler", "heun", "heun in a flow's frame"),
    "vp_linear": ("dpmpp_2m", "euler", "heun"),
    # 2M works in log-SNR: even steps of t from alpha = 0 are uneven there, and cost it a log(n)
    "flow": ("euler", "heun"),
    "flow in log-SNR": ("dpmpp_2m",),
}


def smooth_grid(name, proc, n):
    """Even in t for the flow, from alpha = 0 on; else even in log-SNR, both ends inside."""
    if name == "flow":
        return jnp.linspace(1.0, 0.1, n + 1)
    if name == "flow in log-SNR":  # with one step from alpha = 0 to where it is 1e-4
        inside = process.time_of(proc, jnp.linspace(-18.4, 4.0, n))
        return jnp.concatenate([jnp.ones(1), inside])
    high, low = {"edm": (4.0, -4.0), "vp_linear": (4.0, -6.0)}[name]
    return process.time_of(proc, jnp.linspace(low, high, n + 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def end_points(name, sampler, denoise, x, counts):
    proc = denoise.process
    grids = [smooth_grid(name, proc, len(c) - 1) for c in counts]
    again = functools.partial(restart, x)
    rows = passes(grids, grids[0][0])
    _, seen = samplers.run(keys_of(len(x)), denoise, sampler, rows, x, look=keep_x, renoise=again)
    return seen[ends(grids)], grids[0][0], grids[0][-1]


def slope(errors, counts):
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


def one_gaussian():
    """A Gaussian that has the shapes of `mixture()`, so that both share one compilation."""
    one = gaussian(2)
    means, covs = jnp.repeat(one.means, 3, 0), jnp.repeat(exact.covariance(one)[None], 3, 0)
    return exact.mixture(jnp.ones(3), means, covs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    [
        "flow",
        "flow in log-SNR",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("edm", "vp_linear")),
    ],
)
def test_order_on_a_gaussian_and_a_mixture(name):
    proc = PROCESSES[name.split()[0]]()
    x = proc.sigma(smooth_grid(name, proc, 1)[0]) * vector(5, 8, 2)
    counts = [jnp.zeros(n + 1) for n in (*COUNTS, REFERENCE)]
    finest = None
    for label, (solver, order) in SOLVERS.items():
        if label not in WITH[name]:
            continue
        for dist in (one_gaussian(), mixture()):
            found, t, s = end_points(name, solver, exact.denoiser(dist, proc), x, counts)
            if (jnp.ptp(dist.means, axis=0) == 0).all():
                truth = flow_map(dist, proc, x, t, s)
            else:  # the first solver on the finest grid: 1/16 of the error of the next, or less
                truth = finest = found[-1] if finest is None else finest
            errors = jnp.max(jnp.abs(found[:-1] - truth[None]), axis=(1, 2))
            measured = slope(np.asarray(errors), np.array(COUNTS))
            assert abs(measured - order) < 0.25, (label, name, measured, errors)


@jax.jit
def default_grid(denoise, x):
    key = jax.random.key(0)
    return [samplers.sample(key, denoise, start=x, steps=n) for n in (40, 80)]


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["edm", "flow"])
def test_the_default_grid_reaches_clean_data_at_the_exact_point(name):
    proc, dist = PROCESSES[name](), gaussian()
    x = proc.sigma(proc.t_max) * vector(5, 8, 3)
    truth = flow_map(dist, proc, x, proc.t_max, proc.t_clean)
    few, many = default_grid(exact.denoiser(dist, proc), x)
    errors = [float(jnp.max(jnp.abs(got - truth))) for got in (few, many)]
    assert errors[1] < 1.5e-2 and errors[1] < errors[0] / 3, errors
