"""Moving averages of the parameters.

An average with constant decay beta remembers about 1 / (1 - beta) steps, whatever the length
of training; it needs tuning and a correction at the start. The power-function average has neither:

    theta_ema(n) = beta(n) theta_ema(n-1) + (1 - beta(n)) theta(n),   beta(n) = (1 - 1/n)^exponent

After n steps its weights follow a power of the step's number, so its width is a fixed fraction of
the training so far; at n = 1 the decay is 0 and the average is the parameters themselves. The
published form has exponent gamma + 1; 13 gives a relative width of about 7 percent.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxdiff.types import PyTree


def power_ema(
    average: PyTree, params: PyTree, step: Int[Array, ""] | int, *, exponent: float | int = 13.0
) -> PyTree:
    """Power-function average: decay (1 - 1/n)^exponent with n = step + 1; n = 1 copies.

    Args:
      average: tree like `params`, the average so far.
      params: tree of arrays after the update.
      step: number of steps finished BEFORE this update, >= 0.
      exponent: > 0; larger follows the parameters closer.

    Returns:
      tree like `average`.

    Reference: T. Karras et al. 2024, arXiv:2312.02696, section 3.1 (exponent = gamma + 1).

    >>> float(power_ema(jnp.zeros(()), jnp.ones(()), 0))
    1.0
    """
    n = jnp.asarray(step, jnp.float32) + 1.0
    # 1 - (1 - 1/n)^exponent in digits that hold where 1 - 1/n rounds to 1; at n = 1 it is 1.
    return _towards(average, params, -jnp.expm1(exponent * jnp.log1p(-1.0 / n)))


def constant_ema(
    average: PyTree, params: PyTree, step: Int[Array, ""] | int, *, decay: float | int = 0.9999
) -> PyTree:
    """Average with constant decay, warmed up: beta = min(decay, (1 + step) / (10 + step)).

    Args:
      average: tree like `params`, the average so far.
      params: tree of arrays after the update.
      step: number of steps finished BEFORE this update, >= 0.
      decay: in [0, 1); the average remembers about 1 / (1 - decay) steps.

    Returns:
      tree like `average`.

    Raises:
      ValueError: if decay is outside [0, 1).

    >>> round(float(constant_ema(jnp.zeros(()), jnp.ones(()), 10**6, decay=0.75)), 6)
    0.25
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay = {decay} is outside [0, 1): 0.999 to 0.9999 is usual")
    n = jnp.asarray(step, jnp.float32)
    return _towards(average, params, jnp.maximum(1.0 - decay, 9.0 / (10.0 + n)))


def _towards(average: PyTree, params: PyTree, weight: Any) -> PyTree:
    def one(old: Any, new: Any) -> Any:
        # The weights of old and new sum to one in this form, however small the weight of new is.
        moved = old + weight.astype(old.dtype) * (new.astype(old.dtype) - old)
        return jnp.where(weight < 1.0, moved, new.astype(old.dtype))

    return jax.tree.map(one, average, params)
