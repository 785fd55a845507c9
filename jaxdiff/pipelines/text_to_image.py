"""Text to image, and class to image."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff.pipelines.generate import Progress, guided, pixels_of, walk
from jaxdiff.pipelines.latents import decode, latent_shape
from jaxdiff.pipelines.parts import Pretrained
from jaxdiff.pipelines.texts import Cond, condition
from jaxdiff.types import Sampler


def text_to_image(
    key: Key[Array, ""],
    loaded: Pretrained,
    prompts: Sequence[str],
    *,
    negative: str | Sequence[str] = "",
    scale: float = 7.5,
    rescale: float = 0.0,
    steps: int = 30,
    size: int | tuple[int, int] | None = None,
    sampler: Sampler | None = None,
    start: Array | None = None,
    progress: Progress | None = None,
    windows: bool = True,
    length: int | None = None,
    beside: Mapping[str, Array] | None = None,
) -> Float[Array, "b h w c"]:
    """Images of prompts, one each.

    Args:
      key: one key; image i is made from it and i alone.
      loaded: Stable Diffusion 1, 2, XL, PixArt, SD3 or FLUX, by `jaxdiff.load`.
      prompts: texts; (more:1.3) and [less] are weights.
      negative: what to keep away from, one text for all or one for each.
      scale: of guidance; 1 is none. FLUX is told it instead of being guided.
      rescale: share in [0, 1] of the image whose spread is brought back.
      steps: of the sampler.
      size: height and width in pixels; by default what the network was trained for.
      sampler: instead of the checkpoint's own.
      start: standard normal noise [b, h, w, c] of latents instead of the key's.
      progress: see `walk`.
      windows: see `condition`.
      length: see `condition`.
      beside: more of the condition, for both branches: hint and hint_scale of a ControlNet,
        residuals of an adapter.

    Returns:
      [b, h, w, 3] in about [-1, 1].

    Raises:
      ValueError: a size that the network cannot take, brackets that do not fit, another number of
        negative prompts than of prompts.
    """
    shape = latent_shape(loaded, len(prompts), size)
    cond, null = conditions(
        loaded, prompts, negative, shape, scale=scale, windows=windows, length=length
    )
    more = dict(beside or {})
    cond, null = cond | more, None if null is None else null | more
    denoise = guided(loaded, cond, null, scale, rescale)
    z = walk(
        key, loaded, denoise, shape, steps=steps, sampler=sampler, start=start, progress=progress
    )
    return decode(loaded, z)


def conditions(
    loaded: Pretrained,
    prompts: Sequence[str],
    negative: str | Sequence[str],
    shape: tuple[int, ...],
    *,
    scale: float,
    windows: bool = True,
    length: int | None = None,
) -> tuple[Cond, Cond | None]:
    """The condition of prompts and that of negative ones; None where there is no guidance."""
    size = pixels_of(loaded, shape)
    told = bool(loaded.config.get("guidance_embeds"))
    others = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
    if len(others) != len(prompts):
        raise ValueError(
            f"{len(others)} negative prompts for {len(prompts)} prompts: give one, or one for each"
        )
    whole = condition(
        loaded,
        prompts if told or scale == 1 else [*prompts, *others],
        size=size,
        windows=windows,
        length=length,
        scale=scale,
    )
    if told or scale == 1:
        return whole, None
    cond = jax.tree.map(lambda leaf: leaf[: len(prompts)], whole)
    null = jax.tree.map(lambda leaf: leaf[len(prompts) :], whole)
    if _zeroed(loaded, others):
        null |= {name: jnp.zeros_like(null[name]) for name in ("tokens", "pooled")}
    return cond, null


def _zeroed(loaded: Pretrained, others: Sequence[str]) -> bool:
    """SDXL is guided away from zeros, not from the empty prompt, where its pipeline says so."""
    says = bool(loaded.whole.get("force_zeros_for_empty_prompt", False))
    return says and not any(others)


def class_to_image(
    key: Key[Array, ""],
    loaded: Pretrained,
    labels: Int[Array, " b"],
    *,
    scale: float = 4.0,
    steps: int = 50,
    sampler: Sampler | None = None,
    start: Array | None = None,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Images of classes, by DiT and its kin.

    Args:
      key: one key.
      loaded: a checkpoint whose network reads class labels.
      labels: [b] integers; the null label is the number of classes.
      scale: of guidance; 1 is none.
      steps: of the sampler.
      sampler: instead of the checkpoint's own.
      start: standard normal noise instead of the key's.
      progress: see `walk`.

    Returns:
      [b, h, w, 3] in about [-1, 1].

    Raises:
      ValueError: a label outside 0 .. classes.
    """
    labels = jnp.asarray(labels)
    shape = latent_shape(loaded, labels.shape[0], None)
    classes = loaded.config.get("num_embeds_ada_norm") or loaded.config.get("num_class_embeds")
    if classes is None:
        raise ValueError(f"a {loaded.kind} with this config reads no class labels")
    null = None if scale == 1 else jnp.full_like(labels, int(classes))
    denoise = guided(loaded, labels, null, scale)
    z = walk(
        key, loaded, denoise, shape, steps=steps, sampler=sampler, start=start, progress=progress
    )
    return decode(loaded, z)
