"""From prompts to the condition of a network: which text encoders it reads, and what of them.

Stable Diffusion 1, 2   tokens: the last states of CLIP
SDXL                    tokens: the last states but one of two CLIPs, side by side; pooled: the
                        projection of the second; sizes: original, crop, target
PixArt                  tokens and mask: T5
SD3                     tokens: as SDXL, filled up with zeros to the width of T5, then those of
                        T5 after them; pooled: both projections side by side
FLUX                    tokens: T5; pooled: CLIP; guidance: the scale, which it was trained on
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.pipelines.parts import Pretrained
from jaxdiff.pipelines.prompts import weigh

Cond = dict[str, Any]


def condition(
    loaded: Pretrained,
    prompts: Sequence[str],
    *,
    size: tuple[int, int],
    length: int | None = None,
    windows: bool = True,
    scale: float = 0.0,
) -> Cond:
    """The condition that prompts make, one row for each.

    Args:
      loaded: a checkpoint with text encoders.
      prompts: texts, with weights in brackets.
      size: of the images, in pixels.
      length: tokens of T5; by default 120 (PixArt), 256 (SD3), 512 (FLUX).
      windows: lay a long prompt out in several windows of CLIP; else it is cut with a warning.
      scale: of guidance, for networks that were distilled from a guided one.

    Raises:
      ValueError: if the network is not one that reads text.
      TypeError: if prompts is one string.
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts is the string {prompts!r}: give a list of strings")
    if loaded.kind not in CONDITIONS:
        raise ValueError(f"a {loaded.kind} reads no text; give its condition as it takes it")
    given = {"size": size, "length": length, "windows": windows, "scale": scale}
    return CONDITIONS[loaded.kind](loaded, list(prompts), given)


def _encoded(
    loaded: Pretrained, which: str, prompts: list[str], given: Any, *, masked: bool = False
) -> tuple[Any, Array, Array]:
    """(answer of a text encoder, weights [b, m], mask [b, m]); windows are rows of the batch."""
    number = which.removeprefix("text_encoder")
    is_t5 = "T5" in str(loaded.part(which).config.get("architectures"))
    tokens = loaded.words["tokenizer" + number](
        prompts,
        length=given["length"] if is_t5 else None,
        windows=given["windows"] and not is_t5,
    )
    b, k, n = tokens.ids.shape
    encoder = loaded.part(which)
    mask = jnp.asarray(tokens.mask.reshape(b * k, n)) if masked else None
    out = jax.jit(encoder.net.apply)(
        encoder.params, jnp.asarray(tokens.ids.reshape(b * k, n)), mask
    )
    return (
        out,
        jnp.asarray(tokens.weights.reshape(b, k * n)),
        jnp.asarray(tokens.mask.reshape(b, k * n)),
    )


def _laid(states: Array, weights: Array) -> Array:
    """States of windows [b k, n, d] one after another, [b, k n, d], weighed."""
    b = weights.shape[0]
    return weigh(states.reshape(b, -1, states.shape[-1]), weights)


def _first(pooled: Array, b: int) -> Array:
    """The pooled vector of the first window."""
    return pooled.reshape(b, -1, pooled.shape[-1])[:, 0]


def _clip(loaded: Pretrained, prompts: list[str], given: Any) -> Cond:
    if "text_encoder_2" in loaded.parts:
        return _two_clips(loaded, prompts, given)
    out, weights, _ = _encoded(loaded, "text_encoder", prompts, given)
    return {"tokens": _laid(out.last, weights)}


def _both(loaded: Pretrained, prompts: list[str], given: Any) -> tuple[Array, Array, Array]:
    """Last states but one of two CLIPs side by side, and the pooled vectors of each."""
    outs = [_encoded(loaded, which, prompts, given) for which in ("text_encoder", "text_encoder_2")]
    states = [_laid(out.hidden[-2], weights) for out, weights, _ in outs]
    pooled = [_first(out.pooled, len(prompts)) for out, _, _ in outs]
    return jnp.concatenate(states, axis=-1), pooled[0], pooled[1]


def _two_clips(loaded: Pretrained, prompts: list[str], given: Any) -> Cond:
    tokens, _, pooled = _both(loaded, prompts, given)
    h, w = given["size"]
    sizes = jnp.asarray([h, w, 0, 0, h, w], jnp.float32)
    return {
        "tokens": tokens,
        "pooled": pooled,
        "sizes": jnp.broadcast_to(sizes, (len(prompts), 6)),
    }


def _t5(loaded: Pretrained, prompts: list[str], given: Any) -> Cond:
    # trained on captions in lower case, of 120 tokens (Sigma: 300)
    prompts = [prompt.lower().strip() for prompt in prompts]
    given = given | {"length": given["length"] or 120}
    out, weights, mask = _encoded(loaded, "text_encoder", prompts, given, masked=True)
    return {"tokens": _laid(out.last, weights), "mask": mask}


def _three(loaded: Pretrained, prompts: list[str], given: Any) -> Cond:
    clips, first, second = _both(loaded, prompts, given)
    width = int(loaded.config["joint_attention_dim"])
    clips = jnp.pad(clips, ((0, 0), (0, 0), (0, width - clips.shape[-1])))
    if "text_encoder_3" in loaded.parts:
        given = given | {"length": given["length"] or 256}
        out, weights, _ = _encoded(loaded, "text_encoder_3", prompts, given)
        long = _laid(out.last, weights)
    else:
        long = jnp.zeros((len(prompts), given["length"] or 256, width), clips.dtype)
    pooled = jnp.concatenate([first, second], axis=-1)
    return {"tokens": jnp.concatenate([clips, long], axis=1), "pooled": pooled}


def _flux(loaded: Pretrained, prompts: list[str], given: Any) -> Cond:
    pooled, _, _ = _encoded(loaded, "text_encoder", prompts, given)
    out, weights, _ = _encoded(
        loaded, "text_encoder_2", prompts, given | {"length": given["length"] or 512}
    )
    cond: Cond = {
        "tokens": _laid(out.last, weights),
        "pooled": _first(pooled.pooled, len(prompts)),
    }
    if loaded.config.get("guidance_embeds"):
        cond["guidance"] = jnp.full(len(prompts), given["scale"], jnp.float32)
    return cond


CONDITIONS: dict[str, Callable[[Pretrained, list[str], Any], Cond]] = {
    "UNet2DConditionModel": _clip,
    "PixArtTransformer2DModel": _t5,
    "SD3Transformer2DModel": _three,
    "FluxTransformer2DModel": _flux,
}
