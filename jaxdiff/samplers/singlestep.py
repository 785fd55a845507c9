"""DPM-Solver and DPM-Solver++ in one step: orders 2 and 3, by stages between t and s.

A step of order 2 has its stage at l_t + r_1 h, in l = log(alpha/sigma), and goes to s by what was
seen there, its weight halved. One of order 3 reaches a second stage, at l_t + r_2 h, by the first,
and goes to s by the second; both weights are integrals. See `stages` for the formulas.

With eta > 0 the step goes to r_down < r_s, in r = sigma/alpha, and noise of r_up is added:
r_up^2 + r_down^2 = r_s^2, r_up^2 = eta^2 r_s^2 (1 - r_s^2/r_t^2). A step to sigma = 0 is Euler's.

Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2, and arXiv:2211.01095, algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.samplers.heun import unless_clean
from jaxdiff.samplers.stages import begin, land, lowered, stage
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, Scalar, State, number

Share = Scalar | None


def singlestep(
    order: int | tuple[int, ...],
    *,
    data: bool = True,
    r1: Share = None,
    r2: Share = None,
    eta: Scalar = 0.0,
    floor: Scalar = 0.0,
    halved: bool = False,
) -> Sampler:
    """DPM-Solver++ (or DPM-Solver) in single steps of the orders that are asked for.

    A step of order k takes k evaluations, the one to clean data takes one. Order 3 is reached with
    r2 = 2/3 alone (and any r1); with another r2 it is 2. Ancestral steps keep the law of the
    process to the order of the solver, but what they keep of x is the reverse SDE's to order 1.

    Args:
      order: 1, 2 or 3; or one for each step of the grid, and 1 for all that follow.
      data: hold x_0 for slow (DPM-Solver++), or else eps (DPM-Solver).
      r1: where the first stage lies, a share in (0, 1) of the step in log(alpha/sigma); a number,
        or one for each step [n]. By default 1/2 for order 2, 1/3 for order 3.
      r2: the same for the second stage of order 3; 2/3 by default.
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.
      floor: r_down goes no lower, in sigma/alpha: at sigma_min, a walk that ends there ends
        without noise.
      halved: reach the second stage by the halved weight too.

    Raises:
      ValueError: if an order is not 1, 2 or 3, a share is not in (0, 1) or eta not in [0, 1].

    Lu et al. 2022, arXiv:2206.00927, algorithms 1, 2; arXiv:2211.01095, algorithm 1.

    >>> singlestep((3, 3, 2), eta=1.0).init(jnp.zeros((2, 3))).hist
    ()
    """
    _check(order, r1, r2, eta)
    still = isinstance(eta, int | float) and eta == 0
    most = order if isinstance(order, int) else max(order, default=1)

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        own = _order_at(order, now.i)
        leg, up = lowered(begin(denoise, state.x, now.t, now.s, now), number(eta), number(floor))
        first = _at(jnp.where(own == 3, 1 / 3, 1 / 2) if r1 is None else r1, now.i)
        shares = first, _at(2 / 3 if r2 is None else r2, now.i)

        def staged() -> PyTree:
            one = stage(denoise, leg, shares[0], data)
            second = land(leg, data, one, halved=True)

            def third() -> PyTree:
                two = stage(denoise, leg, shares[1], data, one, halved=halved)
                return land(leg, data, two)

            if isinstance(own, int):
                return third() if own == 3 else second
            return second if most == 2 else jax.lax.cond(own == 3, third, lambda: second)

        x = land(leg, data)
        if most > 1:
            x = unless_clean(jnp.where(own == 1, 0.0, leg.ratio), staged, x)
        if not still:
            z = normal(fold(now.key, SOLVER), state.x)
            x = combine((1.0, x), (leg.alpha * up, z))
        return State(x), leg.est

    return Sampler(State, step)


def _check(order: Any, r1: Any, r2: Any, eta: Any) -> None:
    orders = (order,) if isinstance(order, int) else order
    if not orders or any(k not in (1, 2, 3) for k in orders):
        raise ValueError(f"order={order}: give 1, 2 or 3, or one of them for each step")
    for name, share in (("r1", r1), ("r2", r2)):
        if isinstance(share, int | float) and not 0 < share < 1:
            raise ValueError(f"{name}={share}: a stage lies inside the step; give it in (0, 1)")
    if isinstance(eta, int | float) and not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: 0 is deterministic, 1 ancestral; give eta in [0, 1]")


def _order_at(order: int | tuple[int, ...], i: Any) -> Any:
    if isinstance(order, int):
        return order
    return jnp.array([*order, 1])[jnp.minimum(i, len(order))]


def _at(value: Any, i: Any) -> Array:
    """A number, or one of one for each step."""
    value = number(value)
    return value[jnp.minimum(i, len(value) - 1)] if value.ndim else value


def dpm_2(eta: Scalar = 0.0, *, r: Scalar = 0.5) -> Sampler:
    """DPM-Solver-2, known as DPM2; with eta = 1 as DPM2 a. 2n - 1 evaluations.

    Args:
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.
      r: in (0, 1), where the stage lies.

    Lu et al. 2022, arXiv:2206.00927, algorithm 1; Karras et al. 2022, arXiv:2206.00364, for the
    stage in log sigma.

    >>> dpm_2().init(jnp.zeros((2, 3))).hist
    ()
    """
    return singlestep(2, data=False, r1=r, eta=eta)


def dpm_3(eta: Scalar = 0.0, *, r1: Scalar = 1 / 3, r2: Scalar = 2 / 3) -> Sampler:
    """DPM-Solver-3. 3n - 2 evaluations.

    Args:
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.
      r1: in (0, 1), where the first stage lies.
      r2: in (0, 1), where the second does; the order is 3 at 2/3, else 2.

    Lu et al. 2022, arXiv:2206.00927, algorithm 2.

    >>> dpm_3().init(jnp.zeros((2, 3))).hist
    ()
    """
    return singlestep(3, data=False, r1=r1, r2=r2, eta=eta)


def dpmpp_2s(eta: Scalar = 0.0, *, r: Scalar = 0.5) -> Sampler:
    """DPM-Solver++ (2S); with eta = 1 known as DPM++ 2S a. 2n - 1 evaluations.

    Args:
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.
      r: in (0, 1), where the stage lies.

    Lu et al. 2022, arXiv:2211.01095, algorithm 1.

    >>> dpmpp_2s().init(jnp.zeros((2, 3))).hist
    ()
    """
    return singlestep(2, r1=r, eta=eta)


def dpmpp_3s(eta: Scalar = 0.0, *, r1: Scalar = 1 / 3, r2: Scalar = 2 / 3) -> Sampler:
    """DPM-Solver++ (3S). 3n - 2 evaluations.

    Args:
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.
      r1: in (0, 1), where the first stage lies.
      r2: in (0, 1), where the second does; the order is 3 at 2/3, else 2.

    Lu et al. 2022, arXiv:2211.01095: algorithm 2 of arXiv:2206.00927, for x_0.

    >>> dpmpp_3s().init(jnp.zeros((2, 3))).hist
    ()
    """
    return singlestep(3, r1=r1, r2=r2, eta=eta)
