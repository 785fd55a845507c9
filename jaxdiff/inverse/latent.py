"""Latent diffusion: a measurement of what a decoder makes, and PSLD's term that glues the two.

A measurement of pixels is one of latents, A o D, which is not linear: whatever takes a `Nonlinear`
takes it. Many latents decode to images that fit y, and the gradient may lead to one that no image
has: PSLD asks besides that z_0 be the code of the image that y completes,

    log p(y | z_t) about - ||y - A D(z_0)||^2 / (2 var)
                         - gamma ||z_0 - E(A^+ y + (I - A^+ A) D(z_0))||^2 / (2 var),

both through the network and the decoder. With D = E = 1 and orthonormal rows of A the second is
gamma times the first.

Rout et al. 2023, arXiv:2307.00619, section 3; there A^T stands for A^+, and the two norms have a
step size each.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Number, numeric, value_at
from jaxdiff.guidance import Guide, pulled
from jaxdiff.inverse.doors import check_linear, check_noise
from jaxdiff.inverse.dps import _inflated, one_over
from jaxdiff.inverse.gaussian import misfit
from jaxdiff.inverse.operators import Measurement, Nonlinear
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, PyTree, number


def _decoded(A: Any, decode: Any, z: PyTree) -> PyTree:
    return A(jax.checkpoint(decode)(z))


def as_partial(fn: Callable[..., Any]) -> Partial:
    return fn if isinstance(fn, Partial) else Partial(fn)


def latent(operator: Measurement, decode: Callable[[PyTree], PyTree], shape: Any) -> Nonlinear:
    """The measurement z -> A(decode(z)) of latents; the decoder is recomputed, not remembered.

    Args:
      operator: A, of one image.
      decode: latent -> image of ONE example, e.g. `lambda z: vae(z[None])[0]`; a `Partial` of a
        module-level function if the operator is to be an argument under `jit`.
      shape: the shape of one latent, or a tree of shapes.

    >>> import jax.numpy as jnp
    >>> from jaxdiff.inverse import matrix
    >>> double = latent(matrix(jnp.eye(2)), lambda z: 2.0 * z, (2,))
    >>> double.A(jnp.ones(2)).tolist()
    [2.0, 2.0]
    """
    return Nonlinear(Partial(_decoded, operator.A, as_partial(decode)), shape)


def _gap(operator: Any, decode: Any, encode: Any, y: PyTree, z: PyTree) -> PyTree:
    """z - E(A^+ y + (I - A^+ A) D(z)), one example."""
    image = jax.checkpoint(decode)(z)
    rest = combine((1.0, y), (-1.0, operator.A(image)))
    return combine((1.0, z), (-1.0, encode(combine((1.0, image), (1.0, operator.pinv(rest))))))


def _psld(
    operator: Any, decode: Any, encode: Any, y: Any, var: Any, gamma: Any, est: Estimate, at: At
) -> PyTree:
    def both(z: PyTree) -> tuple[PyTree, PyTree]:
        image = jax.vmap(jax.checkpoint(decode))(z)
        residual = misfit(operator, y, image)
        return residual, jax.vmap(Partial(_gap, operator, decode, encode))(y, z)

    (residual, gaps), back = jax.vjp(both, est.x0)
    slope = back((residual, combine((value_at(gamma, at), gaps))))[0]
    return combine((-one_over(var, at), slope))


def psld(
    operator: Measurement,
    y: PyTree,
    *,
    decode: Callable[[PyTree], PyTree],
    encode: Callable[[PyTree], PyTree],
    noise: float | Array,
    gamma: Number = 0.1,
    var: Number | None = None,
) -> Guide:
    """PSLD: DPS through a decoder, and the gluing term; one backward pass of the network.

    Args:
      operator: A, of one image.
      y: measurements, leaves [b, ...].
      decode: latent -> image, of ONE example.
      encode: image -> latent, of ONE example.
      noise: s >= 0.
      gamma: weight of the gluing term, a number, [b], or At -> scalar.
      var: as in `dps`.

    Raises:
      ValueError: if the operator is not linear, noise < 0, or y does not have the shape that it
        says.

    Rout et al. 2023, arXiv:2307.00619, section 3.
    """
    check_linear(operator, "psld", "dps with latent(operator, decode, shape)")
    check_noise(noise)
    spread = Partial(_inflated, number(noise), number(1.0)) if var is None else numeric(var)
    ways = as_partial(decode), as_partial(encode)
    return pulled(Partial(_psld, operator, *ways, y, spread, numeric(gamma)))
