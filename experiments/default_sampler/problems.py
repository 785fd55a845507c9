"""What the samplers are compared on: three reference problems, random ones, trained networks.

A `Problem` is a mixture of Gaussians with a guide: E[x_0 | x_t] of all components, plus `scale`
times the difference from it of that of some of them. All share one shape, so that many are run
under one `vmap`; every one is scaled to the standard deviation `STD`, but for the reference.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff import exact
from jaxdiff.denoise import Denoiser
from jaxdiff.process import Process
from jaxdiff.types import Estimate

STD = 0.7
NOT_CHOSEN = -1e30


class Problem(NamedTuple):
    """A mixture, the logits of the components guided towards, the scale, and starts [b, d]."""

    dist: exact.Mixture
    logits: Any
    scale: Any
    z: Any


def denoiser(problem: Problem, process: Process) -> Denoiser:
    """The exact denoiser of the problem."""
    towards = dataclasses.replace(problem.dist, logits=problem.logits)
    both = (Partial(exact.denoiser(d, process)) for d in (problem.dist, towards))
    return Denoiser(process, Partial(_guided, *both, jnp.asarray(problem.scale)))


def _guided(plain: Any, towards: Any, scale: Any, x: Any, t: Any, now: Any) -> Estimate:
    a, b = plain(x, t).x0, towards(x, t).x0
    return Estimate(a + scale * (b - a))


def reference() -> dict[str, Problem]:
    """gmm2: five Gaussians in the plane; cfg2: the same, guided with w = 3; gauss16: one in 16."""
    held = np.load(pathlib.Path(__file__).with_name("starts.npz"))
    gmm = exact.mixture(*(jnp.asarray(held[k]) for k in ("weights", "means", "covs")))
    one = exact.gaussian(jnp.linspace(-0.5, 0.5, 16), jnp.diag(jnp.geomspace(0.02, 2.0, 16) ** 2))
    towards = jnp.where(jnp.isin(jnp.arange(5), jnp.array([1, 3])), gmm.logits, NOT_CHOSEN)
    z2, z16 = jnp.asarray(held["z2"]), jnp.asarray(held["z16"])
    return {
        "gmm2": Problem(gmm, towards, 0.0, z2),
        "cfg2": Problem(gmm, towards, 3.0, z2),
        "gauss16": Problem(one, one.logits, 0.0, z16),
    }


def random(seed: int, dim: int, *, count: int = 16, starts: int = 32) -> Problem:
    """`count` problems, then the same guided with w in 1 to 7; every leaf has them in front.

    Six components; means 0 to 3 times as wide as the components, whose spectra fall over up to two
    decades; every fourth problem is one Gaussian.
    """
    rng, k = np.random.default_rng([seed, dim]), 6
    wide = rng.uniform(0.0, 3.0, (count, 1, 1)) * (np.arange(count) % 4 > 0)[:, None, None]
    means = wide * rng.normal(size=(count, k, dim))
    spectra = 10 ** (-rng.uniform(0.2, 2.0, (count, k, 1)) * rng.uniform(0, 1, (count, k, dim)))
    turns = np.linalg.qr(rng.normal(size=(count, k, dim, dim)))[0]
    spectra[::4], turns[::4] = spectra[::4, :1], turns[::4, :1]
    weights = rng.dirichlet(np.full(k, 3.0), count)
    middle = np.einsum("pk,pkd->pd", weights, means)[:, None]
    total = np.einsum("pk,pkd->p", weights, (means - middle) ** 2 + spectra**2) / dim
    unit = STD / np.sqrt(total)[:, None, None]
    scale = np.concatenate([np.zeros(count), rng.uniform(1, 7, count)])
    chosen = np.where(np.arange(k) < 2, np.log(weights), NOT_CHOSEN)
    dist = exact.Mixture(
        *map(jnp.asarray, (np.log(weights), unit * means, (unit * spectra) ** 2, turns))
    )
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), (dist, jnp.asarray(chosen)))
    z = jnp.asarray(rng.normal(size=(2 * count, starts, dim)))
    return Problem(*twice, jnp.asarray(scale), z)
