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
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Number, numeric, value_at
from jaxdiff.guidance.energy import spread
from jaxdiff.guidance.kernel import as_partial, no_jacobian
from jaxdiff.guidance.taps import stacked_taps
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
      edges: of ONE example, (taps, t) -> an edge map, such as `latent_edges`; `taps` as the tap
        kept them, without the batch axis.
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
            at = At(state.x, now.t, *scales(denoise.process, now.t), no_jacobian, now)
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


class _PerPixel:
    """A small network at every pixel of the stacked taps; equal by the size it puts them at."""

    def __init__(self, hw: tuple[int, int]) -> None:
        self.hw = hw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PerPixel) and self.hw == other.hw

    def __hash__(self) -> int:
        return hash((_PerPixel, self.hw))

    def __call__(self, mlp: Any, taps: dict[str, Array], t: Any) -> Array:
        pixels = stacked_taps(taps, self.hw)
        rows = jax.vmap(mlp, in_axes=(0, None))(pixels.reshape(-1, pixels.shape[-1]), t)
        return rows.reshape(*self.hw, -1)


def latent_edges(mlp: Callable[..., Array], hw: tuple[int, int]) -> Partial:
    """The latent edge predictor, for `sketch`: an MLP at every pixel of the stacked feature maps.

    Args:
      mlp: of ONE pixel, (features [sum c], t) -> [k]; a `Partial` if it carries parameters.
      hw: the size of the edge maps; taps are resized to it; static.

    Returns:
      (taps, t) -> edges [*hw, k], of one example.

    Voynov et al. 2022, arXiv:2211.13752.

    >>> edges = latent_edges(lambda features, t: t * features[:1], (2, 2))
    >>> edges({"up/0/0:block": jnp.ones((1, 1, 3))}, 0.5)[..., 0].tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    return Partial(_PerPixel(hw), as_partial(mlp))
