"""Toy distributions in the plane, drawn in jax: one point and its label per key.

Point i is made from fold_in(key, i), so it does not depend on how many are drawn. All lie within
about [-2.5, 2.5]^2. The shapes follow the toys of Grathwohl et al. 2019, arXiv:1810.01367.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff.trees import keys_for

_Points = tuple[Float[Array, "n 2"], Int[Array, " n"]]


def two_moons(key: Key[Array, ""], n: int, noise: float = 0.05) -> _Points:
    """Two half circles that reach into each other.

    (cos a, sin a) - (.5, .25) or its point reflection, a uniform in (0, pi), plus N(0, noise^2).
    Returns x [n, 2] and the label [n], 0 above, 1 below. Errors: ValueError for n < 1, noise < 0.

    >>> x, label = two_moons(jax.random.key(0), 5)
    >>> x.shape, label.shape
    ((5, 2), (5,))
    """

    def point(u: Array, label: Array) -> Array:
        arc = jnp.stack([jnp.cos(jnp.pi * u[0]), jnp.sin(jnp.pi * u[0])]) - jnp.array([0.5, 0.25])
        return arc * (1.0 - 2.0 * label)

    return _draw(key, n, 2, noise, point)


def checkerboard(key: Key[Array, ""], n: int, noise: float = 0.0) -> _Points:
    """The eight dark cells of a 4 x 4 board on [-2, 2]^2, each filled uniformly.

    Returns x [n, 2] and the cell [n], 0 ... 7, column by column. Errors: as `two_moons`.

    >>> x, _ = checkerboard(jax.random.key(0), 64)
    >>> bool((jnp.floor(x).sum(1) % 2 == 0).all())
    True
    """

    def point(u: Array, label: Array) -> Array:
        column = label // 2
        cell = jnp.stack([column, 2 * (label % 2) + column % 2])
        return cell + u - 2.0

    return _draw(key, n, 8, noise, point)


def swiss_roll(key: Key[Array, ""], n: int, noise: float = 0.05) -> _Points:
    """A spiral of one and a half turns: r (cos r, sin r) / 6, r uniform in (1.5 pi, 4.5 pi).

    Returns x [n, 2] and the quarter of the roll [n], 0 inside, 3 outside. Errors: as `two_moons`.

    >>> swiss_roll(jax.random.key(0), 5)[0].shape
    (5, 2)
    """

    def point(u: Array, label: Array) -> Array:
        r = 1.5 * jnp.pi * (1.0 + (label + u[0]) / 2.0)
        return r / 6.0 * jnp.stack([jnp.cos(r), jnp.sin(r)])

    return _draw(key, n, 4, noise, point)


def rings(key: Key[Array, ""], n: int, noise: float = 0.05, *, count: int = 3) -> _Points:
    """Circles of radius 2 j / count, j = 1 ... count, equally likely, plus N(0, noise^2).

    Returns x [n, 2] and the ring [n], 0 innermost. Errors: as `two_moons`, and for count < 1.

    >>> rings(jax.random.key(0), 5, count=2)[0].shape
    (5, 2)
    """

    def point(u: Array, label: Array) -> Array:
        angle = 2 * jnp.pi * u[0]
        return 2.0 * (label + 1.0) / count * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    return _draw(key, n, count, noise, point)


def gaussians(key: Key[Array, ""], n: int, noise: float = 0.1, *, count: int = 8) -> _Points:
    """Gaussian modes N(m_j, noise^2 I) on the circle of radius 2, m_j at angle 2 pi j / count.

    Returns x [n, 2] and the mode [n]. Errors: as `rings`. An exact mixture, so its score is known.

    >>> gaussians(jax.random.key(0), 5)[1].shape
    (5,)
    """

    def point(u: Array, label: Array) -> Array:
        angle = 2 * jnp.pi * label / count
        return 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    return _draw(key, n, count, noise, point)


def _draw(key: Array, n: int, classes: int, noise: float, point: Callable[..., Array]) -> _Points:
    """n points point(u, label) + noise * normal, u uniform in (0, 1)^2, label uniform."""
    _check(n, classes, noise)

    def one(k: Array) -> tuple[Array, Array]:
        u = jax.random.uniform(jax.random.fold_in(k, 0), (3,))
        label = (classes * u[2]).astype(jnp.int32)
        x = point(u[:2], label)
        return x + noise * jax.random.normal(jax.random.fold_in(k, 1), (2,)), label

    return jax.vmap(one)(keys_for(key, jnp.arange(n)))


def _check(n: int, classes: int, noise: float) -> None:
    for name, value, least in (("n", n, 1), ("count", classes, 1), ("noise", noise, 0)):
        if value < least:
            raise ValueError(f"{name}={value}: it must be at least {least}")
