"""SAG: guidance away from an image that is blurred where the network looks.

Where the self-attention of a first call looks (its map, averaged over heads and summed over
queries, is above a threshold), x_0 is blurred: x~_0 = M blur(x_0) + (1 - M) x_0. With the noise
kept, x~_t = x_t + alpha (x~_0 - x_0), and the network asked again,

    eps' = eps(x_t) + s (eps(x_t) - eps(x~_t))   is   x_0' = x_0 + s (x~_0 - E[x_0 | x~_t]),

which is regular at alpha = 0. Hong et al. 2022, arXiv:2210.00939.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.image
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Model, Number, numeric, value_at
from jaxdiff.denoise.door import condition_at
from jaxdiff.guidance.attention import SelfProbs, Sites, middle
from jaxdiff.guidance.kernel import no_jacobian
from jaxdiff.guidance.taps import controlled, tapped
from jaxdiff.process import scales
from jaxdiff.trees import combine
from jaxdiff.types import At, Estimate, PyTree, Site, number


def _received(site: Site) -> Callable[[Array], Array]:
    """How much every pixel is looked at: [b, heads, n, n] -> [b, h, w], 1 on average."""
    return lambda probs: jnp.sum(jnp.mean(probs, axis=1), axis=1).reshape(-1, *site.hw)


def _blurred(x: Array, width: Array, size: int) -> Array:
    """A Gaussian blur of images [b, h, w, c], `size` taps a side, mirrored at the edges."""
    reach = size // 2
    taps = jnp.exp(-((jnp.arange(size) - reach) ** 2) / (2 * width**2)).astype(x.dtype)
    taps = taps / jnp.sum(taps)
    for axis in (1, 2):
        rim = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
        wide, n = jnp.pad(x, rim, mode="reflect"), x.shape[axis]
        parts = [taps[k] * jax.lax.slice_in_dim(wide, k, k + n, axis=axis) for k in range(size)]
        x = sum(parts[1:], parts[0])
    return x


class _Sag:
    """The denoiser of SAG with a static size of its blur; equal by it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sag) and self.size == other.size

    def __hash__(self) -> int:
        return hash((_Sag, self.size))

    def __call__(
        self, ask: Any, plain: Any, settings: Any, process: Any, x: Any, t: Any, now: Any
    ) -> Estimate:
        scale, threshold, width = settings
        _check_image(x, self.size)
        est = ask(x, t, now)
        at = At(x, t, *scales(process, t), no_jacobian, now)
        mask = _looked_at(est.aux["taps"], x.shape) > threshold
        worse = jnp.where(mask, _blurred(est.x0, width, self.size), est.x0)
        moved = combine((1.0, x), (at.alpha, worse), (-at.alpha, est.x0))
        again = plain(moved, t, now).x0
        aux = {name: part for name, part in est.aux.items() if name != "taps"}
        away = combine((1.0, worse), (-1.0, again))
        return Estimate(combine((1.0, est.x0), (value_at(scale, at), away)), None, aux)


def _check_image(x: Any, size: int) -> None:
    shape = jnp.shape(x)
    if len(shape) != 4 or min(shape[1:3]) <= size // 2:
        raise ValueError(
            f"x of shape {shape}, blur of size {size}: self-attention guidance blurs images "
            "[b, h, w, c] with h, w above half of the size of the blur"
        )


def _looked_at(taps: dict[str, Array], shape: tuple[int, ...]) -> Array:
    """The attention that pixels receive, mean over the sites, at the size of x: [b, h, w, 1]."""
    maps = [jax.image.resize(m, shape[:3], "nearest") for m in taps.values()]
    return (sum(maps[1:], maps[0]) / len(maps))[..., None]


def sag(
    model: Model,
    cond: PyTree,
    scale: Number,
    *,
    sites: Sites = middle,
    threshold: float | Array = 1.0,
    width: float | Array = 1.0,
    size: int = 9,
) -> Denoiser:
    """Self-attention guidance: x_0' = x_0 + scale (x~_0 - E[x_0 | x~_t]), two calls at b.

    Args:
      model: a model of images whose network asks a control at its attention maps.
      cond: None, labels, a dict, or a function of `now` to one of them.
      scale: s; 0 is the plain model. A number, [b], or At -> scalar.
      sites: Site -> bool, the self-attentions whose maps are averaged; static.
      threshold: blurred is where a pixel is looked at more than this; the average is 1.
      width: standard deviation of the blur, in pixels of x.
      size: of the blur, odd, static.

    Raises:
      ValueError: if size is not odd; when called, if x is no image or smaller than the blur, or no
        self-attention is chosen.

    Hong et al. 2022, arXiv:2210.00939, algorithm 1.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size={size}: a blur has an odd number of taps")
    listen = tapped(model, Partial(SelfProbs(sites, _received)))
    ask, plain = (Partial(_asked, m.fn, controlled(cond, None)) for m in (listen, model))
    settings = numeric(scale), number(threshold), number(width)
    fn = Partial(_Sag(size), ask, plain, settings, model.process)
    return Denoiser(model.process, fn, span=model.span)


def _asked(fn: Any, cond: Any, x: Any, t: Any, now: Any) -> Estimate:
    return fn(x, t, condition_at(cond, now), now)
