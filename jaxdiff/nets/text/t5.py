"""T5's encoder: a transformer that knows the distance of two tokens and nothing of their places.

    logits = q k^T + bias[bucket(j - i)],

without a division by sqrt(d); the bias of each head and bucket is that of the first layer in all of
them. Half of the buckets are for keys after the query; half of each side are single distances, the
rest grow geometrically to `farthest`. Norms are root-mean-square, no map has an offset.

Reference: Raffel et al. 2019, arXiv 1910.10683, section 2.1; gated maps: Shazeer 2020, arXiv
2002.05202.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import RMSNorm, Table, linear
from jaxdiff.nets.text.record import Encoded, TextEncoder, read_mask
from jaxdiff.types import PyTree


def t5_encoder(
    *,
    vocabulary: int = 32128,
    width: int = 4096,
    head_width: int = 64,
    heads: int = 64,
    inner: int = 10240,
    layers: int = 24,
    gated: bool = True,
    act: Callable[[Array], Array] = jax.nn.gelu,
    buckets: int = 32,
    farthest: int = 128,
    eps: float = 1e-6,
    dtype: DTypeLike = jnp.float32,
) -> TextEncoder:
    """T5's encoder as pure functions; the defaults are those of T5-XXL (v1.1).

    Args:
      vocabulary: number of tokens that it knows.
      width: of the tokens.
      head_width: of one head; heads times this need not be the width.
      heads: of the attention.
      inner: width inside the mlp.
      layers: number of layers.
      gated: the mlp is wo(act(wi_0 x) * wi_1 x) instead of wo(act(wi x)).
      act: `jax.nn.gelu` (the approximation by tanh, v1.1) or `jax.nn.relu` (the first T5).
      buckets: of distances, even.
      farthest: distances beyond share the last bucket.
      eps: of the norms.
      dtype: of the arithmetic; parameters and results are float32. In bfloat16 rather than
        float16, whose range the states leave.

    Returns:
      `TextEncoder`; `apply(params, ids, mask=None) -> Encoded`, without `pooled`.

    Raises:
      ValueError: an odd number of buckets; later a mask that does not fit.

    Reference: Raffel et al. 2019, arXiv 1910.10683.

    >>> net = t5_encoder(vocabulary=10, width=8, head_width=4, heads=2, inner=16, layers=2)
    >>> net.apply(net.init(jax.random.key(0)), jnp.array([[1, 5, 9]])).last.shape
    (1, 3, 8)
    """
    if buckets < 4 or buckets % 4:
        raise ValueError(f"buckets is {buckets}: it must be a multiple of 4")

    def make(rngs: nnx.Rngs) -> _T5:
        block: dict[str, Any] = dict(
            width=width,
            head_width=head_width,
            heads=heads,
            inner=inner,
            gated=gated,
            act=act,
            eps=eps,
            dtype=dtype,
            rngs=rngs,
        )
        return _T5(vocabulary, layers, buckets, farthest, block)

    init, module = bridge(make)

    def apply(params: PyTree, ids: Array, mask: Array | None = None) -> Encoded:
        return module(params)(ids, read_mask(ids, mask, None))

    return TextEncoder(init, apply, width, None)


def bucket(distance: Int[np.ndarray, "*n"], buckets: int, farthest: int) -> Int[np.ndarray, "*n"]:
    """The bucket of a signed distance key - query, 0 ... buckets - 1.

    >>> bucket(np.array([-200, -1, 0, 1, 7, 8, 200]), 32, 128)
    array([15,  1,  0, 17, 23, 24, 31])
    """
    half = buckets // 2
    single = half // 2
    away = np.abs(distance)
    # In float32 as the published code: a boundary must fall on the same side.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(single))
    grown = ratio / np.float32(np.log(farthest / single)) * np.float32(half - single)
    far = np.minimum(single + grown.astype(np.int64), half - 1)
    return np.where(away < single, away, far) + np.where(distance > 0, half, 0)


class _T5(nnx.Module):
    def __init__(
        self, vocabulary: int, layers: int, buckets: int, farthest: int, block: dict[str, Any]
    ):
        self.dtype, self.buckets, self.farthest = block["dtype"], buckets, farthest
        self.shared = Table(vocabulary, block["width"], deviation=1.0, rngs=block["rngs"])
        self.encoder = _Stack(layers, buckets, block)

    def __call__(self, ids: Array, mask: Array | None) -> Encoded:
        n = ids.shape[1]
        place = np.arange(n)
        which = bucket(place[None, :] - place[:, None], self.buckets, self.farthest)
        first: Any = self.encoder.block[0].layer[0]
        bias = first.SelfAttention.relative_attention_bias(jnp.asarray(which)).transpose(2, 0, 1)[
            None
        ]
        wide = None if mask is None else mask[:, None, None, :]
        states = [self.shared(ids).astype(self.dtype)]
        for block in self.encoder.block:
            states.append(block(states[-1], bias, wide))
        hidden = tuple(state.astype(jnp.float32) for state in states)
        return Encoded(self.encoder.final_layer_norm(hidden[-1]), hidden)


class _Stack(nnx.Module):
    def __init__(self, layers: int, buckets: int, block: dict[str, Any]):
        self.block = nnx.List([_Block(0 if i else buckets, block) for i in range(layers)])
        self.final_layer_norm = RMSNorm(block["width"], eps=block["eps"])


class _Block(nnx.Module):
    def __init__(self, buckets: int, block: dict[str, Any]):
        self.layer = nnx.List([_Attend(buckets, block), _Feed(block)])

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        parts: tuple[Any, ...] = tuple(self.layer)
        attend, feed = parts
        return feed(attend(x, bias, mask))


class _Attend(nnx.Module):
    def __init__(self, buckets: int, block: dict[str, Any]):
        self.SelfAttention = _SelfAttention(buckets, block)
        self.layer_norm = RMSNorm(block["width"], eps=block["eps"])

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        return x + self.SelfAttention(self.layer_norm(x), bias, mask)


class _SelfAttention(nnx.Module):
    def __init__(self, buckets: int, block: dict[str, Any]):
        width, inner = block["width"], block["heads"] * block["head_width"]
        more: dict[str, Any] = dict(bias=False, dtype=block["dtype"], rngs=block["rngs"])
        self.heads = block["heads"]
        self.q = linear(width, inner, **more)
        self.k = linear(width, inner, **more)
        self.v = linear(width, inner, **more)
        self.o = linear(inner, width, **more)
        self.relative_attention_bias = (
            Table(buckets, self.heads, rngs=block["rngs"]) if buckets else None
        )

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "1 heads n n"], mask: Array | None
    ) -> Float[Array, "b n d"]:
        q, k, v = (
            layer(x).reshape(*x.shape[:2], self.heads, -1) for layer in (self.q, self.k, self.v)
        )
        mixed = jax.nn.dot_product_attention(
            q, k, v, bias=bias, mask=mask, scale=1.0, implementation="xla"
        )
        return self.o(mixed.reshape(*x.shape[:2], -1))


class _Feed(nnx.Module):
    def __init__(self, block: dict[str, Any]):
        self.DenseReluDense = _Mlp(block)
        self.layer_norm = RMSNorm(block["width"], eps=block["eps"])

    def __call__(self, x: Array) -> Array:
        return x + self.DenseReluDense(self.layer_norm(x))


class _Mlp(nnx.Module):
    def __init__(self, block: dict[str, Any]):
        width, inner = block["width"], block["inner"]
        more: dict[str, Any] = dict(bias=False, dtype=block["dtype"], rngs=block["rngs"])
        self.act = block["act"]
        gated = block["gated"]
        self.wi_0 = linear(width, inner, **more) if gated else None
        self.wi_1 = linear(width, inner, **more) if gated else None
        if not gated:
            self.wi = linear(width, inner, **more)
        self.wo = linear(inner, width, **more)

    def __call__(self, x: Array) -> Array:
        if self.wi_0 is not None and self.wi_1 is not None:
            return self.wo(self.act(self.wi_0(x)) * self.wi_1(x))
        return self.wo(self.act(self.wi(x)))
