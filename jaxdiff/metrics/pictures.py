"""How near one picture is to another, or to what was measured: one number for each sample.

Nothing here averages over the batch: a mean of decibels and the decibels of a mean are two
figures, and whoever reports one says which.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_Image = Float[Array, "b h w c"]


def psnr(
    x: Float[Array, "b ..."], y: Float[Array, "b ..."], *, peak: float = 2.0
) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio of each sample, in decibels.

    PSNR = 10 log10(peak^2 / mean((x - y)^2)), the mean over all axes but the first.

    Args:
        x, y: the images [b, ...], in one value range.
        peak: the width of that range: 2 for [-1, 1], 255 for bytes.

    Returns:
        Decibels [b]; infinite where the images are equal.

    Raises:
        ValueError: the shapes differ, or `peak` is not positive.

    Example:
        >>> psnr(jnp.zeros((1, 4, 4, 1)), jnp.full((1, 4, 4, 1), 0.2)).round(2).tolist()
        [20.0]

    Reference:
        Huynh-Thu and Ghanbari 2008, Scope of validity of PSNR, equation 1.
    """
    _check_pair(x, y)
    _check_positive("peak", peak)
    error = jnp.mean(jnp.square(x - y).reshape(x.shape[0], -1), axis=1)
    return 10 * jnp.log10(peak**2 / error)


def ssim(
    x: _Image,
    y: _Image,
    *,
    peak: float = 2.0,
    size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
) -> Float[Array, " b"]:
    """Structural similarity of each sample, averaged over positions and channels.

    SSIM = (2 mu_x mu_y + C1)(2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(s_x^2 + s_y^2 + C2)),
    C = (k peak)^2, with means, variances and covariance under a Gaussian window, at every
    position where the whole window lies inside the image.

    Args:
        x, y: the images [b, h, w, c], in one value range.
        peak: the width of that range: 2 for [-1, 1].
        size: the side of the window in pixels.
        sigma: the standard deviation of the window in pixels.
        k1, k2: the constants of the paper.

    Returns:
        One number in [-1, 1] for each sample, [b]; 1 where the images are equal.

    Raises:
        ValueError: the shapes differ, or the image is smaller than the window.

    Example:
        >>> x = jnp.linspace(-1.0, 1.0, 256).reshape(1, 16, 16, 1)
        >>> ssim(x, x).tolist()
        [1.0]

    Reference:
        Wang, Bovik, Sheikh, Simoncelli 2004, Image quality assessment, equation 13.
    """
    _check_pair(x, y)
    _check_positive("peak", peak)
    if size > min(x.shape[1:3]):
        raise ValueError(
            f"size: the window is {size} wide and the images are {x.shape[1]}x{x.shape[2]}; "
            f"take size={min(x.shape[1:3])} or larger images"
        )
    rows, columns = (_window(n, size, sigma) for n in x.shape[1:3])

    def local(z: Array) -> Array:
        # Two small matrix products: a window is separable, and this needs no convolution.
        return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, z, precision="highest")

    c1, c2 = (k1 * peak) ** 2, (k2 * peak) ** 2
    mu_x, mu_y = local(x), local(y)
    var_x, var_y = local(x * x) - mu_x**2, local(y * y) - mu_y**2
    cov = local(x * y) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1)
    return jnp.mean(luminance * (2 * cov + c2) / (var_x + var_y + c2), axis=(1, 2, 3))


def residual(
    y: Float[Array, "b ..."],
    ax: Float[Array, "b ..."],
    *,
    noise: float | Float[Array, ""],
    observed: Float[Array, " ..."] | Bool[Array, " ..."] | None = None,
) -> Float[Array, " b"]:
    """The misfit of a restoration over the noise level: 1 where it explains what was measured.

    sqrt(mean((y - A x)^2)) / sigma_y, the mean over the measured entries of each sample.

    Args:
        y: the measurements [b, ...].
        ax: the operator applied to the restorations, [b, ...].
        noise: the standard deviation sigma_y of the noise in y, positive.
        observed: 1 where an entry was measured, 0 elsewhere; of the shape of one measurement,
            or of all. None: all were.

    Returns:
        One ratio for each sample, [b]: well above 1 the restoration misses the measurement, well
        below 1 it has fitted the noise.

    Raises:
        ValueError: the shapes differ, or `noise` is not positive.

    Example:
        >>> residual(jnp.ones((2, 5)), jnp.zeros((2, 5)), noise=0.5).tolist()
        [2.0, 2.0]
    """
    _check_pair(y, ax)
    _check_positive("noise", noise)
    if observed is None:
        weight = jnp.ones_like(y)
    elif observed.shape in (y.shape, y.shape[1:]):
        weight = jnp.broadcast_to(observed.reshape(-1, *y.shape[1:]), y.shape).astype(y.dtype)
    else:
        raise ValueError(
            f"observed: shape {observed.shape}; give {y.shape[1:]} (every sample) or {y.shape}"
        )
    axes = tuple(range(1, y.ndim))
    return jnp.sqrt(jnp.sum(weight * (y - ax) ** 2, axes) / jnp.sum(weight, axes)) / noise


def _window(n: int, size: int, sigma: float) -> Float[Array, "out n"]:
    """The matrix [n - size + 1, n] that takes a Gaussian mean at every place it fits."""
    taps = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    taps = taps / taps.sum()
    return jnp.asarray(np.stack([np.pad(taps, (i, n - size - i)) for i in range(n - size + 1)]))


def _check_pair(x: Array, y: Array) -> None:
    if x.shape != y.shape:
        raise ValueError(f"two arrays of one shape are compared, got {x.shape} and {y.shape}")


def _check_positive(name: str, value: float | Array) -> None:
    # An array may be traced: values are checked on plain numbers only.
    if isinstance(value, int | float) and not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: {value}; give a positive number")
