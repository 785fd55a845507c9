"""A Stable Diffusion in one safetensors file, as its authors published it.

The file holds the U-Net, the autoencoder and the text encoders under prefixes, in the names of
latent diffusion; their configs are known by the width of the tokens.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.pipelines.parts import Part, Pretrained
from jaxdiff.pretrained.families import latent_diffusion
from jaxdiff.pretrained.files import read_tensors
from jaxdiff.pretrained.known import BY_WIDTH, KNOWN, Config
from jaxdiff.pretrained.ldm import open_clip_rules, unet_rules
from jaxdiff.pretrained.load import assembled
from jaxdiff.pretrained.names import rename
from jaxdiff.pretrained.part import assemble
from jaxdiff.pretrained.tokens import read_words

_PREFIXES = {
    "model.diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "cond_stage_model.transformer.": "text_encoder",
    "cond_stage_model.model.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "conditioner.embedders.1.model.": "text_encoder_2",
}
_ITS_OWN = ("cond_stage_model.model.", "conditioner.embedders.1.model.")


def load_single(
    path: str | pathlib.Path,
    *,
    words: str | pathlib.Path | None = None,
    scheduler: Mapping[str, Any] | None = None,
    configs: Mapping[str, Config] | None = None,
    sha256: str | None = None,
    dtype: Any = None,
) -> Pretrained:
    """Load Stable Diffusion 1, 2 or XL from one file.

    Args:
      path: the .safetensors.
      words: a folder with CLIP's tokeniser (vocab.json and merges.txt), which the file does not
        hold; without it, conditions have to be given as embeddings.
      scheduler: a scheduler config; by default DDIM (XL: Euler) on the table it was trained with.
        Stable Diffusion 2 of 512 pixels predicts noise: give {"prediction_type": "epsilon", ...}.
      configs: of its parts, by default those of the published ones.
      sha256: of the file, compared if given.
      dtype: of the parameters; by default float32.

    Returns:
      `Pretrained`, as `load` gives.

    Raises:
      ValueError: a file that is damaged, holds no Stable Diffusion, or does not fit the configs.
    """
    found = _parted(path, read_tensors(path, sha256=sha256))
    known = dict(configs or KNOWN[_kind(path, found["unet"])])
    known["unet"] = known["unet"] | {"in_channels": found["unet"][_ENTRY].shape[1]}
    parts = {
        name: _part(name, known[name], tensors, dtype) for name, tensors in found.items() if tensors
    }
    tokeniser = None if words is None else read_words(words)
    encoders = [name for name in parts if name.startswith("text_encoder")]
    given = {f"tokenizer{n.removeprefix('text_encoder')}": tokeniser for n in encoders if tokeniser}
    # XL is guided away from zeros where there is no negative prompt.
    whole = {"force_zeros_for_empty_prompt": "text_encoder_2" in parts}
    return assembled(parts.pop("unet"), scheduler or known["scheduler"], whole, parts, given)


_ENTRY = "input_blocks.0.0.weight"


def _parted(path: Any, tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    parts: dict[str, dict[str, np.ndarray]] = {"unet": {}}
    for name, value in tensors.items():
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is not None:
            # what OpenCLIP names is kept apart from what transformers names
            inner = name.removeprefix(prefix)
            parts.setdefault(_PREFIXES[prefix], {})[
                f"open.{inner}" if prefix in _ITS_OWN else inner
            ] = value
    if _ENTRY not in parts["unet"]:
        raise ValueError(
            f"{path} holds no Stable Diffusion in the names of its authors (no "
            f"model.diffusion_model.{_ENTRY}); a folder in the layout of diffusers goes to `load`"
        )
    return parts


def _kind(path: Any, unet: Mapping[str, np.ndarray]) -> str:
    name = next((n for n in unet if n.endswith("attn2.to_k.weight")), None)
    width = None if name is None else int(unet[name].shape[1])
    if width not in BY_WIDTH:
        raise ValueError(
            f"{path}: the U-Net looks at tokens of width {width}; known are "
            f"{', '.join(f'{w} ({k})' for w, k in BY_WIDTH.items())}. Give configs="
        )
    return BY_WIDTH[width]


def _part(name: str, config: Config, tensors: Mapping[str, np.ndarray], dtype: Any) -> Part:
    if name == "unet":
        renamed = rename(tensors, unet_rules(config))
    elif name == "vae":
        renamed = rename(tensors, latent_diffusion.rules(len(config["block_out_channels"])), _LOSS)
    elif any(key.startswith("open.") for key in tensors):
        renamed = _from_open_clip(config, tensors)
    else:
        renamed = dict(tensors)
    return assemble(config, renamed, dtype=dtype)


_LOSS = (r"loss\..*", r"logvar", r"model_ema\..*")


def _from_open_clip(config: Config, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """OpenCLIP's names; layers beyond those of the config are not used, nor what comes after."""
    layers = int(config["num_hidden_layers"])
    inner = {name.removeprefix("open."): value for name, value in tensors.items()}
    unused = [rf"transformer\.resblocks\.{i}\..*" for i in range(layers, layers + 8)]
    if config["architectures"] == ["CLIPTextModel"]:
        unused.append("text_projection")
    return rename(inner, open_clip_rules(), [*unused, "logit_scale", "attn_mask"])
