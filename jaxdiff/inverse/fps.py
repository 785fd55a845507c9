"""FPS-SMC: filtering posterior sampling, the measurement noised along with the sample.

The measurement gets a path of its own, y_t = alpha_t y + sigma_t A eps, drawn from noise to data
like the sample's (the bridge q(y_s | y_t, y), its noise seen through A). What a step then has to do
is a step of a linear filter, and Gaussian:

    x_s | x_t      ~ N(m, v I),                       the unguided step,
    y_s | x_s      ~ N(A x_s, alpha_s^2 s^2 I),
    x_s | x_t, y_s = x' + v A^T (v A A^T + alpha_s^2 s^2 I)^-1 (y_s - A x' - alpha_s s n),

with x' drawn from the first. Particles are weighted, before they move, by

    p(y_s | x_t) = N(y_s; A m, v A A^T + alpha_s^2 s^2 I).

Without noise in y, and with many steps and particles, it is exact; with noise the y_s are taken
for independent measurements, which they are not, so it trusts y more than it should. The last step
has v = 0; there v is the variance of x_0 given x_t for data of variance v0, and nothing is drawn.

Dou & Song 2024, ICLR (openreview tplXNcHZs1).
"""

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_linear, check_noise
from jaxdiff.inverse.gaussian import misfit, per_sample
from jaxdiff.inverse.operators import Measurement, Operator
from jaxdiff.inverse.particles import at_the_end, check_particles, for_each, resample, start
from jaxdiff.process import posterior, scales
from jaxdiff.trees import combine, dots, fold, normal, where
from jaxdiff.types import SOLVER, Estimate, Now, PyTree, Sampler, Scalar, State, number


def _of_the_first(tree: PyTree, particles: int) -> PyTree:
    """The value of the first row of each group, in every row of it."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[::particles], particles, axis=0), tree)


def fps(
    operator: Measurement,
    y: PyTree,
    *,
    noise: Scalar,
    particles: int,
    v0: Scalar = 1.0,
    threshold: Scalar = 0.5,
) -> Sampler:
    """FPS-SMC: a sampler of p(x_0 | y) by groups of particles; no network Jacobian.

    Rows [b g] are b groups of g particles, which share one path of y; what comes out is resampled,
    hence not weighted. One evaluation a step. The path of y begins from the noise of the group's
    first particle, so start from noise.

    Args:
      operator: A, of one example, linear.
      y: one measurement for each group, leaves [b, ...].
      noise: s >= 0, standard deviation of the measurement noise.
      particles: g >= 2, static.
      v0: variance of the data, for the last step.
      threshold: a group is resampled when its effective size falls below this share of g.

    Raises:
      ValueError: if an argument is outside its range, rows do not make whole groups, or y or x do
        not have the shapes that the operator says.

    Dou & Song 2024, ICLR (openreview tplXNcHZs1).

    >>> from jaxdiff import inverse
    >>> filt = fps(inverse.matrix(jnp.eye(1, 2)), jnp.zeros((1, 1)), noise=0.0, particles=4)
    >>> [leaf.shape for leaf in filt.init(jnp.zeros((4, 2))).hist]
    [(4,), (4, 1)]
    """
    check_particles(particles, threshold)
    check_linear(operator, "fps", "steered")
    check_noise(noise)
    s, v0, linear = number(noise), number(v0), cast(Operator, operator)
    forward, adjoint = jax.vmap(linear.A), jax.vmap(linear.At)
    solve = jax.vmap(linear.gram_solve)

    def init(x: PyTree) -> State:
        return State(x, (start(x, particles), forward(_of_the_first(x, particles))))

    def path(now: Now, process: Any, path_t: PyTree, rows: PyTree, x: PyTree) -> PyTree:
        """y_s of every row, one for each group."""
        begun = combine((1.0, path_t), (scales(process, now.t)[0], rows))
        path_t = where(now.i == 0, begun, path_t)
        bridge = posterior(process, now.s, now.t)
        z = forward(_of_the_first(normal(fold(fold(now.key, SOLVER), 1), x), particles))
        return combine((bridge.on_x0, rows), (bridge.on_xt, path_t), (jnp.sqrt(bridge.var), z))

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        logw, path_t = state.hist
        est = denoise(state.x, now.t, now)
        (alpha, sigma), (alpha_s, sigma_s) = (scales(denoise.process, t) for t in (now.t, now.s))
        rows = for_each(y, state.x, particles)
        y_s = path(now, denoise.process, path_t, rows, state.x)
        bridge = posterior(denoise.process, now.s, now.t)
        mean = combine((bridge.on_x0, est.x0), (bridge.on_xt, state.x))
        left = v0 * sigma**2 / (v0 * alpha**2 + sigma**2)
        v = per_sample(jnp.where(sigma_s > 0, bridge.var, left), state.x)
        s2 = per_sample((alpha_s * s) ** 2, state.x)
        residual = misfit(operator, y_s, mean)
        weights = logw - 0.5 * dots(residual, solve(v, s2, residual))
        logw, mean = resample(now, weights, mean, particles=particles, below=threshold)
        drawn = jnp.sqrt(bridge.var), normal(fold(fold(now.key, SOLVER), 0), mean)
        free = combine((1.0, mean), drawn)
        n = normal(fold(fold(now.key, SOLVER), 2), y_s)
        blurred = jnp.where(sigma_s > 0, alpha_s * s, 0.0)
        seen = combine((1.0, misfit(operator, y_s, free)), (-blurred, n))
        x = combine((1.0, free), (v, adjoint(solve(v, s2, seen))))
        end = at_the_end(now)
        logw, x = resample(now, logw, x, particles=particles, below=end, draw=1)
        aux = {**est.aux, "log_weights": weights}
        return State(x, (logw, y_s)), est._replace(aux=aux)

    return Sampler(init, step)
