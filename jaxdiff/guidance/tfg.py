"""TFG: one step that the training-free methods are parameter choices of.

With f~(x_0) = mean_k exp(-loss(x_0 + gamma r n_k)) (Monte-Carlo smoothing) and x_0 = x_0(x_t),

    D_t = rho grad_{x_t} log f~(x_0(x_t))                    through the network, one pass,
    D_0 <- D_0 + mu grad log f~(x_0 + D_0), N_iter times     on x_0 alone,
    x_s = (the sampler's step) + (alpha_s/alpha_t) D_t + alpha_s D_0,

and N_recur walks of every step, which are `travel(ts, repeat=N_recur)` rows of the loop. The
network is called as often as the sampler calls it; its Jacobian is taken only where rho is not 0.

    DPS       rho
    LGD-MC    rho, gamma, samples
    MPGD      mu                       (its autoencoder belongs into the loss)
    FreeDoM   rho, N_recur
    UGD       rho, mu, N_iter, N_recur

Ye et al. 2024, arXiv:2409.15761, algorithm 1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser, Number, value_at
from jaxdiff.guidance.energy import Loss
from jaxdiff.guidance.kernel import as_partial, no_jacobian
from jaxdiff.guidance.smoothed import check_samples, drawn, unit_spread, uphill
from jaxdiff.process import scales
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, Now, PyTree, Sampler, State

Correction = Callable[[Sampler], Sampler]


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def tfg(
    loss: Loss,
    *,
    rho: Number = 0.0,
    mu: Number = 0.0,
    iterations: int = 1,
    gamma: Number = 0.0,
    samples: int = 1,
    each: Sequence[PyTree] = (),
) -> Correction:
    """The unified step of training-free guidance, a correction; walk `travel` rows to recur.

    x_s = step(x_t) + (alpha_s/alpha_t) rho grad_{x_t} log f~(x_0(x_t)) + alpha_s D_0.

    Steps are per step: they act more with more of them. What is a Python 0 is not computed.

    Args:
      loss: of ONE example, (x_0, *each) -> scalar, -log f.
      rho: the step at x_t, a number, [b], or At -> scalar.
      mu: the step at x_0, a number, [b], or At -> scalar.
      iterations: N_iter >= 0, of the steps at x_0; static.
      gamma: the deviation of the smoothing, times sigma/sqrt(alpha^2 + sigma^2).
      samples: K >= 1, of the smoothing; static. They are drawn once a step.
      each: what else the loss takes, trees of leaves [b, ...], or [1, ...] to serve every sample.

    Raises:
      ValueError: if iterations < 0, samples < 1, or a gamma that is a number is below 0.

    Ye et al. 2024, arXiv:2409.15761, algorithm 1.
    """
    _check(iterations, gamma, samples)
    still, flat = _is_zero(rho), _is_zero(mu) or iterations == 0
    climber = functools.partial(_climber, as_partial(loss), gamma, samples, tuple(each))

    def correct(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            new, est, back = _ahead(sampler, now, denoise, state, still)
            at = At(state.x, now.t, *scales(denoise.process, now.t), no_jacobian, now)
            alpha, climb = scales(denoise.process, now.s)[0], climber(at)
            terms: list[tuple[Any, PyTree]] = [(1.0, new.x)]
            if not still:
                slope = combine((value_at(rho, at), back(climb(est.x0))))
                terms.append((_ratio(alpha, at.alpha), slope))
            if not flat:
                terms.append((alpha, _climbed(climb, est.x0, value_at(mu, at), iterations)))
            return State(combine(*terms), new.hist), est

        return Sampler(sampler.init, step)

    return correct


def _climber(
    loss: Any, gamma: Any, samples: int, each: tuple[PyTree, ...], at: At
) -> Callable[[PyTree], PyTree]:
    """x_0 -> grad log f~(x_0), of the same draws each time it is asked in a step."""
    if _is_zero(gamma):
        zeros = functools.partial(jax.tree.map, lambda leaf: jnp.zeros_like(leaf[:, None]))
        return lambda x0: uphill(loss, x0, 0.0, zeros(x0), each)
    r = value_at(gamma, at) * unit_spread(at)
    return lambda x0: uphill(loss, x0, r, drawn(at.now, x0, samples), each)


def _check(iterations: int, gamma: Any, samples: int) -> None:
    check_samples(samples)
    if iterations < 0:
        raise ValueError(f"iterations={iterations}: the number of steps at x_0 is at least 0")
    if not callable(gamma) and not isinstance(gamma, Tracer) and not np.all(np.asarray(gamma) >= 0):
        raise ValueError(f"gamma={gamma}: a deviation is at least 0")


def _ratio(alpha_s: Array, alpha_t: Array) -> Array:
    """alpha_s/alpha_t, and 0 where alpha_t = 0: there x_t knows nothing of x_0."""
    return jnp.where(alpha_t > 0, alpha_s / jnp.where(alpha_t > 0, alpha_t, 1.0), 0.0)


def _ahead(sampler: Sampler, now: Now, denoise: Denoiser, state: State, still: bool) -> Any:
    """The sampler's step, its estimate, and what takes a cotangent at x_0 to one at x_t."""
    if still:
        return *sampler.step(now, denoise, state), no_jacobian

    def ahead(x: PyTree) -> tuple[PyTree, Any]:
        new, est = sampler.step(now, denoise, State(x, state.hist))
        return est.x0, (new, est)

    _, backward, (new, est) = jax.vjp(ahead, state.x, has_aux=True)
    return new, est, lambda cotangent: backward(cotangent)[0]


