"""Multistep sampling of consistency models: jump to an estimate of x_0, noise again, repeat.

A consistency function f(x, t) answers with the END of the flow through x, not with the mean of
x_0; here it comes as a Denoiser. With eps = (x - alpha f) / sigma,

    LCM:  x_s = alpha_s f + sigma_s z
    TCD:  x_r = alpha_r f + sigma_r eps,   x_s ~ q(x_s | x_r),   r = (1 - gamma) of s,

so that TCD with gamma = 1 is LCM and with gamma = 0 DDIM. With the denoiser of a flow in the place
of f, LCM is the stochastic sampler of flow matching.

Song et al. 2023, arXiv:2303.01469, algorithm 1; Luo et al. 2023, arXiv:2310.04378, algorithm 3;
Zheng et al. 2024, arXiv:2402.19159, "strategic stochastic sampling".
"""

from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.process import scales
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.loop import renoise
from jaxdiff.trees import combine, fold, normal
from jaxdiff.types import SOLVER, Estimate, Now, Sampler, State, number


def lcm() -> Sampler:
    """Multistep consistency sampling: x_s = alpha_s f(x_t, t) + sigma_s z.

    Song et al. 2023, arXiv:2303.01469, algorithm 1; Luo et al. 2023, arXiv:2310.04378, algorithm 3.

    >>> import jax.numpy as jnp
    >>> lcm().init(jnp.zeros((2, 3))).hist
    ()
    """

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est = denoise(state.x, now.t, now)
        alpha, sigma = scales(denoise.process, now.s)
        z = normal(fold(now.key, SOLVER), state.x)
        return State(combine((alpha, est.x0), (sigma, z))), est

    return Sampler(State, step)


def tcd(gamma: float | Array = 0.3) -> Sampler:
    """Strategic stochastic sampling: down to r <= s without noise, then noised from r to s.

    r = t_clean + (1 - gamma) (s - t_clean), in the process's own time.

    Args:
      gamma: in [0, 1]; a Python 0 draws no noise at all, 1 is `lcm`.

    Raises:
      ValueError: if gamma lies outside [0, 1].

    Zheng et al. 2024, arXiv:2402.19159, "strategic stochastic sampling".

    >>> import jax.numpy as jnp
    >>> tcd(0.3).init(jnp.zeros((2, 3))).hist
    ()
    """
    still = isinstance(gamma, int | float) and gamma == 0
    if isinstance(gamma, int | float) and not 0 <= gamma <= 1:
        raise ValueError(f"gamma={gamma}: 0 is deterministic, 1 noises afresh; give one in [0, 1]")

    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        est, process = denoise(state.x, now.t, now), denoise.process
        below = process.t_clean + (1 - number(gamma)) * (now.s - process.t_clean)
        alpha, sigma = scales(process, below)
        x = combine((alpha, est.x0), (sigma, noise_of(denoise, state.x, now.t, est.x0)))
        if still:
            return State(x), est
        return State(renoise(fold(now.key, SOLVER), process, below, now.s, x)), est

    return Sampler(State, step)
