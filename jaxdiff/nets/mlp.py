"""A residual MLP for points of the plane and other short vectors."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.cond import read_cond
from jaxdiff.nets.embed import Embedding, times
from jaxdiff.nets.functional import functional
from jaxdiff.nets.layers import linear
from jaxdiff.types import Control, Net, PyTree, Site


def mlp(
    *,
    dim: int,
    width: int = 128,
    depth: int = 3,
    classes: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Net:
    """A residual MLP as two pure functions; the arguments are those of `MLP`.

    Returns:
      `Net(init, apply)`; `apply(params, x [b, dim], time [b], cond) -> [b, dim]`.

    >>> net = mlp(dim=2, width=16, depth=1)
    >>> params = net.init(jax.random.key(0))
    >>> net.apply(params, jnp.ones((5, 2)), jnp.zeros(5)).shape
    (5, 2)
    """

    def make(rngs: nnx.Rngs) -> MLP:
        return MLP(dim=dim, width=width, depth=depth, classes=classes, dtype=dtype, rngs=rngs)

    return functional(make)


class MLP(nnx.Module):
    """x -> h_0 = W x;  h <- h + B silu(A silu(h + M silu(e)));  out = C silu(h), C from zero.

    e is the embedding of time and class.

    Args:
      dim: length of x.
      width: of the hidden layers.
      depth: number of residual blocks.
      classes: number of classes; label `classes` is the null label. 0: unconditional.
      dtype: of the arithmetic; parameters and output are float32.
      rngs: for the initial parameters. The network itself is deterministic.

    >>> MLP(dim=2, width=16, depth=1, rngs=nnx.Rngs(0))(jnp.ones((5, 2)), jnp.zeros(5)).shape
    (5, 2)
    """

    def __init__(
        self,
        *,
        dim: int,
        width: int,
        depth: int,
        classes: int = 0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dim, self.classes, self.dtype = dim, classes, dtype
        self.embedding = Embedding(width, classes=classes, rngs=rngs)
        self.entry = linear(dim, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([Block(width, dtype=dtype, rngs=rngs) for _ in range(depth)])
        self.exit = linear(width, dim, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b d"],
        time: Float[Array, " b"] | Float[Array, ""],
        cond: PyTree = None,
    ) -> Float[Array, "b d"]:
        if x.shape[1] != self.dim:
            raise ValueError(f"x has length {x.shape[1]}: this network was built with {self.dim=}")
        given = read_cond(cond, batch=x.shape[0], classes=self.classes)
        place = Site("temb", "", "embed", 0, 0, "embed", (1, 1), 0)
        embedding = self.embedding(times(time, x.shape[0]), given.label)
        embedding = ports.hook(given.control, place, "temb", embedding)
        h = self.entry(x.astype(self.dtype))
        for i, block in enumerate(self.blocks):
            place = Site(f"blocks/{i}", "", "blocks", 0, i, "mlp", (1, 1), 0)
            h = block(h, embedding, control=given.control, place=place)
        return self.exit(jax.nn.silu(h)).astype(jnp.float32)


class Block(nnx.Module):
    """One residual block: h + B silu(A silu(h + M silu(e))), B starting at zero.

    >>> place = Site("blocks/0", "", "blocks", 0, 0, "mlp", (1, 1), 0)
    >>> Block(4, rngs=nnx.Rngs(0))(jnp.ones((1, 4)), jnp.ones((1, 4)), place=place)
    Array([[1., 1., 1., 1.]], dtype=float32)
    """

    def __init__(self, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.modulation = linear(width, width, dtype=dtype, rngs=rngs)
        self.first = linear(width, width, dtype=dtype, rngs=rngs)
        self.second = linear(width, width, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b d"],
        embedding: Float[Array, "b d"],
        *,
        control: Control | None = None,
        place: Site,
    ) -> Float[Array, "b d"]:
        h = jax.nn.silu(x + self.modulation(jax.nn.silu(embedding)))
        h = self.second(jax.nn.silu(self.first(h)))
        x = x + ports.hook(control, place, "resnet", h)
        return ports.hook(control, place, "block", x)