def _climbed(climb: Callable[[PyTree], PyTree], x0: PyTree, mu: Any, iterations: int) -> PyTree:
    """D_0 after N_iter steps."""

    def body(shift: PyTree, _: Any) -> tuple[PyTree, None]:
        return combine((1.0, shift), (mu, climb(combine((1.0, x0), (1.0, shift))))), None

    zero = jax.tree.map(jnp.zeros_like, x0)
    return scan(body, zero, jnp.arange(iterations))[0]


def tfg_dps(loss: Loss, rho: Number, *, each: Sequence[PyTree] = ()) -> Correction:
    """DPS as a case of TFG: a step at x_t alone.

    Chung et al. 2023, arXiv:2209.14687; as in Ye et al. 2024, arXiv:2409.15761.
    """
    return tfg(loss, rho=rho, each=each)


def tfg_lgd(
    loss: Loss, rho: Number, *, gamma: Number = 1.0, samples: int = 8, each: Sequence[PyTree] = ()
) -> Correction:
    """LGD-MC as a case of TFG: a step at x_t, of the smoothed loss.

    Song et al. 2023, ICML; as in Ye et al. 2024, arXiv:2409.15761.
    """
    return tfg(loss, rho=rho, gamma=gamma, samples=samples, each=each)


def tfg_mpgd(loss: Loss, mu: Number, *, each: Sequence[PyTree] = ()) -> Correction:
    """MPGD as a case of TFG: a step at x_0 alone, without the network's Jacobian.

    He et al. 2023, arXiv:2311.16424; as in Ye et al. 2024, arXiv:2409.15761.
    """
    return tfg(loss, mu=mu, each=each)


def tfg_freedom(loss: Loss, rho: Number, *, each: Sequence[PyTree] = ()) -> Correction:
    """FreeDoM as a case of TFG: DPS's step, on `travel` rows that repeat.

    Yu et al. 2023, arXiv:2303.09833; as in Ye et al. 2024, arXiv:2409.15761.
    """
    return tfg(loss, rho=rho, each=each)


def tfg_ugd(
    loss: Loss, rho: Number, mu: Number, *, iterations: int = 1, each: Sequence[PyTree] = ()
) -> Correction:
    """Universal guidance as a case of TFG: forward at x_t, backward at x_0, on `travel` rows.

    Bansal et al. 2023, arXiv:2302.07121; as in Ye et al. 2024, arXiv:2409.15761.
    """
    return tfg(loss, rho=rho, mu=mu, iterations=iterations, each=each)
