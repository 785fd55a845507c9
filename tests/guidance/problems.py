"""Conditional networks with known answers, and a count of what a program calls."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff import denoise, exact, process


def _pick(dists, proc, params, x, time, cond):
    answers = [exact.denoiser(dist, proc)(x, time).x0 for dist in dists]
    return jnp.take_along_axis(jnp.stack(answers), cond[None, :, None], axis=0)[0]


def conditional(dists, proc):
    """A model whose label k stands for the distribution dists[k], exactly."""
    apply = Partial(_pick, tuple(dists), proc)
    return denoise.model(apply, {}, proc, process.wiring(process.x0), span=None)


def _wave(params, x, time, cond):
    shift = 0.0 if cond is None else cond.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.sin(params * x + shift)


def waves(proc=None):
    """A model that shows how often it is called: once a `sin`, and once a `cos` if linearised."""
    proc = process.rectified_flow() if proc is None else proc
    return denoise.model(_wave, jnp.array(0.7), proc, process.wiring(process.x0), span=None)


def calls(fn, *args):
    """(forward calls, linearised calls) of `waves` in a program, loops counted once."""
    names = list(_names(jax.make_jaxpr(fn)(*args).jaxpr))
    return names.count("sin"), names.count("cos")


def _names(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for part in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from _names(inner)
