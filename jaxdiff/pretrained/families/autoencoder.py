"""Autoencoders of diffusers: AutoencoderKL, AutoencoderTiny, VQModel; and the layouts of others.

Files from before 2023 call the projections of the attention in the middle query, key, value and
proj_attn. The original files of TAESD number the layers without a folder, those of the decoder from
the clamp on, which has no parameters: one more than diffusers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff.nets.autoencoders import (
    Autoencoder,
    autoencoder_kl,
    autoencoder_tiny,
    autoencoder_vq,
)
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.families import latent_diffusion
from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.names import Rule

_ACTS = {"relu": jax.nn.relu, "silu": jax.nn.silu, "swish": jax.nn.silu}
_MOST_LAYERS = 64


def build_kl(config: Config) -> Autoencoder:
    """`AutoencoderKL`; per-channel statistics of the latents become shift and scale."""
    scale, shift = config("scaling_factor", 0.18215), config("shift_factor") or 0.0
    mean, std = config("latents_mean"), config("latents_std")
    if mean is not None and std is not None:
        shift, scale = tuple(mean), tuple(scale / s for s in std)
    config.ignore("force_upcast")
    return autoencoder_kl(
        dtype=config.dtype,
        latent=config("latent_channels", 4),
        quant=config("use_quant_conv", True),
        post_quant=config("use_post_quant_conv", True),
        scale=scale,
        shift=shift,
        **_pyramid(config),
    )


def build_vq(config: Config) -> Autoencoder:
    """`VQModel`, with the common norm; its codebook is searched in every decoding."""
    config.only("norm_type", "group")
    config.only("lookup_from_codebook", False)
    config.ignore("force_upcast")
    return autoencoder_vq(
        dtype=config.dtype,
        latent=config("latent_channels", 3),
        entries=config("num_vq_embeddings", 256),
        entry_width=config("vq_embed_dim"),
        scale=config("scaling_factor", 0.18215),
        **_pyramid(config),
    )


def build_tiny(config: Config) -> Autoencoder:
    """`AutoencoderTiny`; `use_midblock_gn`, which diffusers lacks, is the variant of FLUX.2."""
    config.only("upsample_fn", "nearest")
    config.ignore("force_upcast", "latent_magnitude", "latent_shift", "block_out_channels")
    act = config.only("act_fn", "relu", "silu", "swish")
    return autoencoder_tiny(
        dtype=config.dtype,
        channels=config("in_channels", 3),
        out=config("out_channels", 3),
        latent=config("latent_channels", 4),
        widths=config("encoder_block_out_channels", (64, 64, 64, 64)),
        blocks=config("num_encoder_blocks", (1, 3, 3, 3)),
        decoder_widths=config("decoder_block_out_channels", (64, 64, 64, 64)),
        decoder_blocks=config("num_decoder_blocks", (3, 3, 3, 1)),
        act=_ACTS[act],
        up=config("upsampling_scaling_factor", 2),
        norm_branch=config("use_midblock_gn", False),
        scale=config("scaling_factor", 1.0),
        shift=config("shift_factor", 0.0),
    )


def taesd_tensors(
    encoder: Mapping[str, np.ndarray], decoder: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The two files of an original tiny autoencoder as one, for `assemble`.

    >>> sorted(taesd_tensors({"0.weight": np.zeros(1)}, {"1.weight": np.zeros(1)}))
    ['decoder.1.weight', 'encoder.0.weight']
    """
    both = {f"encoder.{name}": value for name, value in encoder.items()}
    return both | {f"decoder.{name}": value for name, value in decoder.items()}


def _pyramid(config: Config) -> dict[str, Any]:
    """What AutoencoderKL and VQModel have in common."""
    config.only("act_fn", "silu")
    config.ignore("sample_size")
    widths = tuple(config("block_out_channels", (64,)))
    down = config("down_block_types", ("DownEncoderBlock2D",))
    up = config("up_block_types", ("UpDecoderBlock2D",))
    return {
        "channels": config("in_channels", 3),
        "out": config("out_channels", 3),
        "widths": widths,
        "depth": config("layers_per_block", 1),
        "groups": config("norm_num_groups", 32),
        "attention": _attention(config.name, tuple(down), tuple(up), len(widths)),
        "middle_attention": config("mid_block_add_attention", True),
    }


def _attention(
    name: str, down: tuple[str, ...], up: tuple[str, ...], levels: int
) -> tuple[int, ...]:
    """The levels with attention, which has to be the same on both sides."""
    plain = {"DownEncoderBlock2D": False, "UpDecoderBlock2D": False}
    kinds = plain | {"AttnDownEncoderBlock2D": True, "AttnUpDecoderBlock2D": True}
    unknown = [kind for kind in (*down, *up) if kind not in kinds]
    if unknown:
        raise ValueError(
            f"{name}: it has a {unknown[0]}, which jaxdiff does not; it has {', '.join(kinds)}"
        )
    looks = [kinds[kind] for kind in down]
    if len(looks) != levels or looks != [kinds[kind] for kind in up][::-1]:
        raise ValueError(
            f"{name}: down_block_types {down} and up_block_types {up} are no mirror images over "
            f"{levels} levels"
        )
    return tuple(i for i, look in enumerate(looks) if look)


_OLD_ATTENTION = tuple(
    Rule(rf"(.*attentions\.\d+)\.{old}\.(weight|bias)", rf"\1.{new}.\2")
    for old, new in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    )
)
_ORIGINAL_TINY = (
    Rule(r"encoder\.(\d+)\.(.+)", r"encoder.layers.\1.\2"),
    *(Rule(rf"decoder\.{n}\.(.+)", rf"decoder.layers.{n - 1}.\1") for n in range(1, _MOST_LAYERS)),
)

KL = Family(build_kl, _OLD_ATTENTION + latent_diffusion.rules(4), latent_diffusion.OTHERS)
VQ = Family(build_vq, _OLD_ATTENTION + latent_diffusion.rules(3), latent_diffusion.OTHERS)
TINY = Family(build_tiny, _ORIGINAL_TINY)
