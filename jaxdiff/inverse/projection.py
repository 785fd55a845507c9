"""Replacement: what is measured is put into x_s, at the noise level of the step.

    x_s <- x_s + w A^+ (y_s - A x_s),    y_s = alpha_s y + sigma_s A z.

With A a mask it is the inpainting of Score-SDE, with A the grey value its colourisation, with
A a mean over blocks and y that of a reference image it is ILVR. MCG takes the gradient of DPS
before it. Started from `image=A^+ y` at a strength below 1 (see `sample`) it is CCDF; a start from
an image and no correction at all is SDEdit.

Song et al. 2021, arXiv:2011.13456, appendix I. Choi et al. 2021, arXiv:2108.02938, algorithm 1.
Chung et al. 2022, arXiv:2206.00941, algorithm 1 (MCG); arXiv:2112.05146 (CCDF).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_linear, check_picture, check_share
from jaxdiff.inverse.dps import dps_published
from jaxdiff.inverse.operators import Measurement, check_example, check_measurement
from jaxdiff.inverse.ranges import correction_in_range
from jaxdiff.process import scales
from jaxdiff.samplers import after
from jaxdiff.trees import combine, fold, normal, where
from jaxdiff.types import GUIDE, Estimate, Now, PyTree, Sampler, State, number


def _replaced(
    operator: Any, y: Any, weight: Any, until: Any, now: Now, process: Any, x: PyTree, est: Estimate
) -> PyTree:
    check_measurement(operator, y, x)
    alpha, sigma = scales(process, now.s)
    z = normal(fold(now.key, GUIDE), x)
    # one application of A: y_s - A x_s = alpha_s y + A (sigma_s z - x_s)
    rest = jax.vmap(operator.A)(combine((sigma, z), (-1.0, x)))
    back = jax.vmap(operator.pinv)(combine((alpha, y), (1.0, rest)))
    moved = combine((1.0, x), (weight, back))
    return where(jnp.asarray(now.s) >= until, moved, x)


def project(
    operator: Measurement,
    y: PyTree,
    *,
    weight: float | Array = 1.0,
    until: float | Array = -jnp.inf,
) -> Callable[[Sampler], Sampler]:
    """A correction that puts the measurement into x_s after every step; at the end A x = y.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      weight: w in [0, 1], how far to go; a number or [b].
      until: the last time at which it acts, in the process's own units.

    Raises:
      ValueError: if the operator is not linear, weight is outside [0, 1], or y or x do not have
        the shapes or y the range of values that the operator and the denoiser say.

    Song et al. 2021, arXiv:2011.13456, appendix I (inpainting and colourisation).

    >>> from jaxdiff import samplers
    >>> from jaxdiff.inverse import average_pool
    >>> fix = project(average_pool(2, (2, 2, 1)), jnp.zeros((1, 1, 1, 1)))
    >>> fix(samplers.ddpm()).init(jnp.zeros((1, 2, 2, 1))).hist
    ()
    """
    check_linear(operator, "project", "flowchef")
    check_share("weight", weight)
    fix = partial(_replaced, operator, y, number(weight), number(until))
    return correction_in_range(after(fix), operator, y)


def ilvr(
    operator: Measurement, image: PyTree, *, until: float | Array = -jnp.inf
) -> Callable[[Sampler], Sampler]:
    """ILVR: x_s takes its low frequencies from a reference image, x_s += phi(image_s - x_s).

    phi = A^+ A is the low-pass filter, for instance of `average_pool(factor, shape)`.

    Args:
      operator: A, of one example, what is kept of the image.
      image: reference images in the space of x, leaves [b, ...].
      until: the last time at which it acts; below it details are free.

    Raises:
      ValueError: if the operator is not linear, or the image does not have the operator's shape or
        is quite outside the denoiser's value range.

    Choi et al. 2021, arXiv:2108.02938, algorithm 1.
    """
    check_linear(operator, "ilvr", "flowchef")
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), image)
    check_example(operator, one)
    replace = project(operator, jax.vmap(operator.A)(image), until=until)

    def correct(sampler: Sampler) -> Sampler:
        inner = replace(sampler)

        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            check_picture(image, state.x, denoise.span)
            return inner.step(now, denoise, state)

        return Sampler(inner.init, step)

    return correct


def mcg(operator: Measurement, y: PyTree, *, zeta: float | Array) -> Callable[[Sampler], Sampler]:
    """MCG: the published step of DPS, then the measurement is put in.

    Args:
      operator: A, of one example.
      y: measurements, leaves [b, ...].
      zeta: step size of the gradient, per step.

    Raises:
      ValueError: if the operator is not linear, or y or x do not have the shapes that it says.

    Chung et al. 2022, arXiv:2206.00941, algorithm 1, the step in units of the residual's norm.
    """
    replace, descend = project(operator, y), dps_published(operator, y, zeta=zeta)

    def correct(sampler: Sampler) -> Sampler:
        return replace(descend(sampler))

    return correct
