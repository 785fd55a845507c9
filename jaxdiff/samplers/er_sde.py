"""ER-SDE-Solver: the reverse SDEs whose noise is scaled by any function, by Taylor expansion.

With r = sigma/alpha and a noise scaling phi(r), of which phi(r)/r does not decrease,

    x_s/alpha_s = (phi_s/phi_t) x_t/alpha_t + phi_s int_{r_s}^{r_t} phi'/phi^2 D dr + noise,

D(r) being the estimates of x_0. Here, with k = (phi_s/r_s)/(phi_t/r_t),

    x_s = alpha_s x_0 + sigma_s (k eps + sqrt(1 - k^2) z) + alpha_s (M_1 D' + M_2 D''/2),
    M_j = j int_{r_s}^{r_t} (phi_s/phi - 1) (r - r_t)^(j-1) dr.

phi = r is the probability flow (k = 1), r^2 the reverse SDE. D' and D'' are differences of the last
two or three estimates. A step to sigma = 0 takes D constant.

Cui et al. 2023, arXiv:2309.06169, propositions 2 to 4, algorithms 1 to 3.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.past import Past, empty, remember
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, State

LARGEST, SMALLEST = 1e6, 1e-6
"""sigma/alpha at which phi is still asked: at alpha = 0 the ratio is infinite."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def recommended(r: Array) -> Array:
    """phi = r (exp(r^0.3) + 10), the paper's choice ("SDE_5").

    Cui et al. 2023, arXiv:2309.06169, section 4.2 and appendix A.8.
    """
    return r * (jnp.exp(r**0.3) + 10)


def er_sde(
    order: int = 3, phi: Callable[[Array], Array] = recommended, *, published: bool = False
) -> Sampler:
    """ER-SDE-Solver of order 1 to 3; one evaluation a step.

    The first steps have the order of the estimates there are: 1, 2, ... With noise, order 3 is of
    weak order 2, with an error a seventh of order 2's.

    Args:
      order: number of estimates in use, 1 to 3.
      phi: how the noise is scaled, a function of sigma/alpha of any shape, in [1e-6, 1e6]; phi(r)/r
        must not decrease. r is the probability flow, r^2 the reverse SDE, between them r^1.5; the
        default is the paper's choice.
      published: take for D' at t the difference of the last two estimates as it is, as the authors
        do in order 3: their numbers, at second order. By default D' is that of the parabola
        through the last three.

    Raises:
      ValueError: if order is not 1, 2 or 3.

    Cui et al. 2023, arXiv:2309.06169, algorithms 1 to 3; integrated by Gauss and Legendre's rule
    in log r, where the authors sum over 100 points.

    >>> len(er_sde(3).init(jnp.zeros((2, 3))).hist.values)
    2
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order}: 1, 2 or 3")

    def init(x: PyTree) -> State:
        return State(x, empty(x, order - 1))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est, past, b = denoise(state.x, now.t, now), state.hist, trees.size(state.x)
        r = jnp.broadcast_to(_ratio(denoise, now.t), (b,))
        r_s = jnp.broadcast_to(_ratio(denoise, now.s), (b,))
        alpha, sigma = scales(denoise.process, now.s)
        kept = jnp.minimum((phi(r_s) / r_s) / (phi(r) / r), 1.0)
        eps = noise_of(denoise, state.x, now.t, est.x0)
        z = normal(fold(now.key, SOLVER), state.x)
        first, second = (jnp.where(sigma > 0, m, 0.0) for m in _moments(phi, r_s, r))
        weights = _slopes(r, past, first, second, published)
        terms = [(alpha * w, v) for w, v in zip(weights, (est.x0, *past.values), strict=True)]
        new = (sigma * kept, eps), (sigma * jnp.sqrt(1 - kept**2), z)
        return State(combine((alpha, est.x0), *new, *terms), remember(past, est.x0, r)), est

    return Sampler(init, step)


def _ratio(denoise: Denoiser, t: Array) -> Array:
    alpha, sigma = scales(denoise.process, t)
    return jnp.clip(sigma / alpha, SMALLEST, LARGEST)


def _moments(phi: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """M_1 and M_2, by Gauss and Legendre's rule in log r."""
    half = jnp.log(high / low) / 2
    nodes, weights = (jnp.asarray(a, low.dtype)[:, None] for a in (_NODES, _WEIGHTS))
    r = jnp.sqrt(low * high)[None] * jnp.exp(nodes * half[None])
    lost = (phi(low)[None] / phi(r) - 1) * r * weights * half[None]
    return jnp.sum(lost, axis=0), 2 * jnp.sum(lost * (r - high[None]), axis=0)


def _slopes(r: Array, past: Past, one: Array, two: Array, published: bool) -> list[Array]:
    """Weights of this estimate and the past ones in M_1 D' + M_2 D''/2."""
    if not past.values:
        return [jnp.zeros_like(r)]
    known = (past.known > 0) & (r != past.places[0])
    gap = jnp.where(known, r - past.places[0], 1.0)
    slope = jnp.where(known, one, 0.0)
    if len(past.values) == 1:
        return [slope / gap, -slope / gap]
    known = known & (past.known > 1) & (past.places[0] != past.places[1])
    older = jnp.where(known, past.places[0] - past.places[1], 1.0)
    bend = two if published else two + one * gap
    bend = jnp.where(known, bend / jnp.where(known, r - past.places[1], 1.0), 0.0)
    now, before = (slope + bend) / gap, bend / older  # of D - D_1, and of D_1 - D_2
    return [now, -now - before, before]
