"""One setting a method, the same for every task: guides, corrections, steps of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from tasks import EVERY, LINEAR, MASKS, NOISE, POOLS, SHAPE

from jaxdiff import inverse, process, samplers

ZETA = 5.0
"""Of DPS as published, whose step is one per STEP: 30 of them here, a thousand there."""


class Given(NamedTuple):
    """What a method is told."""

    operator: Any
    y: Any
    v0: float
    steps: int


class Method(NamedTuple):
    """draw(key, denoise, given) -> x; passes forward and back a step; tasks; tries by residual."""

    draw: Callable[[Any, Any, Given], Any]
    forward: int = 1
    back: int = 0
    tasks: tuple[str, ...] = tuple(LINEAR)
    tries: int = 1


def walk(make: Callable[[Given], tuple[Any, Any]], rows: Any = samplers.grid) -> Callable[..., Any]:
    """Down Karras's grid with (guide or None, sampler)."""

    def draw(key: Any, denoise: Any, given: Given) -> Any:
        guide, sampler = make(given)
        return samplers.sample(
            key, guide(denoise) if guide else denoise, sampler, shape=(len(given.y), *SHAPE),
            steps=given.steps, times=process.karras, rows=rows,
        )  # fmt: skip

    return draw


def guided(guide: Callable[[Given], Any], back: int = 0, sampler: Any = None) -> Method:
    """A guide under ancestral steps."""
    return Method(walk(lambda g: (guide(g), sampler or samplers.ddim(1.0))), 1, back)


def corrected(correct: Callable[[Given], Any], back: int = 0) -> Method:
    """A correction of ancestral steps."""
    return Method(walk(lambda g: (None, correct(g)(samplers.ddim(1.0)))), 1, back)


def own(sampler: Callable[[Given], Any], rows: Any = samplers.grid, walks: int = 1) -> Method:
    """A sampler of its own; `walks` is how often the rows walk each step."""
    return Method(walk(lambda g: (None, sampler(g)), rows), walks)


def safe(g: Given) -> Any:
    """1/||A||^2 of a linear operator; 1 for the Fourier magnitudes."""
    return 1 / jnp.max(g.operator.svd.values) ** 2 if hasattr(g.operator, "svd") else 1.0


def fit(g: Given) -> dict[str, Any]:
    """How x_0 is fitted: two steps of conjugate gradient, or ten of descent."""
    return {"steps": 2} if hasattr(g.operator, "svd") else {"steps": 10, "rate": 0.5}


def sitcom(g: Given) -> Any:
    return inverse.sitcom(g.operator, g.y, noise=NOISE, steps=5, rate=0.05)


def repaint(g: Given) -> Any:
    return inverse.repaint(g.operator.A(jnp.ones(SHAPE)) != 0, g.y, SHAPE)(samplers.ddim(1.0))


def ilvr(g: Given) -> Any:
    """The reference is what the means say, enlarged; below twice its noise details are free."""
    enlarged = jnp.stack([g.operator.pinv(y) for y in g.y])
    return inverse.ilvr(g.operator, enlarged, until=2 * NOISE)(samplers.ddim(1.0))


thrice = partial(samplers.travel, repeat=3)

METHODS = {
    "MMPS": guided(lambda g: inverse.mmps(g.operator, g.y, noise=NOISE, steps=2), 3),
    "PiGDM": guided(lambda g: inverse.pigdm(g.operator, g.y, noise=NOISE, v0=g.v0), 1),
    "DPS, a rate": guided(lambda g: inverse.dps(g.operator, g.y, noise=NOISE), 1),
    "DPS": corrected(lambda g: inverse.dps_published(g.operator, g.y, zeta=ZETA), 1),
    "MCG": corrected(lambda g: inverse.mcg(g.operator, g.y, zeta=ZETA), 1),
    "TMPD": guided(lambda g: inverse.tmpd(g.operator, g.y, noise=NOISE), 2),
    "SITCOM": guided(sitcom, 5, inverse.remix(1.0))._replace(forward=6),
    "DMPS": guided(lambda g: inverse.dmps(g.operator, g.y, noise=NOISE, v0=g.v0)),
    "DDNM": guided(lambda g: inverse.ddnm(g.operator, g.y, noise=NOISE, v0=g.v0)),
    "DDNM+": own(lambda g: inverse.ddnm_plus(g.operator, g.y, noise=NOISE)),
    "DDNM+, travelling": own(lambda g: inverse.ddnm_plus(g.operator, g.y, noise=NOISE), thrice, 3),
    "DDRM": own(lambda g: inverse.ddrm(g.operator, g.y, noise=NOISE)),
    "DiffPIR": guided(lambda g: inverse.diffpir(g.operator, g.y, noise=NOISE, lam=7.0)),
    "DDS": guided(lambda g: inverse.dds(g.operator, g.y, gamma=5.0 * safe(g))),
    "MPGD": guided(lambda g: inverse.mpgd(g.operator, g.y, rate=0.5 * safe(g))),
    "hard consistency": guided(lambda g: inverse.hard_consistency(g.operator, g.y, **fit(g))),
    "ReSample": corrected(lambda g: inverse.resample(g.operator, g.y, **fit(g))),
    "FlowDPS": own(lambda g: inverse.flowdps(g.operator, g.y, **fit(g))),
    "FlowChef": corrected(lambda g: inverse.flowchef(g.operator, g.y, rate=0.5 * safe(g))),
    "Score-SDE": corrected(lambda g: inverse.project(g.operator, g.y)),
    "RePaint": own(repaint, thrice, 3)._replace(tasks=MASKS),
    "ILVR": own(ilvr)._replace(tasks=POOLS),
}
for _name in (
    "DPS, a rate", "DPS", "SITCOM", "MPGD", "hard consistency", "ReSample", "FlowDPS", "FlowChef",
):  # fmt: skip
    METHODS[_name] = METHODS[_name]._replace(tasks=EVERY)
