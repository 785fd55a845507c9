"""The diffusion transformer with adaLN-Zero: patches of an image as tokens.

In block i, with (shift, scale, gate) x 2 a linear map of the embedding e of time and class that
starts at zero,

    x <- x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
    x <- x + cross-attention(norm x, tokens)                      (if there are tokens; starts at 0)
    x <- x + gate_2 mlp(norm(x) (1 + scale_2) + shift_2)

so that every block, and with it the network, starts as the identity followed by zero.

Reference: Peebles and Xie 2022, arXiv 2212.09748, figure 3.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.attention import Attention
from jaxdiff.nets.cond import Given, read_cond
from jaxdiff.nets.embed import Embedding, positions, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import depth_to_space, layer_norm, linear, space_to_depth
from jaxdiff.types import Control, Net, PyTree, Site


def dit(
    *,
    size: int | tuple[int, int],
    patch: int,
    channels: int,
    out: int | None = None,
    width: int,
    depth: int,
    heads: int,
    classes: int = 0,
    context_dim: int = 0,
    remat: bool = False,
    scan: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """A diffusion transformer as two pure functions; the arguments are those of `DiT`.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, h, w, channels], time [b], cond) -> [b, h, w, out]`.

    >>> net = dit(size=8, patch=2, channels=3, width=16, depth=1, heads=2)
    >>> params = jax.eval_shape(net.init, jax.random.key(0))
    >>> x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    >>> jax.eval_shape(net.apply, params, x, jax.ShapeDtypeStruct((2,), jnp.float32)).shape
    (2, 8, 8, 3)
    """

    def make(rngs: nnx.Rngs) -> DiT:
        return DiT(
            size=size,
            patch=patch,
            channels=channels,
            out=out,
            width=width,
            depth=depth,
            heads=heads,
            classes=classes,
            context_dim=context_dim,
            remat=remat,
            scan=scan,
            dtype=dtype,
            rngs=rngs,
        )

    return functional(make)


class DiT(nnx.Module):
    """Diffusion transformer with adaLN-Zero.

    Args:
      size: height and width of x (one number if they are equal).
      patch: side of a patch; divides the size.
      channels: channels of x.
      out: channels of the output (default: those of x).
      width: width of the tokens, a multiple of 4 and of heads.
      depth: number of blocks.
      heads: heads of every attention.
      classes: number of classes; label `classes` is the null label. 0: unconditional.
      context_dim: width of tokens to look at by cross-attention; 0: none.
      remat: recompute each block in the backward pass instead of keeping what is inside.
      scan: walk the blocks in one loop: compiled once however many there are, and with `remat` the
        backward pass holds one block at a time. With a control the blocks are walked one by one.
      dtype: of the arithmetic; parameters and output are float32.
      rngs: for the initial parameters. The network itself is deterministic.

    Raises:
      ValueError: a patch that does not divide the size, heads that do not divide the width, an
        image of another size, a condition that does not fit.

    >>> net = DiT(size=8, patch=2, channels=3, width=16, depth=1, heads=2, rngs=nnx.Rngs(0))
    >>> net(jnp.ones((2, 8, 8, 3)), jnp.zeros(2)).shape
    (2, 8, 8, 3)
    """

    def __init__(
        self,
        *,
        size: int | tuple[int, int],
        patch: int,
        channels: int,
        out: int | None = None,
        width: int,
        depth: int,
        heads: int,
        classes: int = 0,
        context_dim: int = 0,
        remat: bool = False,
        scan: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if self.size[0] % patch or self.size[1] % patch:
            raise ValueError(f"patch is {patch}: it must divide the size {self.size}")
        if width % 4:
            raise ValueError(f"width is {width}: 2-D positions need a multiple of 4")
        self.patch, self.channels, self.width = patch, channels, width
        self.classes, self.context_dim = classes, context_dim
        self.remat, self.scan, self.dtype = remat, scan, dtype
        self.embedding = Embedding(width, classes=classes, rngs=rngs)
        self.entry = linear(patch**2 * channels, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            [
                Block(width, heads, context_dim=context_dim, dtype=dtype, rngs=rngs)
                for _ in range(depth)
            ]
        )
        self.modulation = linear(width, 2 * width, zero=True, rngs=rngs)
        self.exit = linear(width, patch**2 * (out or channels), zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b h w d"]:
        given = self._read(x, cond)
        rows, columns = (n // self.patch for n in self.size)
        place = Site("temb", "", "embed", 0, 0, "embed", (rows, columns), 0)
        embedding = self.embedding(times(time, x.shape[0]), given.label)
        embedding = ports.hook(given.control, place, "temb", embedding)
        h = self._tokens(x, rows, columns)
        h = self._walk(h, embedding, given, (rows, columns))
        shift, scale = _parts(self.modulation, embedding, 2)
        h = self.exit(_modulate(h, shift, scale)).reshape(x.shape[0], rows, columns, -1)
        return depth_to_space(h, self.patch).astype(jnp.float32)

    def _tokens(self, x: Array, rows: int, columns: int) -> Array:
        h = self.entry(space_to_depth(x.astype(self.dtype), self.patch))
        where = positions(rows, columns, self.width).astype(self.dtype)
        return h.reshape(x.shape[0], rows * columns, self.width) + where[None]

    def _walk(self, h: Array, embedding: Array, given: Given, hw: tuple[int, int]) -> Array:
        if self.scan and given.control is None:
            return self._scan(h, embedding, given, hw)
        for i, block in enumerate(self.blocks):
            place = Site(f"blocks/{i}", "", "blocks", 0, i, "block", hw, 0)
            h = self._run(block, place, given.control)(h, embedding, given.tokens, given.mask)
        return h

    def _scan(self, h: Array, embedding: Array, given: Given, hw: tuple[int, int]) -> Array:
        place = Site("blocks", "", "blocks", 0, 0, "block", hw, 0)
        split = [nnx.split(block) for block in self.blocks]
        graph, stacked = split[0][0], jax.tree.map(lambda *p: jnp.stack(p), *(s for _, s in split))

        def body(h: Array, state: PyTree) -> tuple[Array, None]:
            run = self._run(nnx.merge(graph, state), place, None)
            return run(h, embedding, given.tokens, given.mask), None

        return jax.lax.scan(body, h, stacked)[0]

    def _run(self, block: "Block", place: Site, control: Control | None) -> Callable[..., Array]:
        def run(h: Array, embedding: Array, tokens: Array | None, mask: Array | None) -> Array:
            given = Given(None, tokens, mask, control)
            return block(h, embedding, given, place=place)

        return jax.checkpoint(run) if self.remat else run

    def _read(self, x: Array, cond: PyTree) -> Given:
        if x.shape[1:] != (*self.size, self.channels):
            raise ValueError(
                f"x has shape {x.shape}: this network was built for [b, {self.size[0]}, "
                f"{self.size[1]}, {self.channels}]; resize x or build it with another size="
            )
        return read_cond(cond, batch=x.shape[0], classes=self.classes, context_dim=self.context_dim)


class Block(nnx.Module):
    """One block: attention, cross-attention if `context_dim` > 0, and an MLP, gated from zero.

    >>> block = Block(16, 2, rngs=nnx.Rngs(0))
    >>> place = Site("blocks/0", "", "blocks", 0, 0, "block", (2, 2), 0)
    >>> x = jnp.ones((1, 4, 16))
    >>> bool((block(x, jnp.ones((1, 16)), Given(), place=place) == x).all())
    True
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_dim: int = 0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.own = Attention(width, heads, dtype=dtype, rngs=rngs)

        def cross() -> Attention:
            return Attention(
                width, heads, context_dim=context_dim, zero=True, dtype=dtype, rngs=rngs
            )

        self.cross = cross() if context_dim else None
        self.mlp = Perceptron(width, dtype=dtype, rngs=rngs)
        self.modulation = linear(width, 6 * width, zero=True, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        embedding: Float[Array, "b d"],
        given: Given,
        *,
        place: Site,
    ) -> Float[Array, "b n d"]:
        control = given.control
        shift1, scale1, gate1, shift2, scale2, gate2 = _parts(self.modulation, embedding, 6)
        where = _inside(place, "own", "self", self.own.heads)
        h = self.own(_modulate(x, shift1, scale1), control=control, place=where)
        x = x + gate1.astype(x.dtype) * h
        if self.cross is not None:
            where = _inside(place, "cross", "cross", self.cross.heads)
            x = x + self.cross(
                layer_norm(x), given.tokens, given.mask, control=control, place=where
            )
        h = gate2.astype(x.dtype) * self.mlp(_modulate(x, shift2, scale2))
        x = x + ports.hook(control, _inside(place, "mlp", "mlp", 0), "resnet", h)
        return ports.hook(control, place, "block", x)


class Perceptron(nnx.Module):
    """Two linear maps with a GELU between, four times as wide inside.

    >>> Perceptron(8, rngs=nnx.Rngs(0))(jnp.ones((1, 4, 8))).shape
    (1, 4, 8)
    """

    def __init__(self, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.grow = linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.shrink = linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.shrink(jax.nn.gelu(self.grow(x), approximate=True))


def _parts(modulation: nnx.Linear, embedding: Array, count: int) -> list[Array]:
    """`count` vectors [b, 1, d] for shifts, scales and gates."""
    return jnp.split(modulation(jax.nn.silu(embedding))[:, None, :], count, axis=-1)


def _modulate(x: Array, shift: Array, scale: Array) -> Array:
    wide = layer_norm(x).astype(jnp.float32)
    return (wide * (1 + scale) + shift).astype(x.dtype)


def _inside(place: Site, name: str, kind: str, heads: int) -> Site:
    return replace(place, path=f"{place.path}/{name}", kind=kind, heads=heads)
