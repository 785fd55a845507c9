"""A network that is right: it answers the exact posterior mean, in the wiring's own words."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxdiff import exact
from jaxdiff import process as pr
from jaxdiff.process import Process, Wiring
from jaxdiff.trees import fit

CLOCKS: dict[str, tuple[Any, Callable]] = {
    "own_time": (pr.own_time, lambda clock: clock),
    "thousand": (pr.thousand, lambda clock: clock / 1000),
    "edm": (pr.edm_clock, lambda clock: jnp.exp(4 * clock)),
}
"""A clock, and the time that is read off it (EDM's on the EDM process)."""


def plane() -> exact.Mixture:
    """Two Gaussians in the plane, one of them tilted."""
    covs = jnp.array([[[1.0, 0.6], [0.6, 0.5]], [[0.2, 0.0], [0.0, 0.2]]])
    return exact.mixture(jnp.array([0.4, 0.6]), jnp.array([[0.5, -1.0], [-1.0, 0.7]]), covs)


def exact_network(
    dist: exact.Distribution, process: Process, wiring: Wiring, time: Callable = lambda clock: clock
) -> Callable:
    """apply(params, x, clock, cond) for data of distribution `dist`.

    It undoes the wiring by hand: x_t = x / c_in + alpha m, and answers the row of (x_0 - m, eps).
    Its params, {} or {"scale", "shift"}, make it p (1 + scale) + shift: right at zero.
    """

    def apply(params: Any, x: Any, clock: Any, cond: Any) -> Any:
        t = time(clock)
        alpha, sigma = (fit(a, x) for a in pr.scales(process, t))
        noisy = x / fit(wiring.scale_in(process, t), x) + alpha * wiring.center
        x0 = exact.denoiser(dist, process)(noisy, t).x0
        eps = (noisy - alpha * x0) / sigma
        p = pr.encode(wiring.prediction, process, t, x0 - wiring.center, eps)
        return p * (1 + params.get("scale", 0.0)) + params.get("shift", 0.0)

    return apply
