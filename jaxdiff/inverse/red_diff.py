"""RED-diff: the restored image as the mean of a Gaussian, found by stochastic optimisation.

The variational problem min_q KL(q || p(x_0 | y)) over q = N(mu, small I) has the loss

    - log p(y | mu) + E_t,eps [ lambda (sigma_t/alpha_t) <stop(eps_hat(x_t, t) - eps), mu> ],
    x_t = alpha_t mu + sigma_t eps,

whose second gradient is the mismatch of the network's noise with the one that was added: a
regularisation by denoising, without the network's Jacobian. Adam walks the levels from noisy to
clean. It seeks a mode, not samples.

Mardani, Song, Kautz & Vahdat 2023, arXiv:2305.04391, section 3 and algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, Num

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_positive
from jaxdiff.inverse.moves import log_likelihood
from jaxdiff.inverse.operators import Measurement
from jaxdiff.inverse.ranges import check_range_of
from jaxdiff.process import perturb, scales
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import PyTree, Scalar, number


def red_diff(
    keys: Key[Array, " b"],
    denoise: Denoiser,
    ts: Num[Array, " m"],
    x: PyTree,
    operator: Measurement,
    y: PyTree,
    *,
    noise: Any,
    weight: Scalar = 0.25,
    rate: Scalar = 0.1,
) -> PyTree:
    """RED-diff: one evaluation and one step of Adam at each level; no network Jacobian.

    Args:
      keys: [b], one per sample.
      denoise: of the prior.
      ts: [n] levels, one step each, from noisy to clean (any order is taken); alpha and sigma > 0.
      x: mu to start from, for instance A^+ y, leaves [b, ...].
      operator: A, of one example, linear or not.
      y: measurements, leaves [b, ...].
      noise: s > 0, or a record with `log_prob`.
      weight: lambda. The paper's loss has no 1/(2 s^2) before its misfit: its lambda is 2 s^2 times
        this one.
      rate: of Adam.

    Returns:
      mu, like x.

    Raises:
      ValueError: if weight or rate is not positive, or y is quite outside what the operator makes
        of the denoiser's value range.

    Mardani et al. 2023, arXiv:2305.04391, algorithm 1.
    """
    check_positive("weight", weight)
    check_positive("rate", rate)
    check_range_of(operator, y, denoise.span, noise)
    likelihood, adam = log_likelihood(operator, y, noise), optax.adam(number(rate))

    def step(carry: tuple[PyTree, Any], row: Any) -> tuple[tuple[PyTree, Any], None]:
        (mu, state), (t, k) = carry, row
        alpha, sigma = scales(denoise.process, t)
        eps = normal(fold(keys, k), mu)
        x_t = perturb(denoise.process, t, mu, eps)
        off = combine((alpha / sigma, mu), (-alpha / sigma, denoise(x_t, t).x0))  # eps_hat - eps
        misfit = jax.grad(lambda mu: -jnp.sum(likelihood(mu)))(mu)
        slope = combine((1.0, misfit), (number(weight) * sigma / alpha, off))
        change, state = adam.update(slope, state)
        return (combine((1.0, mu), (1.0, change)), state), None

    return scan(step, (x, adam.init(x)), (ts, jnp.arange(ts.shape[0])))[0][0]
