"""BERT: a transformer over text that looks both ways, with norms after each sum.

    x <- norm(x + attention(x)),   x <- norm(x + mlp(x))

MiniLM and most small encoders of sentences are of this kind; `sentence` makes one vector of the
tokens.

Reference: Devlin et al. 2018, arXiv 1810.04805; Wang et al. 2020, arXiv 2002.10957.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import LayerNorm, Table, linear
from jaxdiff.nets.text.clip import gelu
from jaxdiff.nets.text.record import Encoded, TextEncoder, check_heads, read_mask
from jaxdiff.types import PyTree


def bert(
    *,
    vocabulary: int = 30522,
    tokens: int = 512,
    segments: int = 2,
    width: int = 768,
    inner: int = 3072,
    layers: int = 12,
    heads: int = 12,
    pooler: bool = True,
    act: Callable[[Array], Array] = gelu,
    eps: float = 1e-12,
    dtype: DTypeLike = jnp.float32,
) -> TextEncoder:
    """BERT as pure functions.

    Args:
      vocabulary: number of tokens that it knows.
      tokens: the most in a text.
      segments: number of kinds of segments.
      width: of the tokens.
      inner: width inside the mlp.
      layers: number of layers.
      heads: of the attention; must divide the width.
      pooler: `pooled` is tanh of a linear map of the first token; without, None.
      act: inside the mlp.
      eps: of the norms.
      dtype: of the arithmetic; parameters and results are float32.

    Returns:
      `TextEncoder`; `apply(params, ids, mask=None, segment=None) -> Encoded`, where segment [b, n]
      is 0 by default.

    Raises:
      ValueError: heads that do not divide; later too many tokens, or a mask that does not fit.

    Reference: Devlin et al. 2018, arXiv 1810.04805.

    >>> net = bert(vocabulary=10, tokens=8, width=8, inner=16, layers=1, heads=2)
    >>> out = net.apply(net.init(jax.random.key(0)), jnp.array([[1, 5, 9]]))
    >>> out.last.shape, out.pooled.shape
    ((1, 3, 8), (1, 8))
    """
    check_heads(width, heads)

    def make(rngs: nnx.Rngs) -> _Bert:
        block: dict[str, Any] = dict(
            width=width, inner=inner, heads=heads, act=act, eps=eps, dtype=dtype, rngs=rngs
        )
        return _Bert((vocabulary, tokens, segments), layers, pooler, block)

    init, module = bridge(make)

    def apply(
        params: PyTree, ids: Array, mask: Array | None = None, segment: Array | None = None
    ) -> Encoded:
        segment = jnp.zeros_like(ids) if segment is None else segment
        return module(params)(ids, read_mask(ids, mask, tokens), segment)

    return TextEncoder(init, apply, width, tokens)


class _Bert(nnx.Module):
    def __init__(
        self, rows: tuple[int, int, int], layers: int, pooler: bool, block: dict[str, Any]
    ):
        self.dtype = block["dtype"]
        self.embeddings = _Words(rows, block)
        self.encoder = _Stack(layers, block)
        self.pooler = _Pooler(block) if pooler else None

    def __call__(self, ids: Array, mask: Array | None, segment: Array) -> Encoded:
        wide = None if mask is None else mask[:, None, None, :]
        states = [self.embeddings(ids, segment).astype(self.dtype)]
        for layer in self.encoder.layer:
            states.append(layer(states[-1], wide))
        hidden = tuple(state.astype(jnp.float32) for state in states)
        pooled = None if self.pooler is None else self.pooler(hidden[-1])
        return Encoded(hidden[-1], hidden, pooled)


class _Words(nnx.Module):
    def __init__(self, rows: tuple[int, int, int], block: dict[str, Any]):
        words, places, segments = rows
        width, rngs = block["width"], block["rngs"]
        self.word_embeddings = Table(words, width, rngs=rngs)
        self.position_embeddings = Table(places, width, rngs=rngs)
        self.token_type_embeddings = Table(segments, width, rngs=rngs)
        self.LayerNorm = LayerNorm(width, eps=block["eps"])

    def __call__(self, ids: Array, segment: Array) -> Array:
        places = self.position_embeddings(jnp.arange(ids.shape[1]))[None]
        words = self.word_embeddings(ids) + self.token_type_embeddings(segment)
        return self.LayerNorm(words + places)


class _Stack(nnx.Module):
    def __init__(self, layers: int, block: dict[str, Any]):
        self.layer = nnx.List([_Layer(block) for _ in range(layers)])


class _Layer(nnx.Module):
    def __init__(self, block: dict[str, Any]):
        width, inner = block["width"], block["inner"]
        self.act = block["act"]
        self.attention = _Attention(block)
        self.intermediate = nnx.Dict({"dense": _linear(width, inner, block)})
        self.output = _Sum(inner, block)

    def __call__(self, x: Array, mask: Array | None) -> Array:
        x = self.attention(x, mask)
        return self.output(self.act(self.intermediate["dense"](x)), x)


class _Attention(nnx.Module):
    def __init__(self, block: dict[str, Any]):
        self.heads = block["heads"]
        width = block["width"]
        maps = {name: _linear(width, width, block) for name in ("query", "key", "value")}
        self.self = nnx.Dict(maps)  # the name in the checkpoints
        self.output = _Sum(width, block)

    def __call__(self, x: Array, mask: Array | None) -> Array:
        maps = self.self
        q, k, v = (
            maps[name](x).reshape(*x.shape[:2], self.heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
        return self.output(mixed.reshape(x.shape), x)


class _Sum(nnx.Module):
    """norm(x + W h)."""

    def __init__(self, inputs: int, block: dict[str, Any]):
        self.dense = _linear(inputs, block["width"], block)
        self.LayerNorm = LayerNorm(block["width"], eps=block["eps"])

    def __call__(self, h: Array, x: Array) -> Array:
        return self.LayerNorm(self.dense(h) + x)


class _Pooler(nnx.Module):
    def __init__(self, block: dict[str, Any]):
        self.dense = _linear(block["width"], block["width"], block)

    def __call__(self, last: Array) -> Array:
        return jnp.tanh(self.dense(last[:, 0])).astype(jnp.float32)


def _linear(inputs: int, outputs: int, block: dict[str, Any]) -> nnx.Linear:
    return linear(inputs, outputs, dtype=block["dtype"], rngs=block["rngs"])
