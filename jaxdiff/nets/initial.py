"""Initial parameters, drawn by a hash of (key, index) instead of one threefry call each.

XLA:CPU compiles every threefry call of another shape anew, about a quarter of a second for each
parameter: more than a small network takes to compile. A counter put through a mixing function is
a handful of integer operations that fuse, gives the same bits on every backend and sharding, and
needs no compilation at all on a concrete key, where numpy computes it.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array

Initial = Callable[[Array, Sequence[int], DTypeLike], Array]


def spread(deviation: float) -> Initial:
    """An initialiser: uniform on [-sqrt(3) d, sqrt(3) d], so of mean 0 and deviation d.

    >>> w = spread(0.5)(jax.random.key(0), (100, 100), jnp.float32)
    >>> round(float(w.std()), 2)
    0.5
    """

    def draw(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        if _SHAPES_ONLY.get():
            return jnp.zeros(tuple(shape), dtype)
        values = _uniform(key, math.prod(shape)) * np.float32(2 * math.sqrt(3) * deviation)
        return jnp.asarray(values.reshape(tuple(shape)), dtype)

    return draw


_SHAPES_ONLY: contextvars.ContextVar[bool] = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, initial values are zeros: tracing a network for its shapes draws no numbers."""
    token = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(token)


def lecun(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """LeCun's initialiser: mean 0 and variance 1 / fan-in, fan-in all axes but the last.

    >>> w = lecun(jax.random.key(0), (3, 3, 16, 64), jnp.float32)
    >>> round(float(w.std() * 12), 2)
    1.0
    """
    return spread(1 / math.sqrt(math.prod(shape[:-1])))(key, shape, dtype)


def _uniform(key: Array, size: int) -> Array | np.ndarray:
    """float32 [size] on [-1/2, 1/2); numpy for a concrete key, jax for a traced one, same bits."""
    words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    if isinstance(words, Tracer):
        count = jax.lax.iota(jnp.uint32, size)
    else:
        words, count = np.asarray(words), np.arange(size, dtype=np.uint32)
    bits = count * np.uint32(0x9E3779B9)
    for i in range(words.shape[0]):
        bits = _mix(bits ^ words[i])
    # The 24 leading bits: every value, its difference to 1/2 included, is exact in float32.
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24) - np.float32(0.5)


def _mix(x):
    """The finaliser of MurmurHash3 (Appleby 2011, public domain): a bijection of 32-bit words."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
