"""How a network is spoken to: what it predicts, how its input is scaled, which clock it reads.

Papers differ by these and nothing else (Karras et al. 2022, arXiv:2206.00364, table 1): the network
sees c_in(t) (x_t - alpha m) and the time c_noise(t), and answers one row of (x_0 - m, eps), where m
is the centre of the data.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxdiff.process.gaussian import Process, scales
from jaxdiff.process.predictions import F, Prediction
from jaxdiff.types import Scalar, number, record

Scale = Callable[[Process, Array], Array]


@record
class Wiring:
    """`prediction` a row; `scale_in` c_in(process, t); `clock` c_noise(process, t); `center` m."""

    prediction: Prediction
    scale_in: Scale
    clock: Scale
    center: Float[Array, ""]


def _unit(process: Process, t: Array) -> Array:
    return jnp.ones_like(t)


def _own_time(process: Process, t: Array) -> Array:
    return t


def _thousand(process: Process, t: Array) -> Array:
    return 1000.0 * t


def _edm_in(sigma_data: Array, process: Process, t: Array) -> Array:
    alpha, sigma = scales(process, t)
    return 1 / jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)


def _edm_clock(process: Process, t: Array) -> Array:
    # at alpha = 0 the clock would be infinite: it stops at sigma / alpha = 1e4
    alpha, sigma = scales(process, t)
    return 0.25 * jnp.log(sigma / jnp.maximum(alpha, 1e-4 * sigma))


unit = Partial(_unit)
"""c_in = 1: the network sees x_t as it is."""

own_time = Partial(_own_time)
"""The network reads t itself (tables: 0 ... N - 1)."""

thousand = Partial(_thousand)
"""The network reads 1000 t (processes on [0, 1] with networks made for tables)."""

edm_clock = Partial(_edm_clock)
"""EDM's c_noise = log(sigma / alpha) / 4."""


def wiring(
    prediction: Prediction,
    *,
    scale_in: Scale = unit,
    clock: Scale = own_time,
    center: Scalar = 0.0,
) -> Wiring:
    """A wiring from its parts.

    Args:
      prediction: the row that the network answers.
      scale_in: c_in(process, t), multiplies the input.
      clock: c_noise(process, t), the network's time input.
      center: m, subtracted from the data before the network and added to x_0 after it.

    >>> from jaxdiff.process import v
    >>> wiring(v).prediction.name
    'v'
    """
    return Wiring(prediction, _partial(scale_in), _partial(clock), number(center))


def _partial(fn: Scale) -> Scale:
    return fn if isinstance(fn, Partial) else Partial(fn)


def edm_wiring(sigma_data: Scalar = 0.5, *, center: Scalar = 0.0) -> Wiring:
    """EDM's preconditioning for data of standard deviation sigma_data around `center`.

    The network predicts F, sees x / sqrt(sigma^2 + alpha^2 sigma_data^2) and log(sigma/alpha)/4.

    Karras et al. 2022, arXiv:2206.00364, table 1.

    >>> edm_wiring(0.5).prediction.name
    'F'
    """
    scale = Partial(_edm_in, number(sigma_data))
    return wiring(F(sigma_data), scale_in=scale, clock=edm_clock, center=center)
