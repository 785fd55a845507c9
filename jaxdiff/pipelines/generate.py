"""The middle of every pipeline: a guided denoiser walked down, from noise or from an image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Key

from jaxdiff.denoise import Denoiser, bind, cfg
from jaxdiff.guidance import clip, rescaled_cfg
from jaxdiff.pipelines.latents import factor
from jaxdiff.pipelines.parts import Pretrained
from jaxdiff.process import perturb
from jaxdiff.samplers import grid, run
from jaxdiff.samplers.loop import Look
from jaxdiff.trees import fold, keys_for, normal
from jaxdiff.types import PyTree, Rows, Sampler, Scalar

Progress = Callable[[Any, Any], None]
_START, _WALK = 0, 1


def guided(
    loaded: Pretrained, cond: PyTree, null: PyTree | None, scale: Scalar, rescale: float = 0.0
) -> Denoiser:
    """The denoiser of a checkpoint under a condition.

    Args:
      loaded: the checkpoint.
      cond: the condition.
      null: the empty or negative one; None leaves guidance out.
      scale: of classifier-free guidance.
      rescale: the share of the image whose spread is brought back, see `rescaled_cfg`.

    Returns:
      a Denoiser; one call of the network a step, at twice the batch if there is guidance.
    """
    model = loaded.model()
    if null is None:
        denoise = bind(model, cond)
    elif rescale:
        denoise = rescaled_cfg(model, cond, null, scale, rescale=rescale)
    else:
        denoise = cfg(model, cond, null, scale)
    half = loaded.schedule.clip
    return clip(-half, half)(denoise) if half else denoise


def walk(
    key: Key[Array, ""],
    loaded: Pretrained,
    denoise: Denoiser,
    shape: tuple[int, ...],
    *,
    steps: int,
    sampler: Sampler | None = None,
    start: PyTree | None = None,
    image: Array | None = None,
    strength: float = 1.0,
    look: Look | None = None,
    progress: Progress | None = None,
) -> Any:
    """Walk a denoiser down the checkpoint's grid.

    Args:
      key: one key; sample i folds its number into it.
      loaded: the checkpoint.
      denoise: its denoiser.
      shape: [b, h, w, c] of what is sampled.
      steps: number of steps of the whole grid.
      sampler: instead of the checkpoint's own.
      start: standard normal noise [b, h, w, c] to begin with, instead of the key's.
      image: clean samples to begin with instead of noise, noised by `strength`.
      strength: in (0, 1], the share of the steps that is walked from an image.
      look: see `samplers.run`.
      progress: called on the host as progress(step, steps) at every call of the denoiser, such as
        `lambda i, n: print(f"{i + 1}/{n}", end="\r")`.

    Raises:
      ValueError: strength outside (0, 1], or so small that no step is left.
    """
    tokens = shape[1] * shape[2] // 4  # of patches of 2 x 2
    ts = loaded.schedule.checked(steps, tokens)
    keys = keys_for(key, jnp.arange(shape[0]))
    noise = normal(fold(keys, _START), jnp.zeros(shape)) if start is None else start
    if image is None:
        x = loaded.schedule.begin(noise, steps, tokens)
    else:
        ts = ts[_skipped(ts.shape[0] - 1, strength) :]
        x = perturb(loaded.process, ts[0], image, noise)
    chosen = sampler or loaded.schedule.sampler
    if progress is not None:
        fn = Partial(_reported, denoise.fn, Partial(progress))
        denoise = Denoiser(denoise.process, fn, denoise.memory, denoise.span)
    return _walked(fold(keys, _WALK), denoise, grid(ts), x, sampler=chosen, look=look)


def _reported(fn: Any, progress: Any, x: Any, t: Any, now: Any) -> Any:
    jax.debug.callback(progress, now.i, now.n)
    return fn(x, t, now)


@partial(jax.jit, static_argnames=("sampler", "look"))
def _walked(
    keys: Any, denoise: Denoiser, rows: Rows, x: Any, *, sampler: Sampler, look: Look | None
) -> Any:
    """The loop, compiled once for every sampler and shape: parameters are arguments."""
    return run(keys, denoise, sampler, rows, x, look=look)


def _skipped(n: int, strength: float) -> int:
    """How many of n steps are left out: all but the whole part of n * strength."""
    if not 0 < strength <= 1 or int(n * strength) < 1:
        raise ValueError(
            f"strength={strength} with {n} steps: give a share in (0, 1] of at least one step"
        )
    return n - int(n * strength)


def pixels_of(loaded: Pretrained, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in pixels of samples of this shape."""
    return shape[1] * factor(loaded), shape[2] * factor(loaded)


def in_batches(make: Any, rows: PyTree, size: int) -> Array:
    """`make(rows of one batch)` for all batches of `size` rows, laid together.

    The last batch is filled up by repeating its last row, so that all share one compilation.

    >>> in_batches(lambda r: 2 * r, jnp.arange(5.0), 2).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    places = [jnp.minimum(jnp.arange(i, i + size), n - 1) for i in range(0, n, size)]
    parts = [make(jax.tree.map(Partial(_taken, place), rows)) for place in places]
    return jnp.concatenate(parts)[:n]


def _taken(place: Array, leaf: Array) -> Array:
    return leaf[place]
