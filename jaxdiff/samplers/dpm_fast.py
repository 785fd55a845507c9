"""DPM-Solver-fast: single steps of order 3 as long as the budget of evaluations allows.

N evaluations make K = floor(N/3) + 1 steps, evenly spread in log(alpha/sigma):

    N = 3(K - 1):      K - 2 of order 3, then orders 2 and 1,
    N = 3(K - 1) + q:  K - 1 of order 3, then order q = 1 or 2.

Lu et al. 2022, arXiv:2206.00927, section 3.4 and appendix D.3.
"""

from jaxdiff.samplers.singlestep import singlestep
from jaxdiff.types import Sampler, Scalar


def dpm_fast(evaluations: int, eta: Scalar = 0.0, *, floor: Scalar = 0.0) -> Sampler:
    """DPM-Solver-fast, known as DPM fast.

    To be walked over `fast_steps(evaluations)` steps from t_max to t_min, spread evenly in log-SNR;
    one step more, of one evaluation, takes it to clean data: `uniform_lambda(process,
    fast_steps(evaluations) + 1)` is that grid. All orders share one compiled step.

    Args:
      evaluations: how often the denoiser is asked, down to t_min; at least 1.
      eta: in [0, 1]; a Python 0 draws no noise at all, 1 is ancestral.
      floor: see `singlestep`.

    Raises:
      ValueError: if evaluations < 1, or eta is not in [0, 1].

    Lu et al. 2022, arXiv:2206.00927, section 3.4.

    >>> import jax.numpy as jnp
    >>> dpm_fast(20).init(jnp.zeros((2, 3))).hist
    ()
    """
    return singlestep(_orders(evaluations), data=False, eta=eta, floor=floor)


def fast_steps(evaluations: int) -> int:
    """The number of steps that `dpm_fast(evaluations)` makes of its evaluations.

    >>> [fast_steps(n) for n in (1, 2, 3, 10, 20)]
    [1, 1, 2, 4, 7]
    """
    return len(_orders(evaluations))


def _orders(evaluations: int) -> tuple[int, ...]:
    if evaluations < 1:
        raise ValueError(f"evaluations={evaluations}: at least one is needed")
    threes, left = divmod(evaluations, 3)
    return (3,) * threes + (left,) if left else (3,) * (threes - 1) + (2, 1)
