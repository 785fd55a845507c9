"""Sketch guidance: the edges that a network has in mind, brought to those of a drawing.

A latent edge predictor E, a small MLP applied to every pixel of the U-Net's stacked feature maps,
says what edges x_t will have. After a step to x_s, with L = ||E(taps(x_t), t) - e||^2,

    x_s <- x_s - beta (||x_t - x_s|| / ||grad_{x_t} L||) grad_{x_t} L,

so the move is beta times as long as the step, whatever the loss. Norms are per sample.

Voynov, Aberman & Cohen-Or 2022, arXiv:2211.13752, the section on sketch-guided sampling.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Number, numeric, value_at
from jaxdiff.guidance.energy import spread
from jaxdiff.guidance.kernel import _no_jacobian
from jaxdiff.process import scales
from jaxdiff.trees import combine, dots, size
from jaxdiff.types import At, Estimate, Now, PyTree, Sampler, State


def sketch(
    edges: Callable[..., Array], target: Array, beta: Number
) -> Callable[[Sampler], Sampler]:
    """A correction towards a drawing, by a predictor that reads the network's taps; ONE pass.

    The denoiser is made of `tapped(model, ...)`; a schedule `At -> scalar` that is 0 at low noise
    leaves the details to the network, as the paper does.

    Args:
      edges: of ONE example, (taps, t) -> an edge map; `taps` as the tap kept them, without the
        batch axis. `stacked_taps` puts feature maps side by side.
      target: the edge maps of the drawings, [b, ...], or [1, ...] to serve every sample.
      beta: the length of the move over that of the step: a number, [b], or At -> scalar.

    Raises:
      ValueError: when called, if the estimate carries no taps, or target has another shape than the
        predicted edges.

    Voynov et al. 2022, arXiv:2211.13752.
    """
    beta = numeric(beta)

    def correct(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            def ahead(x: PyTree) -> tuple[Array, Any]:
                new, est = sampler.step(now, denoise, State(x, state.hist))
                return jnp.sum(_miss(edges, target, est, x, now.t)), (new, est)

            slope, (new, est) = jax.grad(ahead, has_aux=True)(state.x)
            at = At(state.x, now.t, *scales(denoise.process, now.t), _no_jacobian, now)
            walked = combine((1.0, state.x), (-1.0, new.x))
            length = jnp.sqrt(dots(slope, slope))
            move = jnp.sqrt(dots(walked, walked)) / jnp.where(length > 0, length, 1.0)
            x = combine((1.0, new.x), (-value_at(beta, at) * move, slope))
            return State(x, new.hist), est

        return Sampler(sampler.init, step)

    return correct


def _miss(edges: Any, target: Any, est: Estimate, x: PyTree, t: Any) -> Array:
    """||E(taps, t) - e||^2, [b]."""
    if "taps" not in est.aux:
        raise ValueError(
            "the estimate carries no taps: make the denoiser of tapped(model, tap), with a tap "
            "that keeps the feature maps which the edge predictor reads"
        )
    b = size(x)
    found = jax.vmap(edges)(est.aux["taps"], jnp.broadcast_to(t, (b,)))
    (wanted,) = spread((target,), b)
    if wanted.shape != found.shape:
        raise ValueError(f"target of shape {wanted.shape} for edges of shape {found.shape}")
    return jnp.sum(((found - wanted) ** 2).reshape(b, -1), axis=1)
