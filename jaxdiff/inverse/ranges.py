"""Does y look as if it had been measured on the denoiser's values? Asked once, at the door.

The largest of |A x| over the darkest, the brightest and a random picture says how large a
measurement can be; one that is ten times larger (and beyond ten standard deviations of the noise)
was made of pixels in other units. Only concrete arrays are looked at, and only where the denoiser
has a value range. A guide looks when it meets its denoiser, a sampler when its step is traced.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.denoise import Denoiser
from jaxdiff.guidance import Guide
from jaxdiff.inverse.operators import Measurement, check_measurement, struct
from jaxdiff.types import Estimate, Now, PyTree, Sampler, State

LARGER = 10.0
"""How much larger than what A makes of pictures y may be."""


def in_range(guide: Guide, operator: Measurement, y: PyTree, noise: Any = 0.0) -> Guide:
    """The guide, after a look at y when it meets its denoiser.

    Raises:
      ValueError: if y holds NaN, or cannot be a measurement of pictures in the denoiser's range.
    """

    def look(denoise: Denoiser) -> Denoiser:
        check_range_of(operator, y, denoise.span, noise)
        return guide(denoise)

    return look


def sampler_in_range(
    sampler: Sampler, operator: Measurement, y: PyTree, noise: Any = 0.0
) -> Sampler:
    """The sampler, after a look at y when its step meets the denoiser.

    Raises:
      ValueError: as `in_range`.
    """

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        check_measurement(operator, y, state.x)
        check_range_of(operator, y, denoise.span, noise)
        return sampler.step(now, denoise, state)

    return Sampler(sampler.init, step)


def correction_in_range(
    correct: Callable[[Sampler], Sampler], operator: Measurement, y: PyTree
) -> Callable[[Sampler], Sampler]:
    """The correction, after a look at y when a step meets the denoiser.

    Raises:
      ValueError: as `in_range`.
    """
    return lambda sampler: sampler_in_range(correct(sampler), operator, y)


def check_range_of(operator: Measurement, y: PyTree, span: Any, noise: Any) -> None:
    """Refuse a measurement of other units than the span's.

    Raises:
      ValueError: naming the largest values.
    """
    unknown = callable(noise) or not isinstance(noise, int | float | np.ndarray | jax.Array)
    held = [*jax.tree.leaves((y, span, operator)), noise]
    if span is None or unknown or any(isinstance(leaf, Tracer) for leaf in held):
        return
    found, possible = _largest(y), _possible(operator, span)
    if not np.isfinite(found):
        raise ValueError("y holds NaN or infinities: put 0 where nothing was measured")
    if possible is not None and found > LARGER * (possible + float(np.max(np.asarray(noise)))):
        raise ValueError(
            f"y is as large as {found:g}, but pictures of values in [{float(span[0]):g}, "
            f"{float(span[1]):g}] are measured as about {possible:g} at most: bring the picture to "
            "the denoiser's value range before it is measured"
        )


def _largest(y: PyTree) -> float:
    return max((float(np.max(np.abs(np.asarray(leaf)))) for leaf in jax.tree.leaves(y)), default=0)


def _possible(operator: Measurement, span: Any) -> float | None:
    """The largest |A x| of three pictures; None inside a trace, where there is no value."""
    low, high = float(span[0]), float(span[1])
    like = struct(operator.shape)
    draws = (
        lambda s: jnp.full(s.shape, low, s.dtype),
        lambda s: jnp.full(s.shape, high, s.dtype),
        lambda s: jax.random.uniform(jax.random.key(0), s.shape, s.dtype, low, high),
    )
    with jax.ensure_compile_time_eval():  # a step is met inside a loop's trace
        seen = [operator.A(jax.tree.map(draw, like)) for draw in draws]
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(seen)):
        return None
    return max(_largest(one) for one in seen)
