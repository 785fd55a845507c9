"""JPEG: the cosine coefficients of 8 x 8 blocks, rounded to multiples of a table.

With p = 255 (x - low) / (high - low) - 128 in luminance and two colour differences, D the cosine
transform of the blocks and Q the table of a quality,

    y = D^T Q round(D p / Q), in the units of x again.

Rounding passes gradients as if it were the identity. What is measured as y are the images with
D p / Q within 1/2 of whole numbers: a box, on which `project` puts an image coefficient by
coefficient. Colours are not sub-sampled, and y is neither rounded to bytes nor clipped.

ITU-T T.81 (1992), annex K.1 (tables); the scaling by quality is that of the Independent JPEG Group.
"""

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.inverse.operators.blocks import BlockDct, BlockIdct
from jaxdiff.inverse.operators.kernel import Nonlinear, image_shape
from jaxdiff.inverse.operators.nonlinear import check_range, straight
from jaxdiff.types import Scalar, number

_LUMINANCE = """
    16 11 10 16  24  40  51  61    12 12 14 19  26  58  60  55
    14 13 16 24  40  57  69  56    14 17 22 29  51  87  80  62
    18 22 37 56  68 109 103  77    24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101    72 92 95 98 112 100 103  99
"""
_CHROMINANCE = """
    17 18 24 47 99 99 99 99    18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99    47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99    99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99    99 99 99 99 99 99 99 99
"""
# red, green, blue -> luminance, blue and red difference (ITU-R BT.601, as in JFIF)
_YCC = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ]
)


def quantisation_table(quality: int, channels: int) -> np.ndarray:
    """The table [8, 8, channels] of a quality 1 ... 100: 50 is the standard's own, 100 all ones.

    Raises:
      ValueError: if the quality is outside.

    >>> quantisation_table(50, 1)[0, :3, 0].tolist()
    [16.0, 11.0, 10.0]
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: JPEG has qualities 1 to 100")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [_LUMINANCE, _CHROMINANCE, _CHROMINANCE][:channels]
    standard = np.stack([np.array(t.split(), float).reshape(8, 8) for t in tables], axis=-1)
    return np.clip(np.floor((standard * percent + 50) / 100), 1.0, 255.0)


def _mixed(rows: Array, x: Array) -> Array:
    return jnp.einsum("dc,hwc->hwd", rows, x, precision="highest")


def _coefficients(table: Array, rows: Array, low: Array, high: Array, x: Array) -> Array:
    """D p / Q."""
    h, w, _ = x.shape
    # a grey picture has luminance p and no colour differences, so 128 is taken off the first alone
    light = _mixed(rows, 255 * (x - low) / (high - low)).at[..., 0].add(-128.0)
    return BlockDct(8)(light) / jnp.tile(table, (h // 8, w // 8, 1))


def _picture(table: Array, rows: Array, low: Array, high: Array, z: Array) -> Array:
    h, w, _ = z.shape
    light = BlockIdct(8)(z * jnp.tile(table, (h // 8, w // 8, 1))).at[..., 0].add(128.0)
    return low + (high - low) * _mixed(jnp.linalg.inv(rows), light) / 255


def _compressed(table: Array, rows: Array, low: Array, high: Array, x: Array) -> Array:
    z = _coefficients(table, rows, low, high, x)
    return _picture(table, rows, low, high, straight(z, jnp.round(z)))


def _projected(table: Array, rows: Array, low: Array, high: Array, x: Array, y: Array) -> Array:
    z = _coefficients(table, rows, low, high, x)
    whole = jnp.round(_coefficients(table, rows, low, high, y))
    return _picture(table, rows, low, high, jnp.clip(z, whole - 0.5, whole + 0.5))


def jpeg(
    quality: int, shape: tuple[int, ...], *, low: Scalar = -1.0, high: Scalar = 1.0
) -> Nonlinear:
    """JPEG at a quality, decoded: y [h, w, c]; gradients pass the rounding.

    `project(x, y)` puts the coefficients of x into the box of those that are measured as y: the
    nearest such image for one channel; for three, nearest in luminance and colour differences.

    Args:
      quality: 1 ... 100.
      shape: (h, w, 1) or (h, w, 3), h and w multiples of 8.
      low, high: the values of black and white.

    Raises:
      ValueError: if the quality is outside 1 ... 100, or the shape not of whole blocks.

    >>> jpeg(10, (8, 8, 1)).A(jnp.zeros((8, 8, 1))).shape
    (8, 8, 1)
    """
    h, w, c = image_shape(shape)
    if h % 8 or w % 8 or c not in (1, 3):
        raise ValueError(
            f"shape={tuple(shape)}: JPEG needs height and width in multiples of 8, and 1 or 3 "
            "channels; pad the images"
        )
    check_range(low, high)
    rows = jnp.asarray(_YCC if c == 3 else np.eye(1), float)
    table = jnp.asarray(quantisation_table(quality, c), float)
    numbers = table, rows, number(low), number(high)
    return Nonlinear(Partial(_compressed, *numbers), (h, w, c), Partial(_projected, *numbers))
