"""SITCOM: the input of the network is moved until its x_0 fits the measurement.

    v* = argmin_v ||y - A(x_0(v))||^2 + lambda ||v - x_t||^2,  from v = x_t,   x_0' = x_0(v*),

by K steps of Adam, each one forward and one backward pass; a sample rests once its residual is
within the noise. x_0' is a value of the network, so it is consistent with it, with the measurement
and, through lambda, with x_t. The step then renews all noise: `remix(1.0)`.

Alkhouri et al. 2024, arXiv:2410.04479, algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.guidance import Guide
from jaxdiff.inverse.doors import check_noise, check_positive, check_steps
from jaxdiff.inverse.gaussian import misfit
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import in_range
from jaxdiff.trees import combine, dots, where
from jaxdiff.types import Estimate, PyTree, number

_Carry = tuple[PyTree, Any]


class _Sitcom:
    """The denoiser's function with a static number of steps; equal by it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sitcom) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash((_Sitcom, self.steps))

    def __call__(
        self, fn: Any, operator: Any, y: Any, numbers: Any, x: PyTree, t: Any, now: Any
    ) -> Estimate:
        rate, lam, bound = numbers
        adam = optax.adam(rate)

        def cost(v: PyTree) -> tuple[Array, Array]:
            residual = misfit(operator, y, fn(v, t, now).x0)
            apart, seen = combine((1.0, v), (-1.0, x)), dots(residual, residual)
            return jnp.sum(seen + lam * dots(apart, apart)), seen

        def step(carry: _Carry, _: None) -> tuple[_Carry, None]:
            v, memory = carry
            slope, seen = jax.grad(cost, has_aux=True)(v)
            change, memory = adam.update(slope, memory)
            return (where(seen > bound, combine((1.0, v), (1.0, change)), v), memory), None

        (v, _), _ = scan(step, (x, adam.init(x)), length=self.steps)
        return fn(v, t, now)._replace(var=None)


def sitcom(
    operator: Measurement,
    y: PyTree,
    *,
    noise: float | Array,
    steps: int = 20,
    rate: float | Array = 0.01,
    lam: float | Array = 0.0,
) -> Guide:
    """SITCOM: x_0' = x_0(v*) with v* fitted through the network; K backward passes a step.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      noise: s >= 0; a sample rests once ||y - A(x_0)|| <= s sqrt(number of measurements).
      steps: K, static.
      rate: learning rate of Adam > 0.
      lam: lambda >= 0, how near v stays to x_t.

    Raises:
      ValueError: if noise < 0, steps < 1, rate <= 0, lam < 0, or y or x do not have the shapes
        that the operator says.

    Alkhouri et al. 2024, arXiv:2410.04479, algorithm 1.
    """
    check_noise(noise)
    check_steps(steps)
    check_positive("rate", rate)
    if not isinstance(lam, Tracer) and not float(lam) >= 0:
        raise ValueError(f"lam={lam}: a weight is at least 0")
    count = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(y))
    numbers = number(rate), number(lam), count * number(noise) ** 2

    def guide(denoise: Denoiser) -> Denoiser:
        fn = Partial(_Sitcom(steps), denoise.fn, operator, y, numbers)
        return Denoiser(denoise.process, fn, denoise.memory, denoise.span)

    return in_range(guide, operator, y, noise)
