"""Configs of the published transformers, and the names of the original DiT."""

from typing import Any

import numpy as np

from jaxdiff.nets.transformers import flux, labelled_dit, pixart, sd3, uvit
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.names import Rule
from jaxdiff.types import Net

_ACTS = ("gelu-approximate", "gelu")


def _dit(config: Config) -> Net:
    """DiTTransformer2DModel."""
    config.only("norm_type", "ada_norm_zero")
    return labelled_dit(
        dtype=config.dtype,
        remat=config.remat,
        scan=config.scan,
        **_tokens(config),
        size=config("sample_size", 32),
        patch=config("patch_size", 2),
        out=config("out_channels"),
        classes=config("num_embeds_ada_norm", 1000),
        shared=False,
        shift=1.0,
        eps=config("norm_eps", 1e-5),
    )


def _pixart(config: Config) -> Net:
    """PixArtTransformer2DModel."""
    config.only("norm_type", "ada_norm_single")
    config.ignore("num_embeds_ada_norm")
    size, caption = config("sample_size", 128), config("caption_channels")
    sizes, scale = config("use_additional_conditions"), config("interpolation_scale")
    tokens = _tokens(config)
    cross = config("cross_attention_dim", 1152)
    if caption is not None and cross != tokens["width"]:
        raise ValueError(
            f"{config.name}: cross_attention_dim is {cross}: behind a projection of the caption it "
            f"has to be the width {tokens['width']}"
        )
    return pixart(
        dtype=config.dtype,
        remat=config.remat,
        scan=config.scan,
        **tokens,
        size=size,
        patch=config("patch_size", 2),
        out=config("out_channels", 8) or tokens["channels"],
        caption_dim=cross if caption is None else caption,
        project=caption is not None,
        sizes=size == 128 if sizes is None else sizes,
        scale=float(max(size // 64, 1) if scale is None else scale),
        eps=config("norm_eps", 1e-6),
    )


def _old(config: Config) -> Net:
    """Transformer2DModel, as older files call both."""
    kinds = ("ada_norm_zero", "ada_norm_single")
    return _dit(config) if config.only("norm_type", *kinds) == kinds[0] else _pixart(config)


def _tokens(config: Config) -> dict[str, Any]:
    """What DiT and PixArt share."""
    config.only("norm_elementwise_affine", False)
    config.only("attention_type", "default")
    config.ignore("dropout", "norm_num_groups", "upcast_attention")
    heads = config("num_attention_heads", 16)
    return {
        "width": heads * config("attention_head_dim", 72),
        "heads": heads,
        "depth": config("num_layers", 28),
        "channels": config("in_channels", 4),
        "bias": config("attention_bias", True),
        "tanh": config.only("activation_fn", *_ACTS) == _ACTS[0],
    }


def _sd3(config: Config) -> Net:
    """SD3Transformer2DModel."""
    heads = config("num_attention_heads", 18)
    width = heads * config("attention_head_dim", 64)
    if config("caption_projection_dim", 1152) != width:
        raise ValueError(
            f"{config.name}: caption_projection_dim is {config('caption_projection_dim', 1152)}: "
            f"the joint attention needs the width {width}"
        )
    channels = config("in_channels", 16)
    return sd3(
        dtype=config.dtype,
        remat=config.remat,
        scan=config.scan,
        size=config("sample_size", 128),
        table=config("pos_embed_max_size", 96),
        patch=config("patch_size", 2),
        channels=channels,
        out=config("out_channels", 16) or channels,
        width=width,
        depth=config("num_layers", 18),
        heads=heads,
        context_dim=config("joint_attention_dim", 4096),
        pooled_dim=config("pooled_projection_dim", 2048),
        norm=config.only("qk_norm", None, "rms_norm") is not None,
        dual=tuple(config("dual_attention_layers", ())),
    )


def _flux(config: Config) -> Net:
    """FluxTransformer2DModel."""
    config.only("patch_size", 1)
    heads, inputs = config("num_attention_heads", 24), config("in_channels", 64)
    outputs = config("out_channels") or inputs
    if inputs % 4 or outputs % 4:
        raise ValueError(
            f"{config.name}: in_channels is {inputs}, out_channels {outputs}: tokens of 2 x 2 "
            "pixels need multiples of 4"
        )
    return flux(
        dtype=config.dtype,
        remat=config.remat,
        scan=config.scan,
        channels=inputs // 4,
        out=outputs // 4,
        width=heads * config("attention_head_dim", 128),
        depth=config("num_layers", 19),
        single=config("num_single_layers", 38),
        heads=heads,
        context_dim=config("joint_attention_dim", 4096),
        pooled_dim=config("pooled_projection_dim", 768),
        axes=tuple(config("axes_dims_rope", (16, 56, 56))),
        guidance=config("guidance_embeds", False),
    )


def _first_dit(config: Config, halved: bool = False) -> Net:
    """The DiT of facebookresearch/DiT, whose config is its constructor's arguments."""
    config.only("mlp_ratio", 4.0)
    if not config("class_dropout_prob", 0.1) > 0:
        raise ValueError(f"{config.name}: class_dropout_prob is 0: jaxdiff needs a null label")
    channels, learned = config("in_channels", 4), config("learn_sigma", True)
    return labelled_dit(
        dtype=config.dtype,
        remat=config.remat,
        scan=config.scan,
        size=config("input_size", 32),
        patch=config("patch_size", 2),
        channels=channels,
        out=2 * channels if learned else channels,
        width=config("hidden_size", 1152),
        depth=config("depth", 28),
        heads=config("num_heads", 16),
        classes=config("num_classes", 1000),
        halved=halved and learned,
    )


def _sit(config: Config) -> Net:
    """The SiT of willisma/SiT: the same network, of whose output the first half counts."""
    return _first_dit(config, halved=True)


def _uvit(config: Config) -> Net:
    """The UViT of baofff/U-ViT: labels (libs/uvit.py) or text (libs/uvit_t2i.py)."""
    config.only("qk_scale", None)
    config.ignore("use_checkpoint")
    classes, text = config("num_classes", -1), config("clip_dim", 0)
    return uvit(
        dtype=config.dtype,
        remat=config.remat,
        size=config("img_size", 224),
        patch=config("patch_size", 16),
        channels=config("in_chans", 3),
        width=config("embed_dim", 768),
        depth=config("depth", 12),
        heads=config("num_heads", 12),
        classes=classes - 1 if classes > 0 else 0,
        context_dim=text,
        texts=config("num_clip_token", 77),
        bias=config("qkv_bias", False),
        ratio=float(config("mlp_ratio", 4.0)),
        time_layers=config("mlp_time_embed", False),
        smooth=config("conv", True),
        skip=config("skip", True),
    )


def _thirds(value: np.ndarray) -> list[np.ndarray]:
    return np.split(value, 3)


_FIRST_NAMES = (
    Rule(r"x_embedder\.proj\.(.+)", r"pos_embed.proj.\1"),
    Rule(r"t_embedder\.mlp\.0\.(.+)", r"emb.timestep_embedder.linear_1.\1"),
    Rule(r"t_embedder\.mlp\.2\.(.+)", r"emb.timestep_embedder.linear_2.\1"),
    Rule(r"y_embedder\.(.+)", r"emb.class_embedder.\1"),
    Rule(
        r"blocks\.(\d+)\.attn\.qkv\.(.+)",
        tuple(rf"transformer_blocks.\1.attn1.to_{name}.\2" for name in "qkv"),
        _thirds,
    ),
    Rule(r"blocks\.(\d+)\.attn\.proj\.(.+)", r"transformer_blocks.\1.attn1.to_out.0.\2"),
    Rule(r"blocks\.(\d+)\.mlp\.fc1\.(.+)", r"transformer_blocks.\1.ff.net.0.proj.\2"),
    Rule(r"blocks\.(\d+)\.mlp\.fc2\.(.+)", r"transformer_blocks.\1.ff.net.2.\2"),
    Rule(r"blocks\.(\d+)\.adaLN_modulation\.1\.(.+)", r"transformer_blocks.\1.norm1.linear.\2"),
    Rule(r"final_layer\.adaLN_modulation\.1\.(.+)", r"proj_out_1.\1"),
    Rule(r"final_layer\.linear\.(.+)", r"proj_out_2.\1"),
)

TRANSFORMERS = {
    "DiTTransformer2DModel": Family(_dit),
    "Transformer2DModel": Family(_old),
    "PixArtTransformer2DModel": Family(_pixart),
    "SD3Transformer2DModel": Family(_sd3),
    "FluxTransformer2DModel": Family(_flux),
    "DiT": Family(_first_dit, _FIRST_NAMES, (r"pos_embed",)),
    "SiT": Family(_sit, _FIRST_NAMES, (r"pos_embed",)),
    "UViT": Family(_uvit),
}
