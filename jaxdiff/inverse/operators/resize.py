"""Super-resolution: an image made smaller, by means over blocks or by bicubic interpolation.

Pool: A A^T = I / f^2; the cosine transform of each block holds its mean as first coefficient, so
that z = DCT(x), with values 1/f there and 0 elsewhere.

Bicubic, as MATLAB's imresize does it: each output pixel is a mean of inputs, weighted by Keys'
cubic (a = -1/2) stretched by the factor, so that it does not alias; images are mirrored at their
borders. It is separable, Y = R_h X R_w^T, so with R = U S V^T of each direction

    z = V_h^T X V_w,   values = s_h s_w^T.

Keys 1981, doi:10.1109/TASSP.1981.1163711.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.inverse.operators.blocks import BlockDct, BlockIdct
from jaxdiff.inverse.operators.kernel import Operator, Static, Svd, image_shape
from jaxdiff.inverse.operators.solve import over, spectral


class _Pool(Static):
    """Mean over factor x factor blocks of [h, w, c]."""

    def __call__(self, x: Array) -> Array:
        f, (h, w, c) = self.value, x.shape
        return x.reshape(h // f, f, w // f, f, c).mean(axis=(1, 3))


class _Spread(Static):
    """Repeat each pixel factor x factor times, times a gain."""

    def __call__(self, y: Array) -> Array:
        f, gain = self.value
        return gain * jnp.repeat(jnp.repeat(y, f, axis=0), f, axis=1)


class _PoolGram(Static):
    """A A^T = I / factor^2."""

    def __call__(self, r2: Any, s2: Any, v: Array) -> Array:
        return over(v, r2 / self.value**2 + s2)


class _First(Static):
    """The first coefficient of each block."""

    def __call__(self, z: Array) -> Array:
        return z[:: self.value, :: self.value]


class _Place(Static):
    """A coefficient as the first of its block, the others 0."""

    def __call__(self, y: Array) -> Array:
        f, (h, w, c) = self.value, y.shape
        return jnp.zeros((h * f, w * f, c), y.dtype).at[::f, ::f].set(y)


def average_pool(factor: int, shape: tuple[int, ...]) -> Operator:
    """Super-resolution: y is the mean over factor x factor blocks.

    A^T y = repeat(y)/factor^2, A A^T = I/factor^2, A^+ y = repeat(y).

    Args:
      factor: block size.
      shape: (h, w, c) of one image.

    Raises:
      ValueError: if factor < 1 or does not divide h and w.

    >>> op = average_pool(2, (2, 2, 1))
    >>> op.A(jnp.arange(4.0).reshape(2, 2, 1)).tolist()
    [[[1.5]]]
    """
    _check_factor(factor, shape)
    place = Partial(_Place(factor))
    values = place(jnp.full((shape[0] // factor, shape[1] // factor, shape[2]), 1 / factor))
    svd = Svd(
        values,
        Partial(BlockDct(factor)),
        Partial(BlockIdct(factor)),
        place,
        Partial(_First(factor)),
    )
    return Operator(
        Partial(_Pool(factor)),
        Partial(_Spread((factor, factor**-2))),
        Partial(_Spread((factor, 1.0))),
        Partial(_PoolGram(factor)),
        tuple(shape),
        svd,
    )


def _check_factor(factor: int, shape: tuple[int, ...]) -> None:
    h, w, _ = image_shape(shape)
    if factor < 1 or h % factor or w % factor:
        raise ValueError(
            f"factor={factor} for images of shape {tuple(shape)}: it must divide height and width"
        )


def bicubic(factor: int, shape: tuple[int, ...]) -> Operator:
    """Super-resolution: bicubic down-sampling with antialiasing, as MATLAB's imresize.

    Args:
      factor: by which height and width shrink.
      shape: (h, w, c) of one image.

    Raises:
      ValueError: if factor < 1 or does not divide h and w.

    >>> bicubic(2, (4, 4, 1)).A(jnp.ones((4, 4, 1))).shape
    (2, 2, 1)
    """
    _check_factor(factor, shape)
    h, w, c = image_shape(shape)
    rows, columns = _directions(factor, h), _directions(factor, w)
    (u_h, s_h, vt_h), (u_w, s_w, vt_w) = rows, columns
    values = jnp.broadcast_to((s_h[:, None] * s_w[None])[..., None], (h, w, c))
    svd = Svd(
        values,
        Partial(_both, vt_h, vt_w),
        Partial(_both, vt_h.T, vt_w.T),
        Partial(_both, u_h.T, u_w.T),
        Partial(_both, u_h, u_w),
    )
    m_h, m_w = (jnp.asarray(_cubic_rows(factor, n), float) for n in (h, w))
    A, At = Partial(_both, m_h, m_w), Partial(_both, m_h.T, m_w.T)
    return spectral(svd, tuple(shape), A=A, At=At, onto=True)


def _both(rows: Array, columns: Array, x: Array) -> Array:
    return jnp.einsum("pi,qj,ijc->pqc", rows, columns, x, precision="highest")


def _directions(factor: int, n: int) -> tuple[Array, Array, Array]:
    """U, s, V^T of one direction, padded to n coordinates."""
    u, s, vt = np.linalg.svd(_cubic_rows(factor, n), full_matrices=True)
    rest = n - len(s)
    u, s = np.pad(u, ((0, 0), (0, rest))), np.pad(s, (0, rest))
    return jnp.asarray(u, float), jnp.asarray(s, float), jnp.asarray(vt, float)


def _cubic(d: np.ndarray) -> np.ndarray:
    d = np.abs(d)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _cubic_rows(factor: int, n: int) -> np.ndarray:
    """[n / factor, n], each row a mean; what falls outside is mirrored back."""
    m, reach = n // factor, 2 * factor + 1
    centre = (np.arange(m) + 0.5) * factor - 0.5
    taken = np.floor(centre)[:, None].astype(int) + np.arange(-reach, reach + 1)[None]
    weights = _cubic((centre[:, None] - taken) / factor)
    weights /= weights.sum(axis=1, keepdims=True)
    inside = taken % (2 * n)
    inside = np.where(inside < n, inside, 2 * n - 1 - inside)
    rows = np.zeros((m, n))
    np.add.at(rows, (np.arange(m)[:, None], inside), weights)
    return rows
