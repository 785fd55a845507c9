"""Pseudo linear multistep: Adams-Bashforth with the weights of even steps, whatever the grid.

In a straight frame y = x / (alpha + c sigma), tau = sigma / (alpha + c sigma) (see `heun`), with
slopes d = eps - c x0,

    y_s = y_t + (tau_s - tau_t) d',     d' = (55 d_0 - 59 d_1 + 37 d_2 - 9 d_3) / 24,

and with fewer slopes (23, -16, 5)/12, (3, -1)/2, or d_0. c = 0 is the papers' frame, where the step
is DDIM's with d' in the place of eps. The methods differ in how they begin:

    ipndm   with the orders 1, 2, 3 of the slopes there are;
    plms    with one pseudo improved Euler step: d' = (d_0 + d at s)/2;
    pndm    with three pseudo Runge-Kutta steps: d' = (k_1 + 2 k_2 + 2 k_3 + k_4)/6, k_2 and k_3 at
            the time half-way from t to s.

The weights are those of the integral only where the steps of tau are even: there the order is
that of the weights, elsewhere it is one. `adams` has the weights of any grid.

Liu et al. 2022, arXiv:2202.09778, eq. (11)-(13), algorithms 1 and 2; as iPNDM: Zhang & Chen 2022,
arXiv:2204.13902.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import trees
from jaxdiff.denoise import Denoiser
from jaxdiff.process import scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.heun import frame_at, frame_of, unless_clean
from jaxdiff.samplers.past import Past, empty, remember
from jaxdiff.trees import combine
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State, number

EVEN = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Adams-Bashforth's weights for even steps, by how many slopes are known."""


def ipndm(order: int = 4, *, c: float | Array | None = None) -> Sampler:
    """iPNDM of order 1 to 4: pseudo linear multistep from the first step on; n evaluations.

    y_s = y_t + (tau_s - tau_t) d', d' by `EVEN` from the slopes there are.

    Args:
      order: number of slopes, 1 (Euler) to 4.
      c: the frame, >= 0; 0 is as published. None takes 0, or 1 where alpha(t_max) = 0.

    Raises:
      ValueError: if order is not 1, 2, 3 or 4.

    Liu et al. 2022, arXiv:2202.09778, eq. (12); Zhang & Chen 2022, arXiv:2204.13902, appendix.

    >>> len(ipndm(3).init(jnp.zeros((2, 3))).hist.values)
    2
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order={order}: 1, 2, 3 or 4 (higher ones are unstable)")
    return _pseudo(order, c, 0, _improved_euler)


def plms(*, c: float | Array | None = None) -> Sampler:
    """PLMS: pseudo linear multistep after one pseudo improved Euler step; n + 1 evaluations.

    Args:
      c: the frame, >= 0; 0 is as published. None takes 0, or 1 where alpha(t_max) = 0.

    Liu et al. 2022, arXiv:2202.09778, eq. (12) and appendix; the fourth order with this beginning
    is that of latent diffusion (Rombach et al. 2022, arXiv:2112.10752).

    >>> plms().init(jnp.zeros((2, 3))).hist.known.tolist()
    [0, 0]
    """
    return _pseudo(4, c, 1, _improved_euler)


def pndm(*, c: float | Array | None = None) -> Sampler:
    """PNDM: pseudo linear multistep after three pseudo Runge-Kutta steps; n + 9 evaluations.

    A step to sigma = 0 among the first three is Euler's (in `plms` as well): a slope found at the
    end of a long step is too uncertain to be continued by less than four.

    Args:
      c: the frame, >= 0; 0 is as published. None takes 0, or 1 where alpha(t_max) = 0.

    Liu et al. 2022, arXiv:2202.09778, eq. (11)-(13), algorithm 2 ("F-PNDM").

    >>> pndm().init(jnp.zeros((2, 3))).hist.known.tolist()
    [0, 0]
    """
    return _pseudo(4, c, 3, _runge_kutta)


class _Leg(NamedTuple):
    """One step: where it is, the slope there, how to ask for a slope and how to follow one."""

    first: PyTree
    slope: Callable[[PyTree, Any], PyTree]
    move: Callable[[PyTree, Any], PyTree]
    now: Now


def _pseudo(order: int, c: Any, warm: int, begin: Callable[[_Leg], PyTree]) -> Sampler:
    """The first `warm` steps by `begin`, then Adams-Bashforth."""

    def init(x: PyTree) -> State:
        return State(x, empty(x, order - 1))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        frame = frame_of(denoise.process) if c is None else number(c)
        est, past = denoise(state.x, now.t, now), state.hist
        leg = _leg(now, denoise, frame, state.x, est)
        slope = _continued(leg.first, past)
        if warm:
            _, sigma = scales(denoise.process, now.s)
            slope = trees.where((sigma == 0) & (past.known < 3), leg.first, slope)
            steady = jnp.any(past.known >= warm)
            last = jnp.where(steady, jnp.zeros_like(sigma), sigma)
            slope = unless_clean(last, lambda: begin(leg), slope)
        nowhere = jnp.zeros(trees.size(state.x))  # even weights ask for no places
        return State(leg.move(slope, now.s), remember(past, leg.first, nowhere)), est

    return Sampler(init, step)


def _leg(now: Now, denoise: Denoiser, frame: Array, x: PyTree, est: Estimate) -> _Leg:
    process = denoise.process
    scale, tau = frame_at(process, frame, now.t)
    eps = noise_of(denoise, x, now.t, est.x0)
    first = combine((1.0, eps), (-frame, est.x0))

    def slope(x: PyTree, t: Any) -> PyTree:
        x0 = denoise(x, t, now).x0
        return combine((1.0, noise_of(denoise, x, t, x0)), (-frame, x0))

    def move(direction: PyTree, s: Any) -> PyTree:
        """DDIM's step, which every frame shares, and what `direction` differs from the slope.

        So a step from alpha = 0 is regular with c = 0 too, if it is along the slope.
        """
        alpha_s, sigma_s = scales(process, s)
        scale_s, tau_s = frame_at(process, frame, s)
        far = jnp.where(scale == 0, 0.0, scale_s * (tau_s - tau))
        off = combine((1.0, direction), (-1.0, first))
        return combine((alpha_s, est.x0), (sigma_s, eps), (far, off))

    return _Leg(first, slope, move, now)


def _continued(slope: PyTree, past: Past) -> PyTree:
    table = jnp.array(EVEN)[past.known]  # [b, 4]
    return combine(*((table[:, j], d) for j, d in enumerate((slope, *past.values))))


def _improved_euler(leg: _Leg) -> PyTree:
    s = leg.now.s
    return combine((0.5, leg.first), (0.5, leg.slope(leg.move(leg.first, s), s)))


def _runge_kutta(leg: _Leg) -> PyTree:
    s = leg.now.s
    half = (leg.now.t + s) / 2
    second = leg.slope(leg.move(leg.first, half), half)
    third = leg.slope(leg.move(second, half), half)
    fourth = leg.slope(leg.move(third, s), s)
    return combine((1 / 6, leg.first), (1 / 3, second), (1 / 3, third), (1 / 6, fourth))
