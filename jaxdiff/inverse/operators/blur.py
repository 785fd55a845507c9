"""Blurs y = k * x, circular: what leaves the image on one side comes back on the other.

With F the orthonormal Fourier transform and H = F(k), A = F^* diag(H) F, so that

    z = F x (complex),   values = |H|,   U = F^* diag(H / |H|),
    gram_solve(r2, s2, v) = F^* F v / (r2 |H|^2 + s2).

Real images stay real, since H(-k) = conj H(k). A blur that varies over the image mixes a few blurs,
y = sum_i w_i (k_i * x) with weights for every pixel; no closed form diagonalises it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Complex, Float

from jaxdiff.inverse.operators.kernel import Operator, Svd, image_shape
from jaxdiff.inverse.operators.solve import CG_STEPS, derived, over, spectral


def fft(x: Array) -> Array:
    """The orthonormal Fourier transform over the first two axes."""
    return jnp.fft.fft2(x, axes=(0, 1), norm="ortho")


def ifft(z: Array) -> Array:
    """Its inverse."""
    return jnp.fft.ifft2(z, axes=(0, 1), norm="ortho")


def _real(z: Array) -> Array:
    return ifft(z).real


def transfer(kernel: Float[Array, "k l"], shape: tuple[int, ...]) -> Complex[Array, "h w 1"]:
    """H, the factor of each frequency, of a kernel centred in its pixel (k // 2, l // 2).

    Raises:
      ValueError: if the kernel is larger than the image.
    """
    (h, w, _), (k, l) = image_shape(shape), kernel.shape
    if k > h or l > w:
        raise ValueError(
            f"kernel of shape {kernel.shape} for images of shape {tuple(shape)}: it may not be "
            "larger than the image; crop it"
        )
    whole = jnp.pad(kernel, ((0, h - k), (0, w - l)))
    return jnp.fft.fft2(jnp.roll(whole, (-(k // 2), -(l // 2)), axis=(0, 1)))[..., None]


def filtered(h: Array, x: Array) -> Array:
    """k * x of real images, from H."""
    return ifft(h * fft(x)).real


def _gram(values: Array, r2: Any, s2: Any, v: Array) -> Array:
    return _real(over(1.0, r2 * values**2 + s2) * fft(v))


def _turn(phase: Array, y: Array) -> Array:
    return phase * fft(y)


def _turn_back(phase: Array, z: Array) -> Array:
    return _real(phase * z)


def blur(kernel: Float[Array, "k l"], shape: tuple[int, ...]) -> Operator:
    """A blur by any kernel, circular, all in closed form.

    Args:
      kernel: [k, l], centred in its pixel (k // 2, l // 2), the same for all channels.
      shape: (h, w, c) of one image.

    Raises:
      ValueError: if the kernel is larger than the image.

    >>> from jaxdiff.inverse import motion_kernel
    >>> op = blur(motion_kernel(3.0, 0.0, 3), (4, 4, 1))
    >>> bool(jnp.allclose(op.A(jnp.ones((4, 4, 1))), 1.0, atol=1e-6))
    True
    """
    h = transfer(jnp.asarray(kernel, float), shape)
    size = jnp.abs(h)
    values = jnp.where(size > size.max() * 4 * jnp.finfo(size.dtype).eps, size, 0.0)
    phase = jnp.where(values > 0, h / jnp.where(values > 0, values, 1.0), 0.0)
    whole = jnp.broadcast_to(values, tuple(shape))
    ut, u = Partial(_turn, phase.conj()), Partial(_turn_back, phase)
    svd = Svd(whole, Partial(fft), Partial(_real), ut, u)
    A, At = Partial(filtered, h), Partial(filtered, h.conj())
    made = spectral(svd, tuple(shape), A=A, At=At)
    return Operator(A, At, made.pinv, Partial(_gram, values), tuple(shape), svd)


def _mixed(weights: Array, h: Array, x: Array) -> Array:
    return jnp.sum(weights * jax.vmap(filtered, (0, None))(h, x), axis=0)


def varying_blur(
    kernels: Array,
    weights: Array,
    shape: tuple[int, ...],
    *,
    steps: int = CG_STEPS,
) -> Operator:
    """A blur that varies over the image: y = sum_i w_i (k_i * x).

    Args:
      kernels: a few, [n, k, l].
      weights: how much of each kernel a pixel takes, [n, h, w]; they should add up to 1.
      shape: (h, w, c) of one image.
      steps: of conjugate gradient, static.

    Raises:
      ValueError: if the kernels are larger than the image, or the weights do not have its shape.

    Nagy & O'Leary 1998, doi:10.1137/S106482759528507X.
    """
    kernels, weights = jnp.asarray(kernels, float), jnp.asarray(weights, float)
    h, w, _ = image_shape(shape)
    if weights.shape != (len(kernels), h, w):
        raise ValueError(
            f"weights of shape {weights.shape} for {len(kernels)} kernels and images of shape "
            f"{tuple(shape)}: give {(len(kernels), h, w)}"
        )
    factors = jnp.stack([transfer(kernel, shape) for kernel in kernels])
    return derived(Partial(_mixed, weights[..., None], factors), tuple(shape), steps=steps)
