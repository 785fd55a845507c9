"""Adams-Bashforth: the slope continued as a polynomial through its last values, then integrated.

In a straight frame y = x / (alpha + c sigma), tau = sigma / (alpha + c sigma) (see `heun`),

    y_s = y_t + int_{tau_t}^{tau_s} P(tau) dtau,   P(tau_j) = d_j = eps_j - c x0_j,

P of degree k - 1 through the last k slopes. It is exact for uneven steps, regular at sigma = 0, and
takes one evaluation a step. c = 0 is k-diffusion's LMS; with c = 1 it is the multistep method of
flow matching.
"""

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.exponential import weights
from jaxdiff.samplers.heun import frame_at, frame_of
from jaxdiff.samplers.past import empty, remember
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State, number


def adams(order: int = 4, *, c: float | Array | None = None) -> Sampler:
    """Adams-Bashforth of order 1 to 4 for the probability flow; LMS where c = 0.

    The first steps have the order of the slopes there are: 1, 2, ...

    Args:
      order: number of slopes, 1 (Euler) to 4.
      c: the frame, >= 0. None takes EDM's (0), or the flow's (1) where alpha(t_max) = 0.

    Raises:
      ValueError: if order is not 1, 2, 3 or 4.

    >>> len(adams(3).init(jnp.zeros((2, 5))).hist.values)
    2
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order={order}: 1, 2, 3 or 4 (higher ones are unstable)")

    def init(x: PyTree) -> State:
        return State(x, empty(x, order - 1))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        frame = frame_of(denoise.process) if c is None else number(c)
        scale, tau = frame_at(denoise.process, frame, now.t)
        scale_s, tau_s = frame_at(denoise.process, frame, now.s)
        est, past, b = denoise(state.x, now.t, now), state.hist, trees.size(state.x)
        slope = combine((1.0, noise_of(denoise, state.x, now.t, est.x0)), (-frame, est.x0))
        place, end = (jnp.broadcast_to(a, (b,)) for a in (tau, tau_s))
        slopes, shares = (slope, *past.values), _weights(end, (place, *past.places), past.known)
        terms = [(scale_s * w, d) for w, d in zip(shares, slopes, strict=True)]
        x = combine((scale_s / scale, state.x), *terms)
        return State(x, remember(past, slope, place)), est

    return Sampler(init, step)


def _weights(end: Array, taus: tuple[Array, ...], known: Array) -> list[Array]:
    """Integrals from taus[0] to end of the Lagrange polynomials through the `known` + 1 newest."""
    h = end - taus[0]
    # the past lies at negative nodes: positive ones keep the unknown apart from it
    nodes = [jnp.where(known >= j, (tau - taus[0]) / h, 1.0 * j) for j, tau in enumerate(taus)]
    plain = [[h / (m + 1) for m in range(n + 1)] for n in range(len(taus))]
    return weights(nodes, known + 1, plain)
