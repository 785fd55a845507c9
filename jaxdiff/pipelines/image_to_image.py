"""From an image: image to image with a strength, inpainting, following an instruction, upscaling.

    image to image   noise the latents to the level of `strength` and walk from there (SDEdit)
    inpainting       networks of 9 channels read mask and hidden image beside x; for others what is
                     seen is put back at its noise level after every step
    instruction      x_0 = x_0(0,0) + s_I (x_0(I,0) - x_0(0,0)) + s_T (x_0(I,T) - x_0(I,0))
    upscaling        the small image, noised to a level that the network is told, lies beside x

Reference: Meng et al. 2021, arXiv 2108.01073 (SDEdit); Rombach et al. 2022, arXiv 2112.10752;
Brooks et al. 2023, arXiv 2211.09800, eq. (3); Ho et al. 2021, arXiv 2106.15282 (levels).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from jaxdiff.denoise import check_range, mix
from jaxdiff.pipelines.generate import Progress, guided, walk
from jaxdiff.pipelines.latents import channels, decode, encode, factor
from jaxdiff.pipelines.parts import Pretrained
from jaxdiff.pipelines.schedule import Schedule
from jaxdiff.pipelines.text_to_image import conditions
from jaxdiff.process import Process, perturb
from jaxdiff.samplers import after
from jaxdiff.trees import fold, normal
from jaxdiff.types import GUIDE, Estimate, Now, Sampler, number


def image_to_image(
    key: Key[Array, ""],
    loaded: Pretrained,
    prompts: Sequence[str],
    image: Float[Array, "b h w c"],
    *,
    strength: float = 0.8,
    negative: str | Sequence[str] = "",
    scale: float = 7.5,
    steps: int = 50,
    sampler: Sampler | None = None,
    start: Array | None = None,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Images like the given ones, as far as `strength` leaves them.

    Args:
      key: one key.
      loaded: a checkpoint that reads text.
      prompts: b texts.
      image: [b, h, w, 3] in [-1, 1].
      strength: in (0, 1]: the share of the steps that is walked; 1 forgets the image.
      negative: see `text_to_image`.
      scale: see `text_to_image`.
      steps: of the whole grid.
      sampler: instead of the checkpoint's own.
      start: the noise [b, hz, wz, cz] instead of the key's.
      progress: see `walk`.

    Returns:
      [b, h, w, 3] in about [-1, 1].

    Raises:
      ValueError: another number of images than of prompts, an image outside [-1, 1], sides that
        the network cannot take, strength outside (0, 1].
    """
    z = _latents(loaded, prompts, image, jax.random.fold_in(key, 1))
    cond, null = conditions(loaded, prompts, negative, z.shape, scale=scale)
    denoise = guided(loaded, cond, null, scale)
    out = walk(
        key,
        loaded,
        denoise,
        z.shape,
        steps=steps,
        sampler=sampler,
        start=start,
        progress=progress,
        image=z,
        strength=strength,
    )
    return decode(loaded, out)


