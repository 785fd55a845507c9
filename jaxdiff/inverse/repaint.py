"""RePaint: what is seen is put back, at the noise level of the step, and time is travelled.

    x_s <- mask (alpha_s y + sigma_s z) + (1 - mask) x_s,

with the loop's `travel` rows, which let the two parts come to terms.

Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.inverse.operators import check_mask
from jaxdiff.process import perturb
from jaxdiff.samplers import after
from jaxdiff.trees import fold, normal
from jaxdiff.types import GUIDE, Estimate, Now, PyTree, Sampler


def _merge(mask: Array, y: Array, now: Now, process: Any, x: Array, est: Estimate) -> PyTree:
    if y.shape != x.shape:
        raise ValueError(f"y of shape {y.shape} for samples of shape {x.shape}: they must agree")
    seen = perturb(process, now.s, y, normal(fold(now.key, GUIDE), y))
    return jnp.where(mask[None], seen, x)


def repaint(mask: Array, y: Array, shape: tuple[int, ...]) -> Callable[[Sampler], Sampler]:
    """A correction that puts the seen pixels back after every step; use it with `travel` rows.

    Args:
      mask: [h, w, 1] or [h, w, c], 1 where the pixel is seen.
      y: the image, seen where the mask is 1, [b, h, w, c].
      shape: (h, w, c).

    Raises:
      ValueError: if the mask or y do not have the shape of the images.

    Lugmayr et al. 2022, arXiv:2201.09865, eq. (8).

    >>> from jaxdiff import samplers
    >>> fix = repaint(jnp.ones((2, 2, 1)), jnp.zeros((1, 2, 2, 1)), (2, 2, 1))
    >>> fix(samplers.ddpm()).init(jnp.zeros((1, 2, 2, 1))).hist
    ()
    """
    mask = jnp.asarray(mask)
    check_mask(mask, shape)
    fix = partial(_merge, mask.astype(bool), jnp.asarray(y))
    return after(fix)
