"""The residual block of published U-Nets: one function, and the module in the names of diffusers.

    h = conv1(resample(silu(norm1(x))))
    h = conv2(silu(norm2(h + W e)))             or, with FiLM,  conv2(silu(norm2(h) (1 + s) + t))
    y = (short(resample(x)) + h) * scale

DDPM, DDPM++, NCSN++, ADM and latent diffusion differ in what resample, FiLM and scale are, and in
the names of their parameters.

Reference: Ho et al. 2020, arXiv 2006.11239, appendix B; Song et al. 2021, arXiv 2011.13456,
appendix H; Dhariwal and Nichol 2021, arXiv 2105.05233, section 3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.nets import control as ports
from jaxdiff.nets.layers import GroupNorm, conv, linear
from jaxdiff.types import Control, Site

Resample = Callable[[Array], Array]


def residual(
    x: Float[Array, "b h w c"],
    vector: Float[Array, "b e"],
    *,
    norm1: GroupNorm,
    conv1: Callable[[Array], Array],
    norm2: GroupNorm,
    conv2: Callable[[Array], Array],
    short: Callable[[Array], Array] | None,
    resample: Resample | None = None,
    film: bool = False,
    scale: float = 1.0,
    control: Control | None = None,
    place: Site,
) -> Float[Array, "b h2 w2 d"]:
    """The residual block, of layers that are given.

    Args:
      x: [b, h, w, c].
      vector: [b, d] or, with FiLM, [b, 2 d]: what the embedding was mapped to for this block.
      norm1: of x.
      conv1: c -> d.
      norm2: of what conv1 gave.
      conv2: d -> d.
      short: c -> d on the way around, or None where c = d.
      resample: to another resolution, in both ways.
      film: the vector is a scale and a shift after norm2, instead of a shift before it.
      scale: of the sum.
      control: asked at the port resnet of `place`.
      place: the site.
    """
    h, around = jax.nn.silu(norm1(x)), x
    if resample is not None:
        h, around = resample(h), resample(around)
    h = conv1(h)
    if film:
        gain, shift = jnp.split(vector, 2, axis=1)
        h = norm2(h, (gain, shift))
    else:
        h = norm2(h + vector[:, None, None, :].astype(h.dtype))
    h = ports.hook(control, place, "resnet", conv2(jax.nn.silu(h)))
    around = around if short is None else short(around)
    return (around + h) * scale if scale != 1.0 else around + h


class Resnet(nnx.Module):
    """The residual block in the names of diffusers.

    `after` is the number of groups of the second norm, `short` forces a map on the way around.

    >>> block = Resnet(4, 8, embed_dim=6, groups=2, rngs=nnx.Rngs(0))
    >>> place = Site("", "", "down", 0, 0, "conv", (4, 4), 0)
    >>> block(jnp.ones((1, 4, 4, 4)), jnp.ones((1, 6)), place=place).shape
    (1, 4, 4, 8)
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        embed_dim: int,
        groups: int,
        after: int | None = None,
        eps: float = 1e-5,
        film: bool = False,
        scale: float = 1.0,
        resample: Resample | None = None,
        short: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.film, self.scale, self.resample = film, scale, resample
        self.norm1 = GroupNorm(inputs, groups=groups, eps=eps)
        self.conv1 = conv(inputs, width, dtype=dtype, rngs=rngs)
        self.time_emb_proj = linear(embed_dim, (1 + film) * width, rngs=rngs)
        self.norm2 = GroupNorm(width, groups=after or groups, eps=eps)
        self.conv2 = conv(width, width, zero=True, dtype=dtype, rngs=rngs)
        needed = short or inputs != width
        self.conv_shortcut = conv(inputs, width, size=1, dtype=dtype, rngs=rngs) if needed else None

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        embedding: Float[Array, "b e"],
        *,
        control: Control | None = None,
        place: Site,
    ) -> Float[Array, "b h2 w2 d"]:
        return residual(
            x,
            self.time_emb_proj(jax.nn.silu(embedding)),
            norm1=self.norm1,
            conv1=self.conv1,
            norm2=self.norm2,
            conv2=self.conv2,
            short=self.conv_shortcut,
            resample=self.resample,
            film=self.film,
            scale=self.scale,
            control=control,
            place=place,
        )