def inpaint(
    key: Key[Array, ""],
    loaded: Pretrained,
    prompts: Sequence[str],
    image: Float[Array, "b h w c"],
    hidden: Array,
    *,
    negative: str | Sequence[str] = "",
    scale: float = 7.5,
    steps: int = 50,
    sampler: Sampler | None = None,
    start: Array | None = None,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Fill in what is hidden, as a prompt says.

    Args:
      key: one key.
      loaded: a checkpoint that reads text, made for inpainting or not.
      prompts: b texts.
      image: [b, h, w, 3] in [-1, 1]; what is hidden of it is not looked at by the former.
      hidden: [b, h, w, 1], 1 where to fill in, 0 where to keep.
      negative: see `text_to_image`.
      scale: see `text_to_image`.
      steps: of the sampler.
      sampler: instead of the checkpoint's own.
      start: the noise of latents instead of the key's.
      progress: see `walk`.

    Returns:
      [b, h, w, 3]; latents that are seen are those of the image.

    Raises:
      ValueError: as for `image_to_image`; a mask of another shape or outside [0, 1].
    """
    _check_mask(hidden, image)
    hole = hidden > 0.5
    seen = jnp.where(hole, 0.0, image)
    beside = int(loaded.config.get("in_channels", 4)) == 9
    z = _latents(loaded, prompts, seen if beside else image, jax.random.fold_in(key, 1))
    f = factor(loaded)
    small = hole[:, ::f, ::f].astype(jnp.float32)
    cond, null = conditions(loaded, prompts, negative, z.shape, scale=scale)
    chosen = sampler or loaded.schedule.sampler
    if beside:
        cond, null = (_with_image(c, jnp.concatenate([small, z], -1)) for c in (cond, null))
    else:
        chosen = after(Partial(_keep, small, z))(chosen)
    denoise = guided(loaded, cond, null, scale)
    out = walk(
        key, loaded, denoise, z.shape, steps=steps, sampler=chosen, start=start, progress=progress
    )
    return decode(loaded, out)


def _keep(small: Array, z: Array, now: Now, process: Process, x: Any, est: Estimate) -> Array:
    eps = normal(fold(now.key, GUIDE), x)
    # some checkpoints end their walk a little above no noise at all
    seen = jnp.where(now.i == now.n - 1, z, perturb(process, now.s, z, eps))
    return jnp.where(small > 0.5, x, seen)


def follow(
    key: Key[Array, ""],
    loaded: Pretrained,
    prompts: Sequence[str],
    image: Float[Array, "b h w c"],
    *,
    negative: str | Sequence[str] = "",
    scale: float = 7.5,
    image_scale: float = 1.5,
    steps: int = 100,
    sampler: Sampler | None = None,
    start: Array | None = None,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Change images as instructions say: InstructPix2Pix.

    Args:
      key: one key.
      loaded: a checkpoint whose network has 8 channels.
      prompts: b instructions.
      image: [b, h, w, 3] in [-1, 1].
      negative: see `text_to_image`.
      scale: s_T, how closely to follow the instruction.
      image_scale: s_I, how closely to keep to the image.
      steps: of the sampler.
      sampler: instead of the checkpoint's own.
      start: the noise of latents instead of the key's.
      progress: see `walk`.

    Raises:
      ValueError: as for `image_to_image`; a network that was not made for this.
    """
    if int(loaded.config.get("in_channels", 4)) != 8:
        raise ValueError(
            f"the network has {loaded.config.get('in_channels')} channels: one that follows "
            "instructions has 8"
        )
    z = encode(loaded, _checked(loaded, prompts, image))
    z = loaded.part("vae").net.from_latent(z)  # unscaled, as it was trained
    cond, null = conditions(loaded, prompts, negative, z.shape, scale=scale)
    null = null if null is not None else cond
    nothing = jnp.zeros_like(z)
    branches = [_with_image(null, nothing), _with_image(null, z), _with_image(cond, z)]
    weights = [1 - image_scale, image_scale - scale, scale]
    denoise = mix(loaded.model(), branches, weights)
    out = walk(
        key, loaded, denoise, z.shape, steps=steps, sampler=sampler, start=start, progress=progress
    )
    return decode(loaded, out)


def upscale(
    key: Key[Array, ""],
    loaded: Pretrained,
    prompts: Sequence[str],
    image: Float[Array, "b h w c"],
    *,
    noise: Schedule,
    level: int = 20,
    negative: str | Sequence[str] = "",
    scale: float = 9.0,
    steps: int = 75,
    sampler: Sampler | None = None,
    start: Array | None = None,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Enlarge images: Stable Diffusion's x4 upscaler.

    Args:
      key: one key.
      loaded: a checkpoint whose network reads the small image beside x and its noise level.
      prompts: b texts.
      image: [b, h, w, 3] in [-1, 1], as small as the latents.
      noise: the schedule by which the small image is noised (`pretrained.schedule` of the
        checkpoint's low_res_scheduler).
      level: the time at which it is noised, which the network is told.
      negative: see `text_to_image`.
      scale: see `text_to_image`.
      steps: of the sampler.
      sampler: instead of the checkpoint's own.
      start: the noise of latents instead of the key's.
      progress: see `walk`.

    Returns:
      [b, 4 h, 4 w, 3] for the checkpoint of that name.

    Raises:
      ValueError: an image outside [-1, 1], another number of images than of prompts, a level
        outside the table.
    """
    check_range(image, (number(-1.0), number(1.0)), "image")
    if len(prompts) != image.shape[0]:
        raise ValueError(f"{image.shape[0]} images for {len(prompts)} prompts: give as many")
    last = int(loaded.config.get("num_class_embeds") or 1000) - 1
    if not 0 <= level <= last:
        raise ValueError(f"level={level}: the network knows 0 .. {last}")
    eps = jax.random.normal(jax.random.fold_in(key, 1), image.shape)
    small = perturb(noise.process, jnp.float32(level), image, eps)
    shape = (*image.shape[:3], channels(loaded))
    cond, null = conditions(loaded, prompts, negative, shape, scale=scale)
    told = {"label": jnp.full(len(prompts), level, jnp.int32)}
    cond, null = (None if c is None else _with_image(c | told, small) for c in (cond, null))
    denoise = guided(loaded, cond, null, scale)
    out = walk(
        key, loaded, denoise, shape, steps=steps, sampler=sampler, start=start, progress=progress
    )
    return decode(loaded, out)


def _with_image(cond: Any, image: Array) -> Any:
    return None if cond is None else cond | {"image": image}


def _checked(loaded: Pretrained, prompts: Sequence[str], image: Array) -> Array:
    if len(prompts) != image.shape[0]:
        raise ValueError(f"{image.shape[0]} images for {len(prompts)} prompts: give as many")
    f = factor(loaded)
    if image.shape[1] % f or image.shape[2] % f:
        raise ValueError(
            f"image is {image.shape[1]} x {image.shape[2]}: its sides must be multiples of {f}"
        )
    return image


def _latents(loaded: Pretrained, prompts: Sequence[str], image: Array, key: Array) -> Array:
    return encode(loaded, _checked(loaded, prompts, image), key)


def _check_mask(hidden: Array, image: Array) -> None:
    if hidden.shape != (*image.shape[:3], 1):
        raise ValueError(
            f"hidden has shape {list(hidden.shape)}: give {[*image.shape[:3], 1]}, one number a "
            "pixel"
        )
    check_range(hidden, (number(0.0), number(1.0)), "hidden")
