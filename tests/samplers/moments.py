"""What samplers make of a Gaussian on the line, without a sample: their steps are affine there."""

import jax.numpy as jnp

from jaxdiff import samplers


def one_hot(count, b, first):
    """[count, b, 1]: draw k is 1 in sample first + k, and 0 elsewhere."""
    return jnp.eye(count, b, first)[..., None]


def moments(denoise, sampler, rows, mean, var, *, draws=0):
    """Mean and variance of x at the end, started from N(mean, var); exact for affine steps.

    x_end = b + a x_T + sum_k c_k z_k: sample 0 is all zero and gives b, sample 1 starts from 1 and
    gives a, and sample 2 + k draws z_k = 1 and gives c_k. A row has one draw of the solver and
    `draws` of a corrector.
    """
    n = rows.k.shape[0]
    b = 2 + n * (1 + draws)
    noise = {"solver": one_hot(n, b, 2)}
    if draws:
        noise["churn"] = one_hot(n * draws, b, 2 + n).reshape(n, draws, b, 1)
    start = jnp.zeros((b, 1)).at[1].set(1.0)
    end = samplers.run(samplers.tape(**noise), denoise, sampler, rows, start)[:, 0]
    slopes = end[1:] - end[0]
    return end[0] + slopes[0] * mean, slopes[0] ** 2 * var + jnp.sum(slopes[1:] ** 2)


def at(proc, dist, t):
    """Mean and variance of x_t on the line."""
    alpha, sigma = proc.alpha(jnp.asarray(t)), proc.sigma(jnp.asarray(t))
    return alpha * dist.means[0, 0], alpha**2 * dist.values[0, 0] + sigma**2
