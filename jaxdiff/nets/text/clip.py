"""CLIP: a transformer over text with a causal mask, and one over patches of an image.

Both are stacks of x + attention(norm(x)), x + mlp(norm(x)). A text is summed up by its state at the
end token, an image by that of an extra token; a linear map (if there is one) takes either into the
space that they share.

The end token is found in two ways. Checkpoints whose config says 2 (a slip that stayed) take the
place of the largest number in the row, which for CLIP's vocabulary is the end token; the others
take the first place of the end token itself.

Reference: Radford et al. 2021, arXiv 2103.00020.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.nets.functional import bridge
from jaxdiff.nets.layers import LayerNorm, Table, linear
from jaxdiff.nets.text.record import Encoded, TextEncoder, check_heads, read_mask
from jaxdiff.types import PyTree

_LARGEST = 2


def quick_gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x sigmoid(1.702 x), the activation of the first CLIP.

    Reference: Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2.

    >>> round(quick_gelu(jnp.array([1.0])).item(), 4)
    0.8458
    """
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x Phi(x), exactly.

    >>> round(gelu(jnp.array([1.0])).item(), 4)
    0.8413
    """
    return jax.nn.gelu(x, approximate=False)


def clip_text(
    *,
    vocabulary: int = 49408,
    tokens: int = 77,
    width: int = 768,
    inner: int | None = None,
    layers: int = 12,
    heads: int = 12,
    project: int = 0,
    end: int = 49407,
    act: Callable[[Array], Array] = quick_gelu,
    eps: float = 1e-5,
    dtype: DTypeLike = jnp.float32,
) -> TextEncoder:
    """CLIP's text encoder as pure functions.

    Args:
      vocabulary: number of tokens that it knows.
      tokens: the most in a text.
      width: of the tokens.
      inner: width inside the mlp; by default 4 times the width.
      layers: number of layers.
      heads: of the attention; must divide the width.
      project: width of the shared space, with a map into it; 0: none, and `pooled` is the state
        at the end token.
      end: the end token; 2 takes the largest number of the row instead.
      act: inside the mlp: `quick_gelu` (OpenAI) or `gelu` (OpenCLIP).
      eps: of the norms.
      dtype: of the arithmetic; parameters and results are float32.

    Returns:
      `TextEncoder`; `apply(params, ids, mask=None) -> Encoded`. Diffusion models are trained
      without the mask.

    Raises:
      ValueError: heads that do not divide; later too many tokens, or a mask that does not fit.

    Reference: Radford et al. 2021, arXiv 2103.00020, section 2.4.

    >>> net = clip_text(vocabulary=10, width=8, layers=2, heads=2, end=9)
    >>> out = net.apply(net.init(jax.random.key(0)), jnp.array([[1, 5, 9]]))
    >>> out.last.shape, len(out.hidden), out.pooled.shape
    ((1, 3, 8), 3, (1, 8))
    """
    check_heads(width, heads)

    def make(rngs: nnx.Rngs) -> _Text:
        tower = _TextTower(
            vocabulary, tokens, width, inner or 4 * width, layers, heads, act, eps, dtype, rngs
        )
        return _Text(tower, width, project, dtype, rngs)

    init, module = bridge(make)

    def apply(params: PyTree, ids: Array, mask: Array | None = None) -> Encoded:
        return module(params)(ids, read_mask(ids, mask, tokens), end)

    return TextEncoder(init, apply, width, tokens)


class Tower(nnx.Module):
    """The stack of layers; its call returns the input and the result of every layer.

    >>> tower = Tower(8, 16, 2, 2, gelu, 1e-5, jnp.float32, nnx.Rngs(0))
    >>> len(tower(jnp.ones((1, 3, 8)), None, causal=False))
    3
    """

    def __init__(
        self,
        width: int,
        inner: int,
        layers: int,
        heads: int,
        act: Callable[[Array], Array],
        eps: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.layers = nnx.List(
            [Layer(width, inner, heads, act, eps, dtype, rngs) for _ in range(layers)]
        )

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None, *, causal: bool
    ) -> tuple[Float[Array, "b n d"], ...]:
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask, causal))
        return tuple(states)


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        inner: int,
        heads: int,
        act: Callable[[Array], Array],
        eps: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.self_attn = _Attention(width, heads, dtype, rngs)
        self.layer_norm1 = LayerNorm(width, eps=eps)
        self.mlp = _Mlp(width, inner, act, dtype, rngs)
        self.layer_norm2 = LayerNorm(width, eps=eps)

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None, causal: bool
    ) -> Float[Array, "b n d"]:
        x = x + self.self_attn(self.layer_norm1(x), mask, causal)
        return x + self.mlp(self.layer_norm2(x))


class _Attention(nnx.Module):
    def __init__(self, width: int, heads: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.q_proj = linear(width, width, dtype=dtype, rngs=rngs)
        self.k_proj = linear(width, width, dtype=dtype, rngs=rngs)
        self.v_proj = linear(width, width, dtype=dtype, rngs=rngs)
        self.out_proj = linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, mask: Array | None, causal: bool) -> Array:
        q, k, v = (
            layer(x).reshape(*x.shape[:2], self.heads, -1)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        wide = None if mask is None else mask[:, None, None, :]
        mixed = jax.nn.dot_product_attention(
            q, k, v, mask=wide, is_causal=causal, implementation="xla"
        )
        return self.out_proj(mixed.reshape(x.shape))


class _Mlp(nnx.Module):
    def __init__(
        self,
        width: int,
        inner: int,
        act: Callable[[Array], Array],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.fc1 = linear(width, inner, dtype=dtype, rngs=rngs)
        self.fc2 = linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc2(self.act(self.fc1(x)))


class _Words(nnx.Module):
    def __init__(self, vocabulary: int, tokens: int, width: int, rngs: nnx.Rngs):
        self.token_embedding = Table(vocabulary, width, rngs=rngs)
        self.position_embedding = Table(tokens, width, rngs=rngs)

    def __call__(self, ids: Array) -> Array:
        places = self.position_embedding(jnp.arange(ids.shape[1]))
        return self.token_embedding(ids) + places[None]


class _TextTower(nnx.Module):
    def __init__(
        self,
        vocabulary: int,
        tokens: int,
        width: int,
        inner: int,
        layers: int,
        heads: int,
        act: Callable[[Array], Array],
        eps: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.embeddings = _Words(vocabulary, tokens, width, rngs)
        self.encoder = Tower(width, inner, layers, heads, act, eps, dtype, rngs)
        self.final_layer_norm = LayerNorm(width, eps=eps)

    def __call__(self, ids: Array, mask: Array | None) -> tuple[Array, tuple[Array, ...]]:
        states = self.encoder(self.embeddings(ids).astype(self.dtype), mask, causal=True)
        hidden = tuple(state.astype(jnp.float32) for state in states)
        return self.final_layer_norm(hidden[-1]), hidden


class _Text(nnx.Module):
    def __init__(
        self, tower: _TextTower, width: int, project: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.text_model = tower
        self.text_projection = (
            linear(width, project, bias=False, dtype=dtype, rngs=rngs) if project else None
        )

    def __call__(self, ids: Array, mask: Array | None, end: int) -> Encoded:
        last, hidden = self.text_model(ids, mask)
        pooled = jnp.take_along_axis(last, _place(ids, end)[:, None, None], axis=1)[:, 0]
        if self.text_projection is not None:
            pooled = self.text_projection(pooled).astype(jnp.float32)
        return Encoded(last, hidden, pooled)


def _place(ids: Int[Array, "b n"], end: int) -> Int[Array, " b"]:
    return jnp.argmax(ids if end == _LARGEST else ids == end, axis=1)
