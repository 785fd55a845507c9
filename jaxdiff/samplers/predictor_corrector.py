"""Predictor-corrector samplers: any predictor with any corrector.

Before a step t -> s, made by any sampler, a corrector moves the sample at the level t. Of a grid of
n steps it acts at the n levels that have noise, the first included, as in the published code; the
paper's algorithms leave the first out.

    corrected(langevin(snr=0.16))(reverse_diffusion())    algorithms 2 and 4 (VE), 3 and 5 (VP)
    corrected(langevin(snr=0.16))(ddpm())                 with ancestral sampling, also for VE

Song et al. 2021, arXiv:2011.13456, algorithms 1 to 5 and appendix E, F.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiff.denoise import Denoiser
from jaxdiff.process import scales, transition
from jaxdiff.samplers.langevin import Corrector
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, Sampler, State


def corrected(corrector: Corrector) -> Callable[[Sampler], Sampler]:
    """A wrapper of samplers: correct at t, then step t -> s.

    Noise comes from the keys of `churn`; one wrapper to a sampler, two would draw the same.

    Args:
      corrector: `langevin(...)` or `renewal(...)`.

    Returns:
      Sampler -> Sampler, for solvers that keep no history.

    Raises:
      ValueError: at the first step, if the sampler keeps a history (it would not fit the new x).

    Song et al. 2021, arXiv:2011.13456, algorithm 1.

    >>> from jaxdiff import samplers
    >>> pc = corrected(samplers.langevin(snr=0.16))(samplers.ddpm())
    >>> pc.init(jnp.zeros((2, 3))).x.shape
    (2, 3)
    """

    def wrapped(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            if state.hist != ():
                raise ValueError("corrected: this sampler keeps a history; wrap heun, ddim or ddpm")
            x, est = corrector(now, denoise, state.x)
            state, _ = sampler.step(now, denoise, State(x))
            return state, est

        return Sampler(sampler.init, step)

    return wrapped


def reverse_diffusion() -> Sampler:
    """The reverse SDE, discretised as the forward one is: x_s = (2 - k) x + v score + sqrt(v) z,

    with x_t = k x_s + sqrt(v) z the forward kernel. A last step to clean data takes x_0.

    Song et al. 2021, arXiv:2011.13456, eq. (46), algorithms 2 and 3.

    >>> reverse_diffusion().init(jnp.zeros((2, 3))).hist
    ()
    """

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        (alpha, sigma), (_, sigma_s) = (scales(denoise.process, t) for t in (now.t, now.s))
        kernel = transition(denoise.process, now.s, now.t)
        pull, last = kernel.var / sigma**2, sigma_s == 0
        on_x = jnp.where(last, 0.0, 2 - kernel.shrink - pull)
        on_x0, std = jnp.where(last, 1.0, alpha * pull), jnp.where(last, 0.0, jnp.sqrt(kernel.var))
        z = normal(fold(now.key, SOLVER), state.x)
        return State(combine((on_x, state.x), (on_x0, est.x0), (std, z))), est

    return Sampler(State, step)
