"""Problems with known answers, shared by the tests of samplers, guides and inverse problems."""

import functools

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff import exact, process, trees
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate, Rows, Sampler, State

PROCESSES = {
    "edm": process.edm,
    "ve": process.ve,
    "vp_linear": process.vp_linear,
    "sub_vp": process.sub_vp,
    "vp_cosine": process.vp_cosine,
    "flow": process.rectified_flow,
    "table": lambda: process.from_betas(process.linear_betas()),
    "cosine_table": lambda: process.from_betas(process.cosine_betas()),
    "zero_table": lambda: process.from_betas(process.zero_snr(process.linear_betas())),
}
"""Makers, not processes: numbers are cast when made, and x64 comes and goes."""


def vector(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def gaussian(d=3, seed=0):
    """A Gaussian on R^d with a dense covariance, its eigenvalues about 0.2 ... 1.5."""
    root = vector(seed, d, d) / d**0.5
    return exact.gaussian(vector(seed + 1, d), root @ root.T + 0.2 * jnp.eye(d))


def mixture():
    """Three unequal Gaussians in the plane."""
    means = jnp.array([[-1.0, 0.5], [1.0, 0.8], [0.2, -1.2]])
    covs = jnp.array([[[0.1, 0.0], [0.0, 0.1]], [[0.2, 0.1], [0.1, 0.1]], [[0.3, 0], [0, 0.05]]])
    return exact.mixture(jnp.array([0.2, 0.5, 0.3]), means, covs)


def flow_map(dist, proc, x, t, s):
    """The probability flow of a Gaussian from t to s, in closed form."""
    (a, v), (a_s, v_s) = process.scales(proc, t), process.scales(proc, s)
    mean, values, u = dist.means[0], dist.values[0], dist.vectors[0]
    ratio = jnp.sqrt((a_s**2 * values + v_s**2) / (a**2 * values + v**2))
    return a_s * mean[None] + ((x - a * mean[None]) @ u) * ratio[None] @ u.T


def _at(target, x, t, now):
    return Estimate(jnp.broadcast_to(target, x.shape))


def point(target, proc):
    """The exact denoiser of data that is one point."""
    return Denoiser(proc, Partial(_at, target))


def tree_denoiser(proc):
    """The exact denoiser of N(0, I) on trees of any shape."""
    return Denoiser(proc, Partial(_normal_tree, proc))


def _normal_tree(proc, x, t, now):
    alpha, sigma = process.scales(proc, t)
    total = alpha**2 + sigma**2
    ones = jax.tree.map(jnp.ones_like, x)
    return Estimate(trees.combine((alpha / total, x)), trees.combine((sigma**2 / total, ones)))


def keys_of(b, seed=0):
    return trees.keys_for(jax.random.key(seed), jnp.arange(b))


def passes(grids, back):
    """Rows that walk several grids one after another; after each, jump back to the time `back`.

    One loop, compiled once, then tests grids of any number of steps.
    """
    t, s, u, i = [], [], [], []
    for ts in grids:
        t, s, i = [*t, ts[:-1]], [*s, ts[1:]], [*i, jnp.arange(len(ts) - 1)]
        u += [ts[1:-1], jnp.asarray(back, float).reshape(1)]
    t, s, u, i = map(jnp.concatenate, (t, s, u, i))
    return Rows(t, s, u, i, jnp.arange(len(t)))


def ends(grids):
    """At which rows of `passes(grids)` each pass ends."""
    return jnp.cumsum(jnp.array([len(ts) - 1 for ts in grids])) - 1


def restart(x, keys, proc, s, u, old):
    """A `renoise` that puts x back, exactly, where a new pass begins."""
    return trees.where(u > s, x, old)


def keep_x(now, x, est):
    return x


def _still(x):
    return State(x)


def _noise_step(fold, now, denoise, state):
    z = trees.normal(trees.fold(now.key, fold), state.x)
    return State(z), denoise(state.x, now.t, now)


def noise_sampler(fold=0):
    """A sampler that returns pure noise: it shows which numbers were drawn."""
    return Sampler(_still, functools.partial(_noise_step, fold))


def _idle(now, denoise, state):
    return state, Estimate(state.x)


idle_sampler = Sampler(_still, _idle)
"""A sampler that does nothing: what it returns is what it was started from."""
