"""Classifier guidance: the gradient of a classifier that reads noisy samples.

Where log p(y | x_t) is known, Bayes' rule needs no Jacobian of the denoiser,

    grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t),
    x_0' = x_0 + (sigma^2/alpha) w grad_x log p(y | x_t),

exact at w = 1, for any solver: DDIM and the probability flow (algorithm 2) as well as ancestral
steps. Algorithm 1 moves the mean of an ancestral step instead, mu + w Sigma grad log p(y | x_t).
With r = 1 - SNR_t/SNR_s the guide moves that mean by alpha_s r (sigma_t^2/alpha_t) w grad, so
algorithm 1 is the guide with its scale times

    Sigma alpha_t / (alpha_s r sigma_t^2):
        (alpha_t/alpha_s) for the large variance Sigma = r sigma_t^2,
        (alpha_t/alpha_s) (sigma_s/sigma_t)^2 for the small one, Sigma = r sigma_s^2.

All agree as steps grow small, and the guide is right at any step: prefer it.

Dhariwal & Nichol 2021, arXiv:2105.05233, algorithms 1 and 2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Number, numeric, value_at
from jaxdiff.guidance.energy import Loss, spread
from jaxdiff.guidance.kernel import Guide, as_partial, edited, no_jacobian, tweedie_gain
from jaxdiff.process import posterior, scales
from jaxdiff.trees import combine, size
from jaxdiff.types import At, Estimate, Now, PyTree, Sampler, State


def _slope(loss: Any, each: Any, x: PyTree, t: Any) -> PyTree:
    """grad_x loss(x_t, t, *each), per sample."""
    b = size(x)
    times = jnp.broadcast_to(t, (b,)) if jnp.ndim(t) == 0 else jnp.asarray(t)
    return jax.vmap(jax.grad(loss))(x, times, *spread(each, b))


def _noisy(loss: Any, scale: Any, each: Any, est: Estimate, at: At) -> PyTree:
    weighted = combine((value_at(scale, at), _slope(loss, each, at.x, at.t)))
    return combine((1.0, est.x0), (-tweedie_gain(at), weighted))


def noisy(loss: Loss, scale: Number = 1.0, *, each: Sequence[PyTree] = ()) -> Guide:
    """Guide by a loss of the noisy sample: x_0' = x_0 - (sigma^2/alpha) scale grad_x loss(x_t, t).

    No Jacobian of the denoiser is taken. With loss = -log p(y | x_t) and scale 1 it is exact. For
    an embedder that was trained on noisy images, such as GLIDE's CLIP, give a loss of its answer.

    Args:
      loss: of ONE example, (x_t, t, *each) -> scalar; vmapped here.
      scale: a number, [b], or At -> scalar.
      each: what else the loss takes, trees of leaves [b, ...], or [1, ...] to serve every sample.

    Raises:
      ValueError: when called, if a leaf of `each` has another leading axis.

    Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 2; Nichol et al. 2021, GLIDE,
    arXiv:2112.10741, section 2.4.

    >>> from jaxdiff import exact, process
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> guided = noisy(lambda x, t: jnp.sum(x**2) / 8)(d)
    >>> float(guided(jnp.ones((1, 1)), 1.0).x0[0, 0])   # 1/2 - sigma^2 x / 4
    0.25
    """
    return edited(Partial(_noisy, as_partial(loss), numeric(scale), tuple(each)))


def _cross_entropy(logits: Any, x: PyTree, t: Array, label: Array) -> Array:
    return -jax.nn.log_softmax(logits(x, t))[label]


def _labels(label: Any) -> Array:
    label = jnp.atleast_1d(jnp.asarray(label))
    if not jnp.issubdtype(label.dtype, jnp.integer) or label.ndim != 1:
        raise ValueError(
            f"label is {label.dtype}{list(label.shape)}: give integers, one number or one per "
            "sample [b]"
        )
    return label


def classifier(logits: Callable[..., Array], label: Any, scale: Number = 1.0) -> Guide:
    """Classifier guidance: x_0' = x_0 + (sigma^2/alpha) scale grad_x log p(label | x_t).

    Args:
      logits: a noise-aware classifier of ONE example, (x_t, t) -> [classes].
      label: integers [b], or one for every sample.
      scale: w; 1 is Bayes' rule, above 1 sharper. A number, [b], or At -> scalar.

    Raises:
      ValueError: if label is not integers, () or [b].

    Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 2, for any solver.
    """
    return noisy(Partial(_cross_entropy, as_partial(logits)), scale, each=(_labels(label),))


def _small(process: Any, now: Now, est: Estimate) -> Array:
    return posterior(process, now.s, now.t).var


def ancestral_classifier(
    logits: Callable[..., Array],
    label: Any,
    scale: Number = 1.0,
    *,
    variance: Callable[..., Any] = _small,
) -> Callable[[Sampler], Sampler]:
    """Algorithm 1: x_s ~ N(mu + scale Sigma grad_x log p(label | x_t), Sigma), a correction.

    It wraps an ancestral sampler. `classifier` does better with few steps; see the top of the file.

    Args:
      logits: a noise-aware classifier of ONE example, (x_t, t) -> [classes].
      label: integers [b], or one for every sample.
      scale: s of the paper: a number, [b], or At -> scalar.
      variance: Sigma of the sampler, (process, now, estimate) -> (), [b], or a tree like x; by
        default the small one, of q(x_s | x_t, x_0).

    Raises:
      ValueError: if label is not integers, () or [b].

    Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 1.
    """
    loss, each = Partial(_cross_entropy, as_partial(logits)), (_labels(label),)
    scale = numeric(scale)

    def correct(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            new, est = sampler.step(now, denoise, state)
            at = At(state.x, now.t, *scales(denoise.process, now.t), no_jacobian, now)
            uphill = combine((-value_at(scale, at), _slope(loss, each, state.x, now.t)))
            shift = combine((variance(denoise.process, now, est), uphill))
            return State(combine((1.0, new.x), (1.0, shift)), new.hist), est

        return Sampler(sampler.init, step)

    return correct
