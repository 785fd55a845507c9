"""One setting a method, the same for every task: (operator, y, v0) -> (guide, sampler)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from tasks import NOISE

from jaxdiff import inverse, samplers

ZETA = 5.0
"""Of DPS as published, whose step is one per STEP: 30 of them here, a thousand there."""


class Method(NamedTuple):
    """How a method is made; passes forward and back through the network a step."""

    make: Callable[[Any, Any, float], tuple[Any, Any]]
    forward: int = 1
    back: int = 0


def guided(guide: Callable[..., Any], back: int = 0, eta: float = 1.0) -> Method:
    """A guide under ancestral steps (DDIM with eta)."""
    return Method(lambda a, y, v0: (guide(a, y, v0), samplers.ddim(eta)), 1, back)


def corrected(correct: Callable[..., Any], back: int = 0) -> Method:
    """A correction of ancestral steps."""
    return Method(lambda a, y, v0: (None, correct(a, y)(samplers.ddim(1.0))), 1, back)


def own(sampler: Callable[..., Any]) -> Method:
    """A sampler of its own."""
    return Method(lambda a, y, v0: (None, sampler(a, y)))


def safe(operator: Any) -> Any:
    """1/||A||^2 of a linear operator; 1 for the Fourier magnitudes."""
    return 1 / jnp.max(operator.svd.values) ** 2 if hasattr(operator, "svd") else 1.0


METHODS = {
    "MMPS": guided(lambda a, y, v0: inverse.mmps(a, y, noise=NOISE, steps=2), 3),
    "PiGDM": guided(lambda a, y, v0: inverse.pigdm(a, y, noise=NOISE, v0=v0), 1),
    "DPS, a rate": guided(lambda a, y, v0: inverse.dps(a, y, noise=NOISE), 1),
    "DPS": corrected(lambda a, y: inverse.dps_published(a, y, zeta=ZETA), 1),
    "TMPD": guided(lambda a, y, v0: inverse.tmpd(a, y, noise=NOISE), 2),
    "DMPS": guided(lambda a, y, v0: inverse.dmps(a, y, noise=NOISE, v0=v0)),
    "DDNM": guided(lambda a, y, v0: inverse.ddnm(a, y, noise=NOISE, v0=v0)),
    "DDNM+": own(lambda a, y: inverse.ddnm_plus(a, y, noise=NOISE)),
    "DDRM": own(lambda a, y: inverse.ddrm(a, y, noise=NOISE)),
    "DiffPIR": guided(lambda a, y, v0: inverse.diffpir(a, y, noise=NOISE, lam=7.0)),
    "DDS": guided(lambda a, y, v0: inverse.dds(a, y, gamma=5.0 * safe(a))),
    "MPGD": guided(lambda a, y, v0: inverse.mpgd(a, y, rate=0.5 * safe(a))),
}
EVERYWHERE = ("DPS", "MPGD")
"""Those that take a measurement which is not linear."""
