"""What a network may predict, each one row p = a x_0 + b eps; one solve decodes all of them.

Together with x_t = alpha x_0 + sigma eps a prediction is a 2x2 linear system in (x_0, eps):

    x_0 = (b x - sigma p) / det,    eps = (alpha p - a x) / det,    det = alpha b - sigma a.

Where sigma = 0 the sample itself is alpha x_0, where alpha = 0 it is sigma eps; what cannot be
known there (eps from x_0, x_0 from eps) is refused by name, or NaN: never a wrong number.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Bool

from jaxdiff.process.gaussian import Process, Time, _derivative, scales
from jaxdiff.trees import combine
from jaxdiff.types import PyTree, Scalar, number, record

SMALLEST_ALPHA = 1e-4
"""Below this alpha(t_max), x_0 decoded from eps or the score is noise in single precision."""


@record
class Prediction:
    """A row: `coefficients(process, t) -> (a, b)` with p = a x_0 + b eps."""

    coefficients: Callable[[Process, Array], tuple[Array, Array]]

    def __call__(self, process: Process, t: Time) -> tuple[Array, Array]:
        """(a, b) at t, each shaped like t."""
        return self.coefficients(process, number(t))

    @property
    def name(self) -> str:
        """The word for it in messages: x0, eps, v, score, velocity or F."""
        fn = getattr(self.coefficients, "func", self.coefficients)
        return getattr(fn, "__name__", "prediction").strip("_")


def _x0(process: Process, t: Array) -> tuple[Array, Array]:
    return jnp.ones_like(t), jnp.zeros_like(t)


def _eps(process: Process, t: Array) -> tuple[Array, Array]:
    return jnp.zeros_like(t), jnp.ones_like(t)


def _v(process: Process, t: Array) -> tuple[Array, Array]:
    alpha, sigma = scales(process, t)
    return -sigma, alpha


def _score(process: Process, t: Array) -> tuple[Array, Array]:
    return jnp.zeros_like(t), -1 / process.sigma(t)


def _velocity(process: Process, t: Array) -> tuple[Array, Array]:
    return _derivative(process.alpha, t)[1], _derivative(process.sigma, t)[1]


def _F(sigma_data: Array, process: Process, t: Array) -> tuple[Array, Array]:
    alpha, sigma = scales(process, t)
    total = jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)
    return sigma / (total * sigma_data), -alpha * sigma_data / total


x0 = Prediction(Partial(_x0))
"""The clean sample: p = x_0."""

eps = Prediction(Partial(_eps))
"""The noise: p = eps (Ho et al. 2020, arXiv:2006.11239, eq. 14)."""

v = Prediction(Partial(_v))
"""p = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512, section 4)."""

score = Prediction(Partial(_score))
"""The score of the kernel: p = -eps / sigma (Song et al. 2021, arXiv:2011.13456, eq. 7)."""

velocity = Prediction(Partial(_velocity))
"""The flow's: p = alpha' x_0 + sigma' eps (Lipman et al. 2023, arXiv:2210.02747, eq. 10)."""


def F(sigma_data: Scalar = 0.5) -> Prediction:
    """EDM's F: x_0 = c_skip x + c_out F, for data of standard deviation sigma_data.

    F = sigma/(S sigma_data) x_0 - alpha sigma_data/S eps, S^2 = sigma^2 + alpha^2 sigma_data^2,
    has unit variance at every noise level. With alpha = 1 it is Karras et al.'s.

    Karras et al. 2022, arXiv:2206.00364, table 1.

    >>> from jaxdiff.process import edm
    >>> a, b = F(0.5)(edm(), 0.5)
    >>> round(float(a), 4), round(float(b), 4)
    (1.4142, -0.7071)
    """
    return Prediction(Partial(_F, number(sigma_data)))


def encode(prediction: Prediction, process: Process, t: Time, x0: PyTree, eps: PyTree) -> PyTree:
    """The target p = a(t) x_0 + b(t) eps.

    Args:
      prediction: the row.
      process: what noise does.
      t: times, (), [b] or [b, n].
      x0: clean samples [b, ...], an array or a tree of them.
      eps: noise, like x0.

    Returns:
      p, like x0; infinite where the row is (the score at sigma = 0).

    >>> from jaxdiff.process import rectified_flow
    >>> float(encode(velocity, rectified_flow(), 0.5, jnp.float32(1.0), jnp.float32(3.0)))
    2.0
    """
    a, b = prediction(process, t)
    return combine((a, x0), (b, eps))


