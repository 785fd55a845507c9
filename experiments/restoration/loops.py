"""Methods that are loops of their own: DAPS, PnP-DM and RED-diff; and several tries of a method."""

from typing import Any

import jax
import jax.numpy as jnp
from methods import METHODS, Given, Method
from tasks import EVERY, NOISE, NONLINEAR, SHAPE

from jaxdiff import inverse, process, trees

FLOW = 5
"""Steps to clean data at each level."""
SPREAD = 0.02
"""v0 of DAPS: neighbours tell of a pixel, so less is unknown of it than the data vary by."""


def move_of(g: Given) -> Any:
    """The exact draw where there is one; else HMC, in steps of the smallest deviation."""
    if hasattr(g.operator, "svd"):
        return inverse.conjugate(g.operator, g.y, noise=NOISE)
    size = lambda v: 0.5 / jnp.sqrt(1 / v + 1 / NOISE**2)  # noqa: E731
    return inverse.hmc(g.operator, g.y, noise=NOISE, size=size, leaps=10, steps=10)


def keys_of(key: Any, g: Given) -> Any:
    return trees.keys_for(key, jnp.arange(len(g.y)))


def daps(key: Any, denoise: Any, g: Given) -> Any:
    keys, ts = keys_of(key, g), process.karras(denoise.process, g.steps)
    z = trees.normal(trees.fold(keys, 0), jnp.zeros((len(g.y), *SHAPE)))
    x = process.scales(denoise.process, ts[0])[1] * z
    move = move_of(g)
    return inverse.daps(trees.fold(keys, 1), denoise, ts, x, move=move, steps=FLOW, v0=SPREAD)


def levels(denoise: Any, n: int, high: float, low: float) -> Any:
    """n times whose noise sigma/alpha falls evenly in its logarithm."""
    return process.time_of(denoise.process, -2 * jnp.log(jnp.geomspace(high, low, n)))


def start_of(g: Given) -> Any:
    if hasattr(g.operator, "pinv"):
        return jnp.clip(jax.vmap(g.operator.pinv)(g.y), -1, 1)
    return jnp.full((len(g.y), *SHAPE), -1.0)


def pnp_dm(key: Any, denoise: Any, g: Given) -> Any:
    ts = levels(denoise, g.steps, 3.0, 0.05)
    keys, x = keys_of(key, g), start_of(g)
    return inverse.pnp_dm(keys, denoise, ts, x, move=move_of(g), steps=FLOW)


def red_diff(key: Any, denoise: Any, g: Given) -> Any:
    ts = levels(denoise, FLOW * g.steps, 10.0, 0.05)
    keys, x = keys_of(key, g), start_of(g)
    return inverse.red_diff(keys, denoise, ts, x, g.operator, g.y, noise=NOISE, weight=100.0)


METHODS = METHODS | {
    "DAPS": Method(daps, FLOW, tasks=EVERY),
    "PnP-DM": Method(pnp_dm, FLOW, tasks=EVERY),
    "RED-diff": Method(red_diff, FLOW, tasks=EVERY),
}
for _name in ("DPS", "SITCOM", "DAPS", "PnP-DM"):
    METHODS[f"{_name}, best of 4"] = METHODS[_name]._replace(tasks=tuple(NONLINEAR), tries=4)
