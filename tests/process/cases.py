"""Every process and every prediction by name, and the textbook's formulas for them in numpy.

The formulas are those of the papers, in the widest float there is: they know nothing of log-SNR, of
`expm1`, of angles, or of automatic derivatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdiff import process as pr
from jaxdiff.process import Prediction, Process

Wide = np.longdouble

PROCESSES: dict[str, Callable[[], Process]] = {
    "vp_linear": pr.vp_linear,
    "vp_cosine": pr.vp_cosine,
    "ve": pr.ve,
    "sub_vp": pr.sub_vp,
    "edm": pr.edm,
    "rectified_flow": pr.rectified_flow,
    "trig_flow": pr.trig_flow,
    "table_linear": lambda: pr.from_betas(pr.linear_betas()),
    "table_cosine": lambda: pr.from_betas(pr.cosine_betas()),
    "table_zero": lambda: pr.from_betas(pr.zero_snr(pr.linear_betas())),
}

CONTINUOUS = [name for name in PROCESSES if not name.startswith("table")]
TABLES = [name for name in PROCESSES if name.startswith("table")]
SIGNAL_ENDS = {
    "vp_cosine",
    "rectified_flow",
    "trig_flow",
    "table_zero",
}  # alpha(t_max) is exactly 0

PREDICTIONS: dict[str, Callable[[], Prediction]] = {
    "x0": lambda: pr.x0,
    "eps": lambda: pr.eps,
    "v": lambda: pr.v,
    "score": lambda: pr.score,
    "velocity": lambda: pr.velocity,
    "F(.5)": lambda: pr.F(0.5),
    "F(.7)": lambda: pr.F(0.7),
}


def betas_of(name: str) -> np.ndarray:
    """The betas of a table of `PROCESSES`."""
    linear = np.linspace(1e-4, 0.02, 1000)
    made = {"table_linear": linear, "table_zero": pr.zero_snr(linear)}
    return made[name] if name in made else pr.cosine_betas()


class Textbook(NamedTuple):
    """alpha, sigma, drift f and squared diffusion g^2 as the papers print them."""

    alpha: Callable
    sigma: Callable
    drift: Callable
    diffusion2: Callable


def _beta(t):
    return 0.1 + 19.9 * t


def _integral(t):
    return 0.1 * t + 19.9 * t**2 / 2


_QUARTER = Wide(np.pi) / 2 / Wide(1.008)


def _cosine(t):
    return np.cos(_QUARTER * (t + Wide(0.008))) / np.cos(_QUARTER * Wide(0.008))


def _cosine_drift(t):
    return -_QUARTER * np.tan(_QUARTER * (t + Wide(0.008)))


TEXTBOOK = {
    "vp_linear": Textbook(
        lambda t: np.exp(-_integral(t) / 2),
        lambda t: np.sqrt(1 - np.exp(-_integral(t))),
        lambda t: -_beta(t) / 2,
        _beta,
    ),
    "sub_vp": Textbook(
        lambda t: np.exp(-_integral(t) / 2),
        lambda t: 1 - np.exp(-_integral(t)),
        lambda t: -_beta(t) / 2,
        lambda t: _beta(t) * (1 - np.exp(-2 * _integral(t))),
    ),
    "ve": Textbook(
        lambda t: 1 + 0 * t,
        lambda t: 0.01 * 5000**t,
        lambda t: 0 * t,
        lambda t: (0.01 * 5000**t) ** 2 * 2 * np.log(Wide(5000)),
    ),
    "edm": Textbook(lambda t: 1 + 0 * t, lambda t: t, lambda t: 0 * t, lambda t: 2 * t),
    "rectified_flow": Textbook(
        lambda t: 1 - t, lambda t: t, lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)
    ),
    "trig_flow": Textbook(np.cos, np.sin, lambda t: -np.tan(t), lambda t: 2 * np.tan(t)),
    "vp_cosine": Textbook(
        _cosine,
        lambda t: np.sqrt(1 - _cosine(t) ** 2),
        _cosine_drift,
        lambda t: -2 * _cosine_drift(t),
    ),
}


def span_of(process: Process) -> tuple[float, float]:
    """(t_min, t_max) as numbers."""
    return float(process.t_min), float(process.t_max)


def times_of(name: str, process: Process, n: int = 401, *, ends: bool = True) -> np.ndarray:
    """n times in the float of the process: an even spread, and a quarter of them close to t_min."""
    low, high = span_of(process)
    few = n // 4
    share = np.concatenate([np.linspace(0, 1, n - few), np.logspace(-6, -2, few)])
    if not ends:
        share = 1e-4 + share * (1 - 2e-4)
    times = np.sort((low + share * (high - low)).astype(process.t_max.dtype))
    return np.clip(times, np.asarray(process.t_min), np.asarray(process.t_max))


def wide(array: object) -> np.ndarray:
    """The numbers, exactly as they are, in the widest float."""
    return np.asarray(array).astype(Wide)


def relative(found: object, expected: np.ndarray) -> np.ndarray:
    """|found - expected| / |expected|, and |found| where 0 is expected."""
    scale = np.where(expected == 0, 1, np.abs(expected))
    return np.abs(wide(found) - expected) / scale