def decode(
    prediction: Prediction, process: Process, t: Time, x: PyTree, p: PyTree
) -> tuple[PyTree, PyTree]:
    """(x_0, eps) from x_t and a prediction p of it.

    Args:
      prediction: the row that p is an estimate of.
      process: the process that made x.
      t: times, (), [b] or [b, n].
      x: noisy samples x_t [b, ...].
      p: predictions, like x.

    Returns:
      x_0 and eps, like x; NaN inside a trace where they cannot be known.

    Raises:
      ValueError: if t is concrete and x_0 cannot be known there (from eps or the score where
        alpha is about 0), or the prediction is infinite there (the score where sigma = 0).
        eps from x_0 where sigma = 0 is NaN, while x_0 is exact.

    >>> from jaxdiff.process import rectified_flow
    >>> x0_, eps_ = decode(velocity, rectified_flow(), 1.0, jnp.float32(2.0), jnp.float32(-1.0))
    >>> float(x0_), float(eps_)   # x = eps at t = 1, p = eps - x_0
    (3.0, 2.0)
    """
    t = number(t)
    alpha, sigma = scales(process, t)
    a, b = prediction(process, t)
    check_decodable(prediction, process, t)
    det = alpha * b - sigma * a
    noisy, signal, mixed = sigma != 0, alpha != 0, b != 0
    from_x = _over(mixed & noisy, b, det) + _over(mixed & ~noisy, 1.0, alpha)
    from_p = _over(mixed & noisy, -sigma, det) + _over(~mixed, 1.0, a)
    mixed = a != 0
    eps_x = _over(mixed & signal, -a, det) + _over(mixed & ~signal, 1.0, sigma)
    eps_p = _over(mixed & signal, alpha, det) + _over(~mixed, 1.0, b)
    return combine((from_x, x), (from_p, p)), combine((eps_x, x), (eps_p, p))


def _over(used: Array, numerator: Any, denominator: Array) -> Array:
    """numerator / denominator where `used` (NaN for 0 and inf), else 0 with derivative 0."""
    lost = (denominator == 0) | jnp.isinf(denominator)
    proper = jnp.where(lost, jnp.nan, denominator)
    return jnp.where(used, numerator / jnp.where(used, proper, 1.0), 0.0)


def blind(prediction: Prediction, process: Process, t: Time) -> Bool[Array, ""]:
    """Whether x_0 cannot be read off this prediction at t: no x_0 in the row, alpha about 0.

    >>> from jaxdiff.process import vp_cosine
    >>> bool(blind(eps, vp_cosine(), 1.0)), bool(blind(v, vp_cosine(), 1.0))
    (True, False)
    """
    a, _ = prediction(process, t)
    alpha, _ = scales(process, t)
    return jnp.any((a == 0) & (alpha < SMALLEST_ALPHA))


def check_decodable(prediction: Prediction, process: Process, t: Time) -> None:
    """Refuse, by name, times at which a prediction says nothing of x_0; traced times pass.

    Raises:
      ValueError: for eps and score where alpha is about 0; for rows that are infinite at t.
    """
    t = number(t)
    a, b = prediction(process, t)
    if any(isinstance(leaf, Tracer) for leaf in (a, b, t, process.alpha(t))):
        return
    if bool(blind(prediction, process, t)):
        raise ValueError(
            f"prediction {prediction.name} at t={_brief(t)}: alpha is about 0 there, so x_0 cannot "
            "be read off the noise; let the network predict x0, v, velocity or F, or end the "
            "process earlier"
        )
    if not bool(jnp.all(jnp.isfinite(a) & jnp.isfinite(b))):
        raise ValueError(
            f"prediction {prediction.name} at t={_brief(t)}: it is infinite there, since sigma is "
            "0; predict x0, eps, v or F, or keep t above t_clean"
        )


def _brief(t: Array) -> str:
    return f"{float(t)}" if t.ndim == 0 else f"{float(t.min())} ... {float(t.max())}"
