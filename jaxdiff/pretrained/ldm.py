"""The names of latent diffusion (CompVis) brought into those of diffusers.

Its U-Net counts blocks through. With d blocks a level, `input_blocks.n` is, for n = 1 + l (d + 1) +
j, block j of level l, or what shrinks level l for j = d; `output_blocks.n`, for n = l (d + 1) + j,
is block j of level l from below, which also grows it for j = d.

Reference: Rombach et al. 2022, arXiv 2112.10752; Podell et al. 2023, arXiv 2307.01952.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdiff.pretrained.names import Rule

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_WHOLE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_LOOKS = ("CrossAttn", "Attn", "SimpleCross")


def unet_rules(config: Mapping[str, Any]) -> list[Rule]:
    """The rules for a U-Net of latent diffusion with the config of its copy in diffusers.

    Args:
      config: with layers_per_block, down_block_types and up_block_types.

    >>> from jaxdiff.pretrained.names import rename
    >>> levels = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    >>> rename({"out.0.bias": np.zeros(1)}, unet_rules({"layers_per_block": 1, **levels}))
    {'conv_norm_out.bias': array([0.])}
    """
    depth = int(config.get("layers_per_block", 2))
    down, up = config["down_block_types"], config["up_block_types"]
    rules = [_plain(old, new) for old, new in _WHOLE.items()]
    if "class_embed_type" in config or config.get("num_class_embeds"):
        rules.insert(0, _plain("label_emb", "class_embedding"))
    for level in range(len(down)):
        for j in range(depth):
            at = f"input_blocks.{1 + level * (depth + 1) + j}"
            rules += _block(at, f"down_blocks.{level}", j)
        at = f"input_blocks.{(level + 1) * (depth + 1)}"
        rules.append(_plain(f"{at}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
    for level, kind in enumerate(up):
        for j in range(depth + 1):
            rules += _block(f"output_blocks.{level * (depth + 1) + j}", f"up_blocks.{level}", j)
        at = f"output_blocks.{level * (depth + 1) + depth}.{1 + kind.startswith(_LOOKS)}.conv"
        rules.insert(0, _plain(at, f"up_blocks.{level}.upsamplers.0.conv"))
    return rules + _middle()


def _middle() -> list[Rule]:
    rules = [Rule(r"middle_block\.1\.(.+)", r"mid_block.attentions.0.\1")]
    for old, new in ((0, 0), (2, 1)):
        rules += _residual(f"middle_block.{old}", f"mid_block.resnets.{new}")
    return rules


def _block(at: str, level: str, j: int) -> list[Rule]:
    look = Rule(rf"{_escaped(at)}\.1\.(.+)", rf"{level}.attentions.{j}.\1")
    return [*_residual(f"{at}.0", f"{level}.resnets.{j}"), look]


def _residual(at: str, to: str) -> list[Rule]:
    return [_plain(f"{at}.{old}", f"{to}.{new}") for old, new in _RESIDUAL.items()]


def _plain(old: str, new: str) -> Rule:
    return Rule(rf"{_escaped(old)}\.(weight|bias)", rf"{new}.\1")


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")


_OPEN_CLIP = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_PACKED = ("q", "k", "v")


def open_clip_rules() -> list[Rule]:
    """The rules for a text encoder of OpenCLIP, whose queries, keys and values are one matrix."""
    layer, into = r"transformer\.resblocks\.(\d+)\.", r"text_model.encoder.layers.\1."
    rules = [
        Rule(rf"{layer}{_escaped(old)}\.(.+)", rf"{into}{new}.\2")
        for old, new in _OPEN_CLIP.items()
    ]
    for kind in ("weight", "bias"):
        names = tuple(f"{into}self_attn.{name}_proj.{kind}" for name in _PACKED)
        rules.append(Rule(rf"{layer}attn\.in_proj_{kind}", names, _thirds))
    embeddings = "text_model.embeddings"
    return [
        *rules,
        Rule(r"token_embedding\.weight", f"{embeddings}.token_embedding.weight"),
        Rule(r"positional_embedding", f"{embeddings}.position_embedding.weight"),
        Rule(r"ln_final\.(.+)", r"text_model.final_layer_norm.\1"),
        Rule(r"text_projection", "text_projection.weight", np.transpose),
    ]


def _thirds(packed: np.ndarray) -> Sequence[np.ndarray]:
    return np.split(packed, 3)
