"""Orthonormal cosine transforms (DCT-II) of n x n blocks: of JPEG, and of the blocks of a pool.

    D_pi = sqrt((2 - [p = 0]) / n) cos(pi (i + 1/2) p / n),    D D^T = I,   z = D x D^T per block.

The first coefficient of a block is n times its mean.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.inverse.operators.kernel import Static


def _cosines(n: int) -> np.ndarray:
    p, i = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    scale = np.where(p == 0, 1.0, np.sqrt(2.0)) / np.sqrt(n)
    return scale * np.cos(np.pi * (i + 0.5) * p / n)


def _on_blocks(rows: np.ndarray, x: Array) -> Array:
    n, (h, w, c) = len(rows), x.shape
    d = jnp.asarray(rows, x.dtype)
    blocks = x.reshape(h // n, n, w // n, n, c)
    z = jnp.einsum("pi,qj,aibjc->apbqc", d, d, blocks, precision="highest")
    return z.reshape(h, w, c)


class BlockDct(Static):
    """x [h, w, c] -> coefficients of its n x n blocks, each in the place of its block."""

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return _on_blocks(_cosines(self.value), x)


class BlockIdct(Static):
    """The inverse, and transpose, of `BlockDct`."""

    def __call__(self, z: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return _on_blocks(_cosines(self.value).T, z)
