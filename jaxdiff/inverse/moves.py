"""Moves of split Gibbs samplers: draws from p(y | x) N(x; c, v I), which holds no network.

DAPS and PnP-DM take turns between a draw that knows the data and this one, which knows the
measurement. Where y = A x + s n is linear and Gaussian it can be drawn exactly: with x' ~ N(c, v I)
and n ~ N(0, I) of its own,

    x = x' + v A^T (v A A^T + s^2 I)^-1 (y - A x' - s n).

Elsewhere it is the end of a Markov chain: Langevin's steps x + h grad log pi + sqrt(2 h) z (biased
by h), Hamiltonian Monte Carlo (leapfrog, then accepted or not) or Metropolis' random walk.

Zhang et al. 2024, DAPS, arXiv:2407.01521; Wu et al. 2024, PnP-DM, arXiv:2405.18782; Duane et al.
1987, doi:10.1016/0370-2693(87)91197-X.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.canonical import scan
from jaxdiff.inverse.doors import check_linear, check_noise, check_positive
from jaxdiff.inverse.gaussian import misfit
from jaxdiff.inverse.operators import Measurement, Operator, check_measurement
from jaxdiff.trees import combine, dots, fold, normal, where
from jaxdiff.types import PyTree, Scalar, number

Move = Callable[[Any, PyTree, Array, PyTree], PyTree]
"""move(keys [b], centre c, var v [b], start) -> x, a draw from p(y | x) N(x; c, v I)."""

Size = Scalar | Callable[[Array], Array]
"""The size of a step: a number, or a function of v [b] -> [b]."""


def log_likelihood(operator: Measurement, y: PyTree, noise: Any) -> Callable[[PyTree], Array]:
    """x [b, ...] -> log p(y | x) [b], up to a constant.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      noise: s > 0 of Gaussian noise, or a record with `log_prob(y, clean) -> scalar`, of one
        example.

    Raises:
      ValueError: if the noise is not positive.
    """
    if hasattr(noise, "log_prob"):
        return lambda x: jax.vmap(noise.log_prob)(y, jax.vmap(operator.A)(x))
    check_positive("noise", noise)
    s2 = number(noise) ** 2

    def gaussian(x: PyTree) -> Array:
        check_measurement(operator, y, x)
        residual = combine((1.0, y), (-1.0, jax.vmap(operator.A)(x)))
        return -0.5 * dots(residual, residual) / s2

    return gaussian


def conjugate(operator: Measurement, y: PyTree, *, noise: Scalar) -> Move:
    """The exact draw, for a linear operator with Gaussian noise: one gram solve.

    Args:
      operator: A, of one example, linear.
      y: measurements, leaves [b, ...].
      noise: s >= 0.

    Raises:
      ValueError: if the operator is not linear, or the noise negative.

    >>> from jaxdiff import inverse, trees
    >>> move = conjugate(inverse.matrix(jnp.eye(2)), jnp.ones((1, 2)), noise=0.0)
    >>> keys = trees.keys_for(jax.random.key(0), jnp.arange(1))
    >>> move(keys, jnp.zeros((1, 2)), jnp.ones(1), None).round(4).tolist()
    [[1.0, 1.0]]
    """
    check_linear(operator, "conjugate", "langevin, hmc or metropolis")
    check_noise(noise)
    s, linear = number(noise), cast(Operator, operator)

    def move(keys: Any, centre: PyTree, var: Array, start: PyTree) -> PyTree:
        free = combine((1.0, centre), (jnp.sqrt(var), normal(fold(keys, 0), centre)))
        n = normal(fold(keys, 1), y)
        left = combine((1.0, misfit(operator, y, free)), (-s, n))
        solved = jax.vmap(linear.gram_solve)(var, jnp.broadcast_to(s**2, var.shape), left)
        return combine((1.0, free), (var, jax.vmap(linear.At)(solved)))

    return move


def _target(likelihood: Any, centre: PyTree, var: Array) -> Callable[[PyTree], Array]:
    def log_pi(x: PyTree) -> Array:
        off = combine((1.0, x), (-1.0, centre))
        return likelihood(x) - 0.5 * dots(off, off) / var

    return log_pi


def _slope(log_pi: Any, x: PyTree) -> PyTree:
    """The gradient of each sample's log pi: samples do not meet in a sum of their own terms."""
    return jax.grad(lambda x: jnp.sum(log_pi(x)))(x)


