"""Inception-v3, as a classifier and as the network whose features the FID compares.

The network behind the FID came from another framework, and keeps two ways of it: mean pooling
counts the places inside the image only, and the last block pools by the maximum (`fid=True`).

Reference: Szegedy et al. 2015, arXiv 1512.00567; Heusel et al. 2017, arXiv 1706.08500, section 3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets.features.layers import ConvNorm, max_pool, mean_pool
from jaxdiff.nets.features.record import Extractor, Features, check_picture
from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import linear
from jaxdiff.types import PyTree

# Inputs and inner widths of the blocks that keep the resolution.
_A = {"Mixed_5b": (192, 32), "Mixed_5c": (256, 64), "Mixed_5d": (288, 64)}
_C = {
    "Mixed_6b": (768, 128),
    "Mixed_6c": (768, 160),
    "Mixed_6d": (768, 160),
    "Mixed_6e": (768, 192),
}
Chains = dict[str, Sequence[tuple[Any, ...]]]


def inception(*, classes: int = 0, fid: bool = True, dtype: DTypeLike = jnp.float32) -> Extractor:
    """Inception-v3 as pure functions.

    Args:
      classes: of the last layer; 0: none. The network of the FID has 1008, torchvision's 1000.
      fid: the pooling of the network behind the FID, instead of torchvision's.
      dtype: of the arithmetic.

    Returns:
      `Extractor`; `pooled` [b, 2048] is what the FID compares; `maps` have 64, 192, 768 and 2048
      channels. The FID wants images of 299 x 299.

    Raises:
      ValueError: later, images without 3 channels or below 75 pixels.

    Reference: Szegedy et al. 2015, arXiv 1512.00567.

    >>> inception().init  # doctest: +ELLIPSIS
    <function ...>
    """
    init, module = bridge(lambda rngs: InceptionV3(classes, fid, dtype, rngs))

    def apply(params: PyTree, image: Array) -> Features:
        check_picture(image, 75)
        return module(params)(image)

    return Extractor(init, apply)


class InceptionV3(nnx.Module):
    """Stem and blocks with torchvision's names."""

    def __init__(self, classes: int, fid: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype, self.fid = dtype, fid

        def unit(*given: Any) -> ConvNorm:
            return _unit(given, dtype, rngs)

        def block(chains: Chains) -> nnx.Module:
            return _Block(chains, dtype, rngs)

        self.Conv2d_1a_3x3 = unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = unit(32, 32, 3)
        self.Conv2d_2b_3x3 = unit(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = unit(64, 80, 1)
        self.Conv2d_4a_3x3 = unit(80, 192, 3)
        for name, (inputs, pool) in _A.items():
            setattr(self, name, block(_a(inputs, pool)))
        self.Mixed_6a = block(
            {
                "branch3x3": [(288, 384, 3, 2)],
                "branch3x3dbl_": [(288, 64, 1), (64, 96, 3, 1, 1), (96, 96, 3, 2)],
            }
        )
        for name, (inputs, inner) in _C.items():
            setattr(self, name, block(_c(inputs, inner)))
        self.Mixed_7a = block(_d())
        self.Mixed_7b, self.Mixed_7c = _Fork(1280, dtype, rngs), _Fork(2048, dtype, rngs)
        self.fc = linear(2048, classes, dtype=dtype, rngs=rngs) if classes else None

    def __call__(self, image: Float[Array, "b h w 3"]) -> Features:
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(image.astype(self.dtype)))
        first = max_pool(self.Conv2d_2b_3x3(x), 3, 2)
        second = max_pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first)), 3, 2)
        x = second
        for name in _A:
            x = getattr(self, name)(x, self._mean)
        x = self.Mixed_6a(x, _halved)
        for name in _C:
            x = getattr(self, name)(x, self._mean)
        third = x
        x = self.Mixed_7b(self.Mixed_7a(x, _halved), self._mean)
        last = self.Mixed_7c(x, _largest if self.fid else self._mean)
        maps = tuple(m.astype(jnp.float32) for m in (first, second, third, last))
        pooled = jnp.mean(maps[-1], axis=(1, 2))
        logits = None if self.fc is None else self.fc(pooled).astype(jnp.float32)
        return Features(maps, pooled, logits)

    def _mean(self, x: Array) -> Array:
        return mean_pool(x, 3, 1, 1, outside=not self.fid)


