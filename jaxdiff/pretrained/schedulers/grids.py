"""The grids of diffusers' schedulers, as it names them.

Two families read the same words differently: `leading` and `linspace` of the multistep solvers are
those of one step more without the last time asked. Grids in sigma/alpha (Karras, exponential,
beta) are read off the table by log(sigma/alpha), the others by sigma/alpha.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import process as pr
from jaxdiff.pretrained.config import Config
from jaxdiff.process import Process

Times = Callable[[Process, int], Array]

BY_NOISE = {
    "use_karras_sigmas": pr.karras,
    "use_exponential_sigmas": pr.uniform_lambda,
    "use_lu_lambdas": pr.uniform_lambda,
    "use_beta_sigmas": pr.beta,
}


def by_noise(config: Config) -> Times | None:
    """The grid in sigma/alpha that the config switches on, or None."""
    for key, grid in BY_NOISE.items():
        if config(key, False):
            return grid
    return None


def spaced(spacing: str, offset: int, *, multistep: bool, rounded: bool) -> Times:
    """The grid in times of the table that `timestep_spacing` names."""

    def leading(process: Process, n: int) -> Array:
        return pr.leading(process, n, offset)

    open_: dict[str, Times] = {
        "leading": leading,
        "trailing": pr.trailing,
        "linspace": pr.linspace,
    }
    grid = open_[spacing]
    if multistep and spacing != "trailing":
        grid = pr.discard_penultimate(grid)
    return _rounded(grid) if rounded and spacing == "linspace" else grid


def _rounded(grid: Times) -> Times:
    return lambda process, n: jnp.round(grid(process, n))


def ending(grid: Times, last: float) -> Times:
    """The same grid with another end; where it was there already, the last step is left out."""

    def times(process: Process, n: int) -> Array:
        ts = grid(process, n)
        there = bool(ts[-2] <= last)
        return ts[:-1] if there else ts.at[-1].set(last)

    return times


def flow(config: Config) -> Callable[[int, int | None], Array]:
    """Times of a flow: shifted by a fixed number, or by one that depends on the image's size.

    Esser et al. 2024, arXiv:2403.03206, eq. (23).
    """
    s, n_train = float(config("shift", 1.0)), int(config("num_train_timesteps", 1000))
    dynamic = bool(config("use_dynamic_shifting", False))
    kind = config.only("time_shift_type", "exponential", "linear")
    low, high = config("base_shift", 0.5), config("max_shift", 1.15)
    few, many = config("base_image_seq_len", 256), config("max_image_seq_len", 4096)
    process = pr.rectified_flow(t_min=pr.shift(jnp.array(1 / n_train), s))
    fixed = pr.shifted(s)

    def times(n: int, tokens: int | None) -> Array:
        if not dynamic:
            return fixed(process, n)
        if tokens is None:
            raise ValueError("tokens is None: the shift of this flow depends on the image's size")
        mu = low + (high - low) * (tokens - few) / (many - few)
        even = jnp.append(jnp.linspace(1.0, 1 / n, n), 0.0)
        return pr.shift(even, math.exp(mu) if kind == "exponential" else mu)

    return times
