"""The variance of an ancestral step, between the two that DDPM's chain allows.

For data that are one point the reverse step t -> s has the posterior's variance, "small"; for data
that are standard normal the forward kernel's, "large":

    small = sigma_s^2 (1 - SNR_t/SNR_s),    large = sigma_t^2 (1 - SNR_t/SNR_s),
    learned range: log var = (1 + v)/2 log large + (1 - v)/2 log small,    v in [-1, 1].

A step to sigma = 0 draws nothing, so the logs that others clip there do not come up: their "log"
variants are these numbers.

Ho et al. 2020, arXiv:2006.11239, section 3.2; Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.process import Process, posterior, transition
from jaxdiff.trees import fit
from jaxdiff.types import Estimate, Now, PyTree

Variance = Callable[[Process, Now, Estimate], PyTree]
"""(process, now, estimate) -> the variance of x_s given x_t: (), [b], or a tree like x."""


def fixed_small(process: Process, now: Now, est: Estimate) -> Array:
    """The posterior's variance: sigma_s^2 (1 - SNR_t/SNR_s).

    Ho et al. 2020, arXiv:2006.11239, eq. (7).

    >>> from jaxdiff.process import edm
    >>> float(fixed_small(edm(), Now(2.0, 1.0, 0, 1, None, {}), Estimate(jnp.zeros(1))))
    0.75
    """
    return posterior(process, now.s, now.t).var


def fixed_large(process: Process, now: Now, est: Estimate) -> Array:
    """The forward kernel's variance, beta_t: sigma_t^2 (1 - SNR_t/SNR_s).

    Ho et al. 2020, arXiv:2006.11239, section 3.2.

    >>> from jaxdiff.process import edm
    >>> float(fixed_large(edm(), Now(2.0, 1.0, 0, 1, None, {}), Estimate(jnp.zeros(1))))
    3.0
    """
    return transition(process, now.s, now.t).var


def learned_range(process: Process, now: Now, est: Estimate) -> PyTree:
    """What the network chose between small (v = -1) and large (v = 1), by its `aux["v"]`.

    var = small^((1 - v)/2) large^((1 + v)/2), elementwise; v a tree like x.

    Raises:
      ValueError: if the estimate carries no "v" in aux.

    Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15).

    >>> from jaxdiff.process import edm
    >>> est = Estimate(jnp.zeros((1, 2)), aux={"v": jnp.array([[0.0, 1.0]])})
    >>> learned_range(edm(), Now(2.0, 1.0, 0, 1, None, {}), est).tolist()   # sqrt(3 * 0.75), 3
    [[1.5, 3.0]]
    """
    if "v" not in est.aux:
        raise ValueError(
            f"the estimate carries {sorted(est.aux)} in aux, and no 'v': the denoiser of a network "
            "with a learned range puts it there, in [-1, 1] and shaped like x"
        )
    small, large = fixed_small(process, now, est), fixed_large(process, now, est)
    low, spread = jnp.log(small), jnp.log(large) - jnp.log(small)

    def between(v: Array, low: Array, spread: Array) -> Array:
        return jnp.exp(low + (1 + v) / 2 * spread)

    v = est.aux["v"]
    return jax.tree.map(between, v, fit(low, v), fit(spread, v))
