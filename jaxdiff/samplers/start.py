"""`sample`: the front door of the loop. It draws x_T, makes keys and rows, and calls `run`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, Num

from jaxdiff import trees
from jaxdiff.denoise import Denoiser, check_range
from jaxdiff.process import Process, check_grid, karras, perturb, root_flow, scales
from jaxdiff.process.grids import check_steps
from jaxdiff.samplers.loop import Look, grid, run
from jaxdiff.samplers.moulton import adams_moulton
from jaxdiff.trees import Tape, combine, fold, keys_for, normal
from jaxdiff.types import PyTree, Rows, Sampler

Times = Callable[[Process, int], Array] | Num[Array, "m *b"]


def sample(
    key: Key[Array, ""],
    denoise: Denoiser,
    sampler: Sampler | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    steps: int = 20,
    times: Times | None = None,
    rows: Callable[[Array], Rows] = grid,
    start: PyTree | None = None,
    image: PyTree | None = None,
    strength: float = 1.0,
    ids: Int[Array, " b"] | None = None,
    noise: Tape | None = None,
    look: Look | None = None,
) -> Any:
    """Draw samples from a denoiser.

    Sample i is made from fold_in(key, ids[i]) alone: the same in a batch of 1 or 64, on one
    device or many. Wrap the call in `jax.jit` to compile it once.

    Args:
      key: one key.
      denoise: the denoiser, guided or not.
      sampler: the solver; by default `adams_moulton`, one for every number of steps.
      shape: [b, ...] of the samples; not needed with `start` or `image`.
      steps: number of steps, at least 1.
      times: a grid function `(process, steps) -> [steps + 1]`, or the times themselves; by default
        `root_flow`, the grid of the default sampler, and `karras` for any other.
      rows: how to walk them: `grid`, or a partial of `travel`.
      start: x_T itself, at the noise level of the first time.
      image: clean samples to start from, noised to the level that `strength` says.
      strength: in (0, 1], the share of the steps that is walked when an `image` is given.
      ids: numbers of the samples, arange(b) by default.
      noise: what the sampler draws, from the caller (`tape`) in place of the key.
      look: see `run`.

    Returns:
      x [b, ...]; with `look`, also what it kept.

    Raises:
      ValueError: if steps < 1, the grid does not decrease or leaves [t_clean, t_max], not exactly
        one of shape, start and image is given, strength is outside (0, 1], or the image is outside
        the model's range.

    >>> import jax
    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(2), jnp.eye(2)), process.edm())
    >>> sample(jax.random.key(0), d, shape=(3, 2), steps=5).shape
    (3, 2)
    """
    if sum(a is not None for a in (shape, start, image)) != 1:
        raise ValueError("give exactly one of shape (to draw x_T), start (x_T itself) and image")
    _check_key(key)
    check_steps(steps)
    which = times if times is not None else root_flow if sampler is None else karras
    ts = which(denoise.process, steps) if callable(which) else which
    check_grid(ts, denoise.process)
    ts = ts[_skipped(ts.shape[0] - 1, strength) if image is not None else 0 :]
    like = jnp.zeros(shape) if shape is not None else start if start is not None else image
    keys = keys_for(key, jnp.arange(trees.size(like)) if ids is None else ids)
    x = start if start is not None else _first(fold(keys, 0), denoise, ts[0], like, image)
    walk = fold(keys, 1) if noise is None else noise
    return run(walk, denoise, sampler or adams_moulton(), rows(ts), x, look=look)


def _check_key(key: Array) -> None:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim:
        raise TypeError(
            f"key: shape {key.shape}, dtype {key.dtype}; give ONE typed key, jax.random.key(seed) "
            "(sample i folds its number into it)"
        )


def _skipped(n: int, strength: float) -> int:
    """How many of n steps an image at this strength leaves out; at least one step is walked."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: give a share of the steps in (0, 1]")
    return min(n - round(n * strength), n - 1)


def _first(keys: Array, denoise: Denoiser, t: Array, like: PyTree, image: PyTree | None) -> PyTree:
    eps = normal(keys, like)
    if image is None:
        return combine((scales(denoise.process, t)[1], eps))
    check_range(image, denoise.span, "image")
    return perturb(denoise.process, t, image, eps)
