"""RePaint: what is seen is put back, at the noise level of the step, and time is travelled.

    x_s <- mask (alpha_s y + sigma_s z) + (1 - mask) x_s,

with the loop's `travel` rows, which let the two parts come to terms.

Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.denoise import Denoiser
from jaxdiff.inverse.doors import check_picture
from jaxdiff.inverse.operators import check_mask
from jaxdiff.process import perturb
from jaxdiff.trees import fold, normal
from jaxdiff.types import GUIDE, Estimate, Now, Sampler, State


def repaint(mask: Array, y: Array, shape: tuple[int, ...]) -> Callable[[Sampler], Sampler]:
    """A correction that puts the seen pixels back after every step; use it with `travel` rows.

    Args:
      mask: [h, w, 1] or [h, w, c], 1 where the pixel is seen.
      y: the image, seen where the mask is 1, [b, h, w, c].
      shape: (h, w, c).

    Raises:
      ValueError: if the mask or y do not have the shape of the images, or y is quite outside the
        denoiser's value range where it is seen.

    Lugmayr et al. 2022, arXiv:2201.09865, eq. (8).

    >>> from jaxdiff import samplers
    >>> fix = repaint(jnp.ones((2, 2, 1)), jnp.zeros((1, 2, 2, 1)), (2, 2, 1))
    >>> fix(samplers.ddpm()).init(jnp.zeros((1, 2, 2, 1))).hist
    ()
    """
    mask = jnp.asarray(mask)
    check_mask(mask, shape)
    seen, y = mask.astype(bool)[None], jnp.asarray(y)

    def correct(sampler: Sampler) -> Sampler:
        def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
            check_picture(y, state.x, denoise.span, seen)
            state, est = sampler.step(now, denoise, state)
            noisy = perturb(denoise.process, now.s, y, normal(fold(now.key, GUIDE), y))
            return State(jnp.where(seen, noisy, state.x), state.hist), est

        return Sampler(sampler.init, step)

    return correct