def _size(size: Any, var: Array) -> Array:
    value: Any = size(var) if callable(size) else number(size)
    return jnp.broadcast_to(value, var.shape)


def _walk(once: Any, keys: Any, start: PyTree, steps: int) -> PyTree:
    return scan(lambda x, j: (once(fold(keys, j), x), None), start, jnp.arange(steps))[0]


def _check(size: Any, **counts: int) -> None:
    check_positive("size", size)
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: at least 1")


def langevin(operator: Measurement, y: PyTree, *, noise: Any, size: Size, steps: int = 100) -> Move:
    """Unadjusted Langevin steps from `start`: x + h grad log pi(x) + sqrt(2 h) z.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      noise: s > 0, or a record with `log_prob`.
      size: h, below the smallest variance of pi; a number or a function of v.
      steps: static.

    Zhang et al. 2024, arXiv:2407.01521.
    """
    _check(size, steps=steps)
    likelihood = log_likelihood(operator, y, noise)

    def move(keys: Any, centre: PyTree, var: Array, start: PyTree) -> PyTree:
        h, log_pi = _size(size, var), _target(likelihood, centre, var)

        def once(keys: Any, x: PyTree) -> PyTree:
            return combine((1.0, x), (h, _slope(log_pi, x)), (jnp.sqrt(2 * h), normal(keys, x)))

        return _walk(once, keys, start, steps)

    return move


def _accepted(keys: Any, log_ratio: Array, new: PyTree, old: PyTree) -> PyTree:
    """Metropolis' choice for each sample; what is not finite is refused."""
    u = jax.vmap(lambda k: jax.random.uniform(k, (), log_ratio.dtype))(keys)
    return where(jnp.log(u) < log_ratio, new, old)


def metropolis(
    operator: Measurement, y: PyTree, *, noise: Any, size: Size, steps: int = 100
) -> Move:
    """A random walk x + size z, accepted with min(1, pi(x') / pi(x)): no gradient.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      noise: s > 0, or a record with `log_prob`.
      size: standard deviation of a proposal; a number or a function of v.
      steps: static.

    Metropolis et al. 1953, doi:10.1063/1.1699114.
    """
    _check(size, steps=steps)
    likelihood = log_likelihood(operator, y, noise)

    def move(keys: Any, centre: PyTree, var: Array, start: PyTree) -> PyTree:
        h, log_pi = _size(size, var), _target(likelihood, centre, var)

        def once(keys: Any, x: PyTree) -> PyTree:
            new = combine((1.0, x), (h, normal(fold(keys, 0), x)))
            return _accepted(fold(keys, 1), log_pi(new) - log_pi(x), new, x)

        return _walk(once, keys, start, steps)

    return move


def hmc(
    operator: Measurement,
    y: PyTree,
    *,
    noise: Any,
    size: Size,
    leaps: int = 5,
    steps: int = 20,
) -> Move:
    """Hamiltonian Monte Carlo: fresh momentum, `leaps` leapfrog steps, accepted or not.

    Args:
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      noise: s > 0, or a record with `log_prob`.
      size: of a leapfrog step, below twice the smallest deviation of pi; a number or a function
        of v.
      leaps: leapfrog steps of a proposal, static.
      steps: proposals, static.

    Duane et al. 1987, doi:10.1016/0370-2693(87)91197-X.
    """
    _check(size, leaps=leaps, steps=steps)
    likelihood = log_likelihood(operator, y, noise)

    def move(keys: Any, centre: PyTree, var: Array, start: PyTree) -> PyTree:
        h, log_pi = _size(size, var), _target(likelihood, centre, var)

        def leap(at: Any, _: Any) -> Any:
            x, p = at
            p = combine((1.0, p), (h / 2, _slope(log_pi, x)))
            x = combine((1.0, x), (h, p))
            return (x, combine((1.0, p), (h / 2, _slope(log_pi, x)))), None

        def once(keys: Any, x: PyTree) -> PyTree:
            p = normal(fold(keys, 0), x)
            (new, q), _ = scan(leap, (x, p), length=leaps)
            gained = log_pi(new) - log_pi(x) - 0.5 * (dots(q, q) - dots(p, p))
            return _accepted(fold(keys, 1), gained, new, x)

        return _walk(once, keys, start, steps)

    return move
