"""The layout of the original latent diffusion (and of FLUX) for autoencoders: down, mid and up.

It is read for the published depths, also out of a whole checkpoint: four levels with a Gaussian
code, three with a codebook. The decoder counts its levels from the finest, so the number of levels
is part of the rules.
"""

from jaxdiff.pretrained.names import Rule

_OWNER = r"(?:first_stage_model\.)?"
_HALF = _OWNER + r"(encoder|decoder)\."
_LOOK = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}

OTHERS = (
    r"loss\..+",
    r"model\.diffusion_model\..+",
    r"model_ema\..+",
    r"cond_stage_model\..+",
    r"conditioner\..+",
    r"(alphas|betas|log_one|posterior|sqrt|logvar).*",
)


def rules(levels: int) -> tuple[Rule, ...]:
    """The rules for a pyramid of so many levels.

    >>> import numpy as np
    >>> sorted(rules(4)[0].apply("encoder.down.0.block.1.nin_shortcut.bias", np.ones(1)))
    ['encoder.down_blocks.0.resnets.1.conv_shortcut.bias']
    """
    down = [(rf"encoder\.down\.{i}", f"encoder.down_blocks.{i}") for i in range(levels)]
    up = [(rf"decoder\.up\.{i}", f"decoder.up_blocks.{levels - 1 - i}") for i in range(levels)]
    return tuple(rule for old, new in down + up for rule in _level(_OWNER + old, new)) + _MIDDLE


def _level(old: str, new: str) -> tuple[Rule, ...]:
    block = rf"{new}.resnets.\1"
    looks = (
        Rule(rf"{old}\.attn\.(\d+)\.{a}\.(.+)", rf"{new}.attentions.\1.{b}.\2")
        for a, b in _LOOK.items()
    )
    return (
        Rule(rf"{old}\.block\.(\d+)\.nin_shortcut\.(.+)", rf"{block}.conv_shortcut.\2"),
        Rule(rf"{old}\.block\.(\d+)\.(.+)", rf"{block}.\2"),
        Rule(rf"{old}\.downsample\.conv\.(.+)", rf"{new}.downsamplers.0.conv.\1"),
        Rule(rf"{old}\.upsample\.conv\.(.+)", rf"{new}.upsamplers.0.conv.\1"),
        *looks,
    )


_MIDDLE = (
    Rule(_HALF + r"mid\.block_1\.(.+)", r"\1.mid_block.resnets.0.\2"),
    Rule(_HALF + r"mid\.block_2\.(.+)", r"\1.mid_block.resnets.1.\2"),
    *(
        Rule(_HALF + rf"mid\.attn_1\.{a}\.(.+)", rf"\1.mid_block.attentions.0.{b}.\2")
        for a, b in _LOOK.items()
    ),
    Rule(_HALF + r"norm_out\.(.+)", r"\1.conv_norm_out.\2"),
    Rule(r"first_stage_model\.(.+)", r"\1"),
)