class _Block(nnx.Module):
    """Branches side by side; `branch_pool` acts on what is pooled, which has no map in some."""

    def __init__(self, chains: Chains, dtype: DTypeLike, rngs: nnx.Rngs):
        self.names: dict[str, tuple[str, ...]] = {}
        for branch, units in chains.items():
            single = not branch.endswith("_")
            self.names[branch] = tuple(
                branch if single else f"{branch}{i + 1}" for i in range(len(units))
            )
            for name, given in zip(self.names[branch], units):
                setattr(self, name, _unit(given, dtype, rngs))

    def __call__(self, x: Array, pool: Callable[[Array], Array]) -> Array:
        found = []
        for branch, names in self.names.items():
            h = pool(x) if branch == "branch_pool" else x
            for name in names:
                h = getattr(self, name)(h)
            found.append(h)
        if "branch_pool" not in self.names:
            found.append(pool(x))
        return jnp.concatenate(found, axis=-1)


class _Fork(nnx.Module):
    """The widest block: two branches end in a row and a column side by side."""

    def __init__(self, inputs: int, dtype: DTypeLike, rngs: nnx.Rngs):
        def unit(*given: Any) -> ConvNorm:
            return _unit(given, dtype, rngs)

        self.branch1x1 = unit(inputs, 320, 1)
        self.branch3x3_1 = unit(inputs, 384, 1)
        self.branch3x3_2a = unit(384, 384, (1, 3), 1, (0, 1))
        self.branch3x3_2b = unit(384, 384, (3, 1), 1, (1, 0))
        self.branch3x3dbl_1 = unit(inputs, 448, 1)
        self.branch3x3dbl_2 = unit(448, 384, 3, 1, 1)
        self.branch3x3dbl_3a = unit(384, 384, (1, 3), 1, (0, 1))
        self.branch3x3dbl_3b = unit(384, 384, (3, 1), 1, (1, 0))
        self.branch_pool = unit(inputs, 192, 1)

    def __call__(self, x: Array, pool: Callable[[Array], Array]) -> Array:
        a, b = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        found = [self.branch1x1(x), self.branch3x3_2a(a), self.branch3x3_2b(a)]
        found += [self.branch3x3dbl_3a(b), self.branch3x3dbl_3b(b), self.branch_pool(pool(x))]
        return jnp.concatenate(found, axis=-1)


def _unit(given: tuple[Any, ...], dtype: DTypeLike, rngs: nnx.Rngs) -> ConvNorm:
    """From (inputs, outputs, size, stride, padding), the last two 1 and 0 where left out."""
    inputs, outputs, size, stride, padding = (*given, *(1, 0)[len(given) - 3 :])
    return ConvNorm(
        inputs, outputs, size, stride=stride, padding=padding, eps=1e-3, dtype=dtype, rngs=rngs
    )


def _a(inputs: int, pool: int) -> Chains:
    return {
        "branch1x1": [(inputs, 64, 1)],
        "branch5x5_": [(inputs, 48, 1), (48, 64, 5, 1, 2)],
        "branch3x3dbl_": [(inputs, 64, 1), (64, 96, 3, 1, 1), (96, 96, 3, 1, 1)],
        "branch_pool": [(inputs, pool, 1)],
    }


def _c(inputs: int, n: int) -> Chains:
    row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    return {
        "branch1x1": [(inputs, 192, 1)],
        "branch7x7_": [(inputs, n, 1), (n, n, *row), (n, 192, *column)],
        "branch7x7dbl_": [
            (inputs, n, 1),
            (n, n, *column),
            (n, n, *row),
            (n, n, *column),
            (n, 192, *row),
        ],
        "branch_pool": [(inputs, 192, 1)],
    }


def _d() -> Chains:
    return {
        "branch3x3_": [(768, 192, 1), (192, 320, 3, 2)],
        "branch7x7x3_": [
            (768, 192, 1),
            (192, 192, (1, 7), 1, (0, 3)),
            (192, 192, (7, 1), 1, (3, 0)),
            (192, 192, 3, 2),
        ],
    }


def _halved(x: Array) -> Array:
    return max_pool(x, 3, 2)


def _largest(x: Array) -> Array:
    return max_pool(x, 3, 1, 1)
