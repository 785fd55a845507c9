"""Which kernel computes softmax(q k^T / sqrt(d)) v: XLA's, cuDNN's, or the TPU's.

    auto     what suits the machine, the type and the shape (the default)
    xla      works everywhere and has every derivative
    cudnn    flash attention on NVIDIA: half precision, d a multiple of 8 and at most 128 (256 from
             compute capability 9 on); it has no forward-mode derivative
    splash   flash attention on TPU, from 1024 tokens on: below, XLA's is as fast

cuDNN is tried once on a small example; where it fails, XLA's kernel is used and a warning says so.
XLA's kernel writes all logits out; where they would pass `LIMIT` bytes the queries are walked in
chunks, each recomputed in the backward pass.

Reference: Dao et al. 2022, arXiv 2205.14135; Rabe and Staats 2021, arXiv 2112.05682 (chunks).
"""

import contextlib
import contextvars
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

WAYS = ("auto", "xla", "cudnn", "splash")
LIMIT = 2**31
"""Bytes of float32 logits that XLA's kernel may write out at once."""
LONG = 1024
"""Tokens from which flash attention pays on a TPU."""

_WAY: contextvars.ContextVar[str] = contextvars.ContextVar("attention", default="auto")


@contextlib.contextmanager
def attending(way: str) -> Iterator[None]:
    """Choose the kernel of attention for what is traced inside.

    Forward-mode derivatives (`jax.jvp`: consistency models, MeanFlow) need "xla" on a GPU.

    Args:
      way: "auto", "xla", "cudnn" or "splash".

    Raises:
      ValueError: if it is another word.

    >>> with attending("xla"):
    ...     fused(*[jnp.ones((1, 4, 2, 8))] * 3).shape
    (1, 4, 2, 8)
    """
    if way not in WAYS:
        raise ValueError(f"way is {way!r}: it must be one of {', '.join(WAYS)}")
    token = _WAY.set(way)
    try:
        yield
    finally:
        _WAY.reset(token)


def fused(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n heads d"]:
    """Attention by the kernel that suits, or that `attending` chose.

    Args:
      q: queries [b, n, heads, d].
      k: keys [b, m, heads, d].
      v: values [b, m, heads, d].
      mask: [b, m], True where a key counts.

    Returns:
      [b, n, heads, d]; where a sample has no key, what stands there has no meaning.
    """
    way = _WAY.get()
    if way == "cudnn" or (way == "auto" and _suits_cudnn(q)):
        wide = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=wide, implementation="cudnn")
    if way == "splash" or (way == "auto" and _suits_splash(q, k)):
        return splash(q, k, v, mask)
    return _by_xla(q, k, v, mask)


def _by_xla(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    wide = None if mask is None else mask[:, None, None, :]

    def attend(part: Array) -> Array:
        return jax.nn.dot_product_attention(part, k, v, mask=wide, implementation="xla")

    b, n, heads, d = q.shape
    pieces = chunks(n, 4 * b * heads * k.shape[1], LIMIT)
    if pieces == 1:
        return attend(q)
    parts = jnp.moveaxis(q.reshape(b, pieces, n // pieces, heads, d), 1, 0)
    out = jax.lax.map(jax.checkpoint(attend), parts)
    return jnp.moveaxis(out, 0, 1).reshape(q.shape)


def chunks(n: int, bytes_each: int, limit: int) -> int:
    """The fewest equal pieces of n queries whose logits stay within `limit` bytes each.

    >>> chunks(4096, 4 * 8 * 4096, 2**27), chunks(64, 100, 2**27)
    (4, 1)
    """
    for pieces in range(1, n + 1):
        if n % pieces == 0 and n // pieces * bytes_each <= limit:
            return pieces
    return n


def _suits_cudnn(q: Array) -> bool:
    if jax.default_backend() != "gpu" or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    d = q.shape[3]
    return d % 8 == 0 and d <= _widest() and _cudnn_works(q.dtype)


@functools.cache
def _widest() -> int:
    """The widest head that cuDNN takes, by the compute capability."""
    capability = float(getattr(jax.devices()[0], "compute_capability", 0) or 0)
    return 256 if capability >= 9 else 128


@functools.cache
def _cudnn_works(dtype: object) -> bool:
    """Whether cuDNN attends, forward and backward, on one small example."""
    x = jax.ShapeDtypeStruct((2, 64, 2, 64), dtype)

    def loss(q: Array) -> Array:
        out = jax.nn.dot_product_attention(q, q, q, implementation="cudnn")
        return out.astype(jnp.float32).sum()

    try:
        jax.jit(jax.grad(loss)).lower(x).compile()
    except Exception as error:  # whatever it is, there is another kernel
        reason = (str(error).splitlines() or [""])[0][:120]
        warnings.warn(
            f"cuDNN's attention does not work here ({type(error).__name__}: {reason}); XLA's is "
            "used, which is slower on long sequences",
            stacklevel=2,
        )
        return False
    return True


def _suits_splash(q: Array, k: Array) -> bool:
    n, m, d = q.shape[1], k.shape[1], q.shape[3]
    legal = n % 128 == 0 and m % 128 == 0 and d % 64 == 0
    return jax.default_backend() == "tpu" and legal and min(n, m) >= LONG


def splash(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    mask: Bool[Array, "b m"] | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "b n heads d"]:
    """Attention by the TPU's kernel; `interpret` runs it slowly on any machine.

    Args:
      q: queries [b, n, heads, d], n a multiple of 128.
      k: keys [b, m, heads, d], m a multiple of 128.
      v: values, like k.
      mask: [b, m], True where a key counts.
      interpret: for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    n, m, heads = q.shape[1], k.shape[1], q.shape[2]
    whole = splash_attention_mask.MultiHeadMask(
        [splash_attention_mask.FullMask((n, m)) for _ in range(heads)]
    )
    kernel = splash_attention_kernel.make_splash_mha_single_device(whole, interpret=interpret)
    # Keys that do not count belong to another segment than every query.
    ids = splash_attention_kernel.SegmentIds
    segments = None
    if mask is not None:
        ones = jnp.ones((q.shape[0], n), jnp.int32)
        segments = ids(ones, mask.astype(jnp.int32))
    front = [jnp.swapaxes(x, 1, 2) for x in (q / jnp.sqrt(q.shape[3]).astype(q.dtype), k, v)]
    out: Any = jax.vmap(kernel)(*front, segments)
    return jnp.swapaxes(out, 1, 2)
