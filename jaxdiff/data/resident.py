"""Small sets that live on the device: a batch is a pure function of (seed, step).

Nothing is iterated, so to resume one needs the number of the step and nothing else, and a batch can
be made inside the compiled training step. Position p = step * batch + row of the endless stream
belongs to epoch p // n and is the p mod n-th of that epoch's order, so every epoch holds every row
of the set exactly once, whether batch divides n or not.

The order of an epoch is a keyed bijection of 0 ... n - 1: a Feistel network over pairs (l, r) in
Z_a x Z_b, a b >= n, walked again where it leaves the range (Black and Rogaway 2002, "Ciphers with
arbitrary finite domains", methods 2 and 3). A step costs O(batch); sorting would cost O(n log n).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, Key

from jaxdiff.data.augment import Augment, augmented
from jaxdiff.data.sources import Source, check_source, take
from jaxdiff.data.values import check_finite, check_images, images_to_unit
from jaxdiff.types import Batch

_ROUNDS = 8


class Resident(NamedTuple):
    """A set on the device, a pytree: hand it to the compiled step as an argument.

    `images` uint8 [n, h, w, c], scaled when a batch is made, or floats [n, ...], which pass as they
    are; `labels` int32 [n, ...] or None.
    """

    images: jax.Array
    labels: jax.Array | None = None


def resident(source: Source) -> Resident:
    """Put a whole source on the default device, bytes as bytes.

    Floats of any shape [n, ...] are taken as they are: `Source(*toys.two_moons(key, n))` works.
    Errors: ValueError if it is empty, columns differ in length, or values are NaN or infinite.

    >>> resident(Source(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))).labels.shape
    (4,)
    """
    everything = np.arange(check_source(source))
    images = take(source.images, everything)
    if images.ndim == 4 and not np.issubdtype(images.dtype, np.floating):
        check_images(images)
    elif np.issubdtype(images.dtype, np.floating):
        check_finite(images, "images")
        images = images.astype(np.float32)
    if source.labels is None:
        return Resident(jnp.asarray(images))
    return Resident(jnp.asarray(images), jnp.asarray(take(source.labels, everything), jnp.int32))


def resident_batch(
    resident: Resident,
    seed: Key[Array, ""] | Int[Array, ""] | int,
    step: Int[Array | np.ndarray, ""] | int | np.integer,
    batch: int,
    *,
    rows: Int[Array, " r"] | None = None,
    augment: Augment | None = None,
) -> Batch:
    """Batch number `step` of the endless shuffled stream: a pure function, for use inside jit.

    `seed` a key or a whole number; `step` >= 0, may be traced; `batch` the GLOBAL batch size,
    static; `rows` the positions in the global batch that are wanted (all; a shard asks for its
    own); `augment(key, image) -> image` for one image. Returns x [r, h, w, c] float32 in [-1, 1],
    cond the labels or None, row [r].
    Errors: ValueError for batch < 1, step < 0, or where the stream of n and batch comes back to its
    first place only after 2^31 rows.

    >>> data = Resident(jnp.arange(6, dtype=jnp.uint8).reshape(6, 1, 1, 1), jnp.arange(6))
    >>> sorted(int(label) for step in range(3) for label in resident_batch(data, 0, step, 2).cond)
    [0, 1, 2, 3, 4, 5]
    """
    is_key = isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
    key = seed if is_key else jax.random.key(seed)
    if rows is None:
        rows = jnp.arange(batch, dtype=jnp.int32)
    n = resident.images.shape[0]
    epoch, place = _position(n, step, batch, rows)
    index = shuffled(jax.random.fold_in(key, 0), n, epoch, place)
    x = resident.images[index]
    if x.dtype == jnp.uint8:
        x = jnp.asarray(images_to_unit(x))
    if augment is not None:
        x = augmented(augment, jax.random.fold_in(jax.random.fold_in(key, 1), step), rows, x)
    cond = None if resident.labels is None else resident.labels[index]
    return Batch(x, cond, rows)


def shuffled(
    key: Key[Array, ""], n: int, epoch: Int[Array, " b"], place: Int[Array, " b"]
) -> Int[Array, " b"]:
    """Which of n rows stands at `place` (0 ... n - 1) in the order of `epoch`: a bijection.

    >>> e = jnp.zeros(5, jnp.int32)
    >>> sorted(shuffled(jax.random.key(0), 5, e, jnp.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """
    salts = jax.random.bits(key, (_ROUNDS,), jnp.uint32)
    epoch = epoch.astype(jnp.uint32)
    a = max(1, math.isqrt(n))
    b = -(-n // a)

    def once(value: Array) -> Array:
        left, right = value // b, value % b
        for j in range(0, _ROUNDS, 2):
            left = (left + _scramble(right ^ _scramble(epoch ^ salts[j])) % a) % a
            right = (right + _scramble(left ^ _scramble(epoch ^ salts[j + 1])) % b) % b
        return left * b + right

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        value, outside = carry
        value = jnp.where(outside, once(value), value)
        return value, value >= n

    start = place.astype(jnp.uint32), place >= 0  # everything takes the first step
    value, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), again, start)
    return value.astype(jnp.int32)


def _scramble(value: Array) -> Array:
    """32 well-mixed bits of 32: the finaliser of MurmurHash3 (Appleby, public domain)."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)


def _position(n: int, step: Any, batch: int, rows: Array) -> tuple[Array, Array]:
    """Epoch and place of step * batch + rows, without the product, which would overflow."""
    if batch < 1:
        raise ValueError(f"batch={batch}: it must be at least 1")
    if not isinstance(step, Tracer) and step < 0:
        raise ValueError(f"step={step}: steps count from 0")
    period = n // math.gcd(n, batch)  # after so many steps the batches fall on the same places
    if period * batch + batch >= 2**31:
        raise ValueError(
            f"batch={batch} and n={n} rows meet again only after {period * batch} rows, more than "
            "int32 counts: take a batch that shares more factors with n, or the loader"
        )
    step = jnp.asarray(step, jnp.int32)
    within = (step % period) * batch + rows
    return (step // period) * (period * batch // n) + within // n, within % n
