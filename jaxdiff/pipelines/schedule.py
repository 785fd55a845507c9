"""What a scheduler config says, in the words of this library."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.process import Process, Wiring, check_grid, scales
from jaxdiff.trees import combine
from jaxdiff.types import PyTree, Sampler


class Schedule(NamedTuple):
    """A scheduler config as a process, a wiring, a sampler and a grid.

    `times(n, tokens)` are the n + 1 times of n steps, for an image of so many tokens (which only
    flows with a dynamic shift look at). `whole` says that the pipelines of diffusers begin with
    sqrt(alpha^2 + sigma^2) times the noise, as if the data had deviation 1, instead of sigma times.

    `clip` is the half width to which the scheduler clips x_0 at every step, 0 for none.
    """

    process: Process
    wiring: Wiring
    sampler: Sampler
    times: Callable[[int, int | None], Array]
    whole: bool
    clip: float

    def begin(self, noise: PyTree, steps: int, tokens: int | None = None) -> PyTree:
        """x_T from standard normal noise, as the pipelines of diffusers begin."""
        alpha, sigma = scales(self.process, self.times(steps, tokens)[0])
        return combine((jnp.hypot(alpha, sigma) if self.whole else sigma, noise))

    def checked(self, steps: int, tokens: int | None = None) -> Array:
        """The times, checked to decrease within the process.

        Raises:
          ValueError: if they do not (a number of steps that the grid cannot have).
        """
        ts = self.times(steps, tokens)
        check_grid(ts, self.process)
        return ts
