"""Blind problems: the parameters phi of the operator are found along with the image.

    y = A_phi(x_0) + noise;    turns between  x_s ~ a guided step with A_phi,
                                              phi  <- a few updates with log p(y, phi | x_0).

Who restores (DDRM, PiGDM, ...) is the caller's choice, and so is the family A_phi: `restore` makes
the guided denoiser and the sampler of one example at the present phi. Two rules for phi:

    Langevin's steps, phi + h grad + sqrt(2 h) z: with DDRM that is GibbsDDRM, a partially collapsed
    Gibbs sampler (the update sees the estimate x_0(x_t), not a sample);
    Adam's steps towards a mode: the alternation of LADiBI (whose other half, prompts that describe
    image and degradation, is a matter of the denoiser's condition).

Murata et al. 2023, GibbsDDRM, arXiv:2301.12686; Dontas et al. 2024, LADiBI, arXiv:2412.00557.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, Num

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_positive
from jaxdiff.process import check_grid
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import GUIDE, Now, PyTree, Sampler, Scalar, number

Restore = Callable[[Denoiser, PyTree, PyTree], tuple[Denoiser, Sampler]]
"""restore(denoise, phi, y) -> (denoiser, sampler), for a batch of one: y has a leading axis 1."""

Joint = Callable[[PyTree, PyTree, PyTree], Array]
"""joint(y, x_0, phi) -> log p(y | x_0, phi) + log p(phi) of ONE example, a scalar."""

_Update = Callable[[Any, Callable[[PyTree], PyTree], PyTree], PyTree]


def _alternate(
    keys: Any,
    denoise: Denoiser,
    ts: Any,
    x: PyTree,
    phi: PyTree,
    y: PyTree,
    restore: Restore,
    joint: Joint,
    update: _Update,
) -> tuple[PyTree, PyTree]:
    """One example at a time under vmap, so that each has an operator of its own."""
    n = ts.shape[0] - 1
    one = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)  # noqa: E731
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731

    def example(key: Any, x: PyTree, phi: PyTree, y: PyTree) -> tuple[PyTree, PyTree]:
        def step(carry: tuple[PyTree, PyTree], i: Any) -> tuple[tuple[PyTree, PyTree], None]:
            x, phi = carry
            now = Now(ts[i], ts[i + 1], i, jnp.asarray(n), fold(key[None], i), {})
            guided, sampler = restore(denoise, phi, one(y))
            # a solver's history is of another operator: each step begins anew
            state, est = sampler.step(now, guided, sampler.init(one(x)))
            slope = jax.grad(lambda phi: joint(y, first(est.x0), phi))
            phi = update(fold(now.key, GUIDE), slope, phi)
            return (first(state.x), phi), None

        return scan(step, (x, phi), jnp.arange(n))[0]

    return jax.vmap(example)(keys, x, phi, y)


def _check(ts: Any, process: Any, updates: int, **sizes: Any) -> None:
    check_grid(ts, process)
    if updates < 1:
        raise ValueError(f"updates={updates}: at least 1 for each step")
    for name, value in sizes.items():
        check_positive(name, value)


def gibbs_ddrm(
    keys: Key[Array, " b"],
    denoise: Denoiser,
    ts: Num[Array, " m"],
    x: PyTree,
    phi: PyTree,
    y: PyTree,
    *,
    restore: Restore,
    joint: Joint,
    size: Scalar,
    updates: int = 10,
) -> tuple[PyTree, PyTree]:
    """GibbsDDRM: turns between a guided step of x and Langevin's steps of phi.

    Args:
      keys: [b], one per sample.
      denoise: of the prior.
      ts: [n + 1] decreasing times.
      x: x at the first time, leaves [b, ...].
      phi: parameters of the operators to start from, leaves [b, ...].
      y: measurements, leaves [b, ...].
      restore: (denoise, phi, y) -> (denoiser, sampler) for a batch of one.
      joint: (y, x_0, phi) -> log p(y | x_0, phi) + log p(phi), of one example.
      size: h of phi + h grad + sqrt(2 h) z.
      updates: of phi after each step, static.

    Returns:
      x and phi, both samples.

    Raises:
      ValueError: if ts do not decrease, size is not positive or updates < 1.

    Murata et al. 2023, arXiv:2301.12686, with any restoration in the place of DDRM.
    """
    _check(ts, denoise.process, updates, size=size)
    h = number(size)

    def update(keys: Any, slope: Any, phi: PyTree) -> PyTree:
        def once(phi: PyTree, j: Any) -> tuple[PyTree, None]:
            own = jax.tree.map(lambda leaf: leaf[None], phi)
            z = jax.tree.map(lambda leaf: leaf[0], normal(fold(keys, j), own))
            return combine((1.0, phi), (h, slope(phi)), (jnp.sqrt(2 * h), z)), None

        return scan(once, phi, jnp.arange(updates))[0]

    return _alternate(keys, denoise, ts, x, phi, y, restore, joint, update)


def ladibi(
    keys: Key[Array, " b"],
    denoise: Denoiser,
    ts: Num[Array, " m"],
    x: PyTree,
    phi: PyTree,
    y: PyTree,
    *,
    restore: Restore,
    joint: Joint,
    rate: Scalar = 0.05,
    updates: int = 20,
) -> tuple[PyTree, PyTree]:
    """The alternation of LADiBI: turns between a guided step of x and Adam's steps of phi.

    Args:
      keys: [b], one per sample.
      denoise: of the prior; its condition is where prompts go.
      ts: [n + 1] decreasing times.
      x: x at the first time, leaves [b, ...].
      phi: parameters of the operators to start from, leaves [b, ...].
      y: measurements, leaves [b, ...].
      restore: (denoise, phi, y) -> (denoiser, sampler) for a batch of one.
      joint: (y, x_0, phi) -> log p(y | x_0, phi) + log p(phi), of one example.
      rate: of Adam, which begins anew after each step of x.
      updates: of phi after each step, static.

    Returns:
      x, a sample, and phi, a mode.

    Raises:
      ValueError: if ts do not decrease, rate is not positive or updates < 1.

    Dontas et al. 2024, arXiv:2412.00557.
    """
    _check(ts, denoise.process, updates, rate=rate)
    adam = optax.adam(number(rate))

    def update(keys: Any, slope: Any, phi: PyTree) -> PyTree:
        def once(carry: tuple[PyTree, Any], _: None) -> tuple[tuple[PyTree, Any], None]:
            phi, state = carry
            change, state = adam.update(combine((-1.0, slope(phi))), state)
            return (combine((1.0, phi), (1.0, change)), state), None

        return scan(once, (phi, adam.init(phi)), length=updates)[0][0]

    return _alternate(keys, denoise, ts, x, phi, y, restore, joint, update)
