"""Magnetic resonance: some of the Fourier coefficients of an image, seen by one coil or by many.

One coil, y = M F x with F orthonormal and M a mask. A complex image (two channels, the real and the
imaginary part) has z = F x and values M. A real image (one channel) has a spectrum with
z(-k) = conj z(k), of which k and -k see the same, so that with m = (M(k) + M(-k)) / 2

    A^T A = F^* m F,    z = F x,    values = sqrt(m),    U = M / sqrt(m).

Many coils: y_j = M F (s_j x), with sensitivities s_j; by conjugate gradient.

All arrays are real: complex numbers are pairs on the last axis. The frequency 0 is in the middle,
at [h // 2, w // 2], and so is the origin of the image, as in scanners' files.

Lustig et al. 2007, doi:10.1002/mrm.21391; Pruessmann et al. 1999, doi:10.1002/(SICI)1522-2594
(199911)42:5<952::AID-MRM16>3.0.CO;2-S (sensitivities).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Num

from jaxdiff.inverse.operators.blur import fft, ifft
from jaxdiff.inverse.operators.kernel import Operator, Static, Svd, image_shape
from jaxdiff.inverse.operators.masks import check_mask
from jaxdiff.inverse.operators.solve import CG_STEPS, derived, spectral


def _joined(x: Array) -> Array:
    """[h, w, 2] or [h, w, 1] as complex [h, w], the origin moved from the middle to [0, 0]."""
    imaginary = x[..., 1] if x.shape[-1] == 2 else jnp.zeros_like(x[..., 0])
    return jnp.fft.ifftshift(lax.complex(x[..., 0], imaginary))


def _parted(z: Array, channels: int) -> Array:
    """The inverse: real pairs, or the real part alone."""
    z = jnp.fft.fftshift(z)
    return jnp.stack([z.real, z.imag][:channels], axis=-1)


def _reflected(z: Array) -> Array:
    """z(-k)."""
    return jnp.roll(jnp.flip(z, (0, 1)), 1, (0, 1))


class _Fold(Static):
    """What of a spectrum is that of images with so many channels."""

    def __call__(self, z: Array) -> Array:
        return z if self.value == 2 else (z + _reflected(z).conj()) / 2


def _spectrum(x: Array) -> Array:
    return fft(_joined(x))


class _Image(Static):
    def __call__(self, z: Array) -> Array:
        return _parted(ifft(z), self.value)


class _Unseen(Static):
    """U^T: from masked pairs to z."""

    def __call__(self, gain: Array, y: Array) -> Array:
        return _Fold(self.value)(gain * _joined(y))


def _seen(gain: Array, z: Array) -> Array:
    return _parted(gain * z, 2)


def _check_complex(shape: tuple[int, ...]) -> tuple[int, int, int]:
    h, w, c = image_shape(shape)
    if c > 2:
        raise ValueError(
            f"shape={tuple(shape)}: give [h, w, 1] for real images or [h, w, 2] for complex ones "
            "(real and imaginary part)"
        )
    return h, w, c


def _mask(mask: Array, h: int, w: int) -> Array:
    """[h, w], with the frequency 0 at [0, 0]."""
    mask = jnp.asarray(mask)
    check_mask(mask, (h, w, 1))
    whole = jnp.broadcast_to(mask.astype(bool)[..., 0], (h, w))
    return jnp.fft.ifftshift(whole).astype(float)


def fourier(mask: Bool[Array, "h w 1"] | Num[Array, "h w 1"], shape: tuple[int, ...]) -> Operator:
    """Fourier coefficients of an image where the mask is 1, zeros elsewhere: y [h, w, 2].

    Args:
      mask: [h, w, 1] (or 1 for h or w), the frequency 0 in the middle; see `column_mask`.
      shape: (h, w, 1) for real images, (h, w, 2) for complex ones.

    Raises:
      ValueError: if the mask does not fit, or the image has more than two channels.

    >>> fourier(jnp.ones((1, 1, 1)), (4, 4, 1)).A(jnp.ones((4, 4, 1)))[2, 2].tolist()
    [4.0, 0.0]
    """
    h, w, c = _check_complex(shape)
    seen = _mask(mask, h, w)
    values = jnp.sqrt(_Fold(c)(seen))
    gain = seen / jnp.where(values > 0, values, 1.0)
    ut, u = Partial(_Unseen(c), gain), Partial(_seen, gain)
    svd = Svd(values, Partial(_spectrum), Partial(_Image(c)), ut, u)
    return spectral(svd, (h, w, c))


def _coil(seen: Array, maps: Array, x: Array) -> Array:
    image = _joined(x)
    return jax.vmap(lambda s: _parted(seen * fft(_joined(s) * image), 2))(maps)


def coils(
    mask: Bool[Array, "h w 1"] | Num[Array, "h w 1"],
    maps: Array,
    shape: tuple[int, ...],
    *,
    steps: int = CG_STEPS,
) -> Operator:
    """Fourier coefficients seen by several coils: y [n, h, w, 2].

    Args:
      mask: [h, w, 1] (or 1 for h or w), the frequency 0 in the middle.
      maps: complex sensitivities as pairs, [n, h, w, 2].
      shape: (h, w, 1) for real images, (h, w, 2) for complex ones.
      steps: of conjugate gradient, static.

    Raises:
      ValueError: if mask or maps do not fit, or the image has more than two channels.
    """
    h, w, c = _check_complex(shape)
    maps = jnp.asarray(maps, float)
    if maps.ndim != 4 or maps.shape[1:] != (h, w, 2):
        raise ValueError(
            f"maps of shape {maps.shape} for images of shape {tuple(shape)}: give [n, {h}, {w}, 2]"
        )
    return derived(Partial(_coil, _mask(mask, h, w), maps), (h, w, c), steps=steps)
