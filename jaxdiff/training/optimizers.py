"""Recipes for optimisers, each one optax transformation made of optax parts.

Muon replaces the momentum M of a weight matrix by its orthogonal factor, U V^T where M = U S V^T,
found by five Newton-Schulz iterations; scaled by 0.2 sqrt(max(fan_in, fan_out)) its entries are as
large as those of an Adam update, so that both share one learning rate. It is meant for the hidden
matrices of a network. What reads the input, writes the output, embeds or modulates, and everything
that is no matrix, goes to Adam.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdiff.types import PyTree

Rate = float | int | Callable[[Any], Any]

CONDITION = ("embed", "embedding", "film", "mod", "modulation", "modulate", "adaln")
"""Words that keep a kernel out of Muon anywhere in its path: embeddings and modulations."""

EDGE = ("entry", "exit", "in", "out", "stem", "head", "patch", "patchify", "unpatchify", "final")
"""Words that do so as the first part of a path: what reads the input and writes the output."""


def schedule(
    lr: float | int,
    steps: int,
    *,
    warmup: int = 40,
    cooldown: float | int = 0.35,
    floor: float = 0.01,
) -> Callable[[Any], Array]:
    """Warm-up, constant, then linear down to floor * lr over the last part of training.

        rate(k) = lr * min(1, (k + 1) / warmup, 1 - (1 - floor) (k + 1 - s) / (steps - s))

    with s = (1 - cooldown) steps; k counts updates from 0. In a short run the warm-up takes at most
    the steps before the cooldown.

    Args:
      lr: the highest rate, > 0.
      steps: number of updates, >= 1; later ones keep the last rate.
      warmup: updates until the highest rate, >= 0.
      cooldown: the part of training that goes down, in [0, 1]; 0: none.
      floor: the last rate over the highest, in [0, 1].

    Returns:
      an optax schedule: update number -> rate.

    Raises:
      ValueError: if an argument is out of its range.

    >>> rate = schedule(1.0, 100, warmup=10)
    >>> [round(float(rate(k)), 3) for k in (0, 9, 50, 99)]
    [0.1, 1.0, 1.0, 0.01]
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: a schedule needs at least one step")
    for name, value in (("cooldown", cooldown), ("floor", floor)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(
                f"{name} = {value} is outside [0, 1]: it is a part, not a number of steps"
            )
    if lr <= 0 or warmup < 0:
        raise ValueError(f"lr = {lr} has to be > 0 and warmup = {warmup} >= 0")
    down = max(round(cooldown * steps), 1)
    rise = max(min(warmup, steps - down), 1)

    def rate(count: Any) -> Array:
        done = jnp.asarray(count, jnp.float32) + 1.0
        left = jnp.clip((done - (steps - down)) / down, 0.0, 1.0)
        fall = 1.0 - (1.0 - floor) * left if cooldown > 0 else jnp.ones(())
        return lr * jnp.minimum(jnp.minimum(done / rise, 1.0), fall)

    return rate


def adam(
    lr: Rate,
    *,
    b1: float | int = 0.9,
    b2: float | int = 0.999,
    eps: float | int = 1e-8,
    weight_decay: float | int = 0.0,
    clip: float | int | None = 1.0,
) -> optax.GradientTransformation:
    """Adam (AdamW if weight_decay > 0) behind a clip of the global gradient norm.

    Args:
      lr: rate or schedule.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the second moment.
      weight_decay: times lr, on matrices and kernels only.
      clip: largest global norm of the gradient; None: any.

    Reference: D. Kingma, J. Ba 2014, arXiv:1412.6980; I. Loshchilov, F. Hutter 2017,
    arXiv:1711.05101.

    >>> params = {"w": jnp.ones((2, 2))}
    >>> update, _ = adam(0.1).update(params, adam(0.1).init(params), params)
    >>> round(float(update["w"][0, 0]), 4)
    -0.1
    """
    return _clipped(clip, optax.adamw(lr, b1, b2, eps, weight_decay=weight_decay, mask=_matrices))


def muon(
    lr: Rate,
    *,
    beta: float | int = 0.95,
    b1: float | int = 0.9,
    b2: float | int = 0.95,
    weight_decay: float | int = 0.0,
    clip: float | int | None = 1.0,
    hidden: Callable[[str, Any], bool] | None = None,
) -> optax.GradientTransformation:
    """Muon on hidden kernels, Adam on everything else, behind a clip of the gradient norm.

    A kernel [in, out] is its own matrix; a convolution kernel [k, k, in, out] is the matrix
    [k*k*in, out].

    Args:
      lr: rate or schedule, for both; 4e-3 with `schedule` suits small networks.
      beta: decay of Muon's momentum, in [0, 1).
      b1: Adam's first decay.
      b2: Adam's second decay.
      weight_decay: times lr, on Muon's kernels.
      clip: largest global norm of the gradient; None: any.
      hidden: hidden(path, leaf) -> whether Muon takes this leaf; path as "down/0/conv1/kernel".
        Default `is_hidden`.

    Reference: K. Jordan et al. 2024, github.com/KellerJordan/Muon; scale: J. Liu et al. 2025,
      arXiv:2502.16982, section 2.2.

    >>> params = {"block": {"kernel": jnp.eye(4)}, "bias": jnp.ones(4)}
    >>> optimizer = muon(0.1, clip=None)
    >>> update, _ = optimizer.update(params, optimizer.init(params), params)
    >>> bool(update["block"]["kernel"][0, 0] < 0)
    True
    """
    choose = is_hidden if hidden is None else hidden

    def labels(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: "muon" if choose(_spell(path), leaf) else "adam", params
        )

    kernels = optax.contrib.muon(
        lr,
        beta=beta,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(_matrix, params),
        consistent_rms=0.2,
    )
    return _clipped(
        clip, optax.partition({"muon": kernels, "adam": optax.adam(lr, b1, b2)}, labels)
    )


def is_hidden(path: str, leaf: Any) -> bool:
    """Whether a leaf is a hidden kernel: named "kernel", at least a matrix, no CONDITION, no EDGE.

    >>> [is_hidden(f"{path}/kernel", jnp.eye(2)) for path in ("down/0/conv1", "exit", "mid/film")]
    [True, False, False]
    """
    *parents, name = path.lower().split("/")
    words = {word for part in parents for word in (part, *part.split("_"))}
    inside = not words & set(CONDITION) and parents[:1] not in [[edge] for edge in EDGE]
    return name == "kernel" and leaf.ndim >= 2 and inside


def _matrix(leaf: Any) -> Any:
    if leaf.ndim < 2:
        raise ValueError(f"muon: a leaf of shape {leaf.shape} is no matrix: let hidden() refuse it")
    last = leaf.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(last)), (last,))


def _spell(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matrices(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _clipped(clip: float | int | None, inner: Any) -> optax.GradientTransformation:
    if clip is None:
        return inner
    if clip <= 0:
        raise ValueError(f"clip = {clip} has to be > 0, or None for no clipping")
    return optax.chain(optax.clip_by_global_norm(clip), inner)
