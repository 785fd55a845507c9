"""EDM's stochastic sampler, for any process and solver: noise a little, then step a little more.

Before a step from t the sample is noised to t' with sigma/alpha = (1 + gamma) times that of t,

    gamma = min(amount/n, sqrt(2) - 1)   where low <= sigma/alpha <= high, else 0,

and the solver steps from t' to s.

Karras et al. 2022, arXiv:2206.00364, algorithm 2.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiff.denoise import Denoiser
from jaxdiff.process import log_snr, time_of, transition
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import CHURN, Estimate, Now, Sampler, Scalar, State, number


def churn(
    amount: Scalar = 40.0, *, low: Scalar = 0.05, high: Scalar = 50.0, noise: Scalar = 1.003
) -> Callable[[Sampler], Sampler]:
    """A wrapper of samplers: churn(40.0)(heun()) is EDM's algorithm 2.

    Args:
      amount: S_churn, >= 0; divided by the number of steps. 0 changes nothing.
      low: S_tmin, in sigma/alpha.
      high: S_tmax, in sigma/alpha.
      noise: S_noise, the factor on the standard deviation of the new noise; 1 is exact.

    Returns:
      Sampler -> Sampler, for solvers that keep no history.

    Raises:
      ValueError: at the first step, if the sampler keeps a history (its steps would not fit).

    Karras et al. 2022, arXiv:2206.00364, algorithm 2; the defaults are those of ImageNet-64.

    >>> from jaxdiff.samplers import heun
    >>> churn(40.0)(heun()).init(jnp.zeros((2, 3))).x.shape
    (2, 3)
    """
    most, floor, ceiling, factor = map(number, (amount, low, high, noise))

    def wrapped(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            if state.hist != ():
                raise ValueError("churn: this sampler keeps a history; wrap heun, euler or ddim")
            process = denoise.process
            level = log_snr(process, now.t)
            ratio = jnp.exp(-level / 2)
            gamma = jnp.minimum(most / now.n, jnp.sqrt(2.0) - 1)
            gamma = jnp.where((ratio >= floor) & (ratio <= ceiling), gamma, 0.0)
            noisier = jnp.maximum(time_of(process, level - 2 * jnp.log1p(gamma)), now.t)
            t = jnp.where(gamma > 0, noisier, now.t)
            kernel = transition(process, now.t, t)  # nowhere to go from alpha = 0, where it is NaN
            shrink = jnp.where(gamma > 0, kernel.shrink, 1.0)
            std = factor * jnp.sqrt(jnp.where(gamma > 0, kernel.var, 0.0))
            x = combine((shrink, state.x), (std, normal(fold(now.key, CHURN), state.x)))
            return sampler.step(now._replace(t=t), denoise, State(x))

        return Sampler(sampler.init, step)

    return wrapped
