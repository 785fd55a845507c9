"""A tiny Stable Diffusion in one file, in the names of its authors, and what their code computes.

Needs a clone of github.com/CompVis/latent-diffusion (the environment's LDM_CLONE) and einops;
without them nothing is made. 32 groups of its norms become 4.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.pytorch_parity.makers.pipelines import _clip, _seeded

_UNET: dict[str, Any] = dict(
    image_size=8,
    in_channels=4,
    model_channels=8,
    out_channels=4,
    num_res_blocks=2,
    attention_resolutions=[2],
    channel_mult=(1, 2, 2),
    num_heads=2,
    use_spatial_transformer=True,
    context_dim=16,
    legacy=False,
    use_checkpoint=False,
)
_VAE: dict[str, Any] = dict(
    ch=8,
    out_ch=3,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=[],
    in_channels=3,
    resolution=16,
    z_channels=4,
)


def make(root: pathlib.Path, seed: int = 0) -> None:
    """Write single/, where the clone is known."""
    clone = os.environ.get("LDM_CLONE")
    if clone is None:
        print("LDM_CLONE is not set: nothing made")
        return
    import safetensors.torch
    import torch

    with _importable(clone):
        unet, vae = _nets(seed)
    clip = _clip(root / "clip_words", seed + 1)
    tensors = {
        **_named("model.diffusion_model.", unet),
        **_named("first_stage_model.", vae),
        # as the published files have it; transformers 5 has dropped the middle of the name
        **_named("cond_stage_model.transformer.text_model.", clip),
    }
    folder = root / "single"
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    rng = np.random.default_rng(seed)
    io = {
        "x": rng.normal(size=(2, 4, 8, 8)),
        "time": np.array([3.0, 700.0]),
        "tokens": rng.normal(size=(2, 5, 16)),
        "image": rng.uniform(-1, 1, size=(2, 3, 16, 16)),
    }
    io = {name: value.astype(np.float32) for name, value in io.items()}
    given = {name: torch.tensor(value) for name, value in io.items()}
    with torch.no_grad():
        moments = vae.quant_conv(vae.encoder(given["image"]))
        out = {
            "answer": unet(given["x"], given["time"], context=given["tokens"]),
            "moments": moments,
            "decoded": vae.decoder(vae.post_quant_conv(given["x"])),
        }
    arrays = io | {name: value.numpy() for name, value in out.items()}
    np.savez_compressed(folder / "io.npz", allow_pickle=False, **arrays)


def _nets(seed: int) -> tuple[Any, Any]:
    import torch

    small = lambda channels, *_: torch.nn.GroupNorm(4, channels, eps=1e-5)  # noqa: E731
    fine = lambda channels, *_: torch.nn.GroupNorm(4, channels, eps=1e-6)  # noqa: E731
    inside = "ldm.modules.diffusionmodules"
    attention = importlib.import_module("ldm.modules.attention")
    model = importlib.import_module(f"{inside}.model")
    opened = importlib.import_module(f"{inside}.openaimodel")
    opened.normalization, attention.Normalize, model.Normalize = small, fine, fine
    vae: Any = torch.nn.Module()
    vae.encoder, vae.decoder = model.Encoder(**_VAE), model.Decoder(**_VAE)
    vae.quant_conv = torch.nn.Conv2d(8, 8, 1)
    vae.post_quant_conv = torch.nn.Conv2d(4, 4, 1)
    return _seeded(opened.UNetModel(**_UNET), seed + 2), _seeded(vae, seed)


def _named(prefix: str, net: Any) -> dict[str, Any]:
    inner = {name.removeprefix("text_model."): value for name, value in net.state_dict().items()}
    return {prefix + name: value.contiguous() for name, value in inner.items()}


@contextlib.contextmanager
def _importable(clone: str) -> Iterator[None]:
    """The clone on the path; what it imports and does not need here is empty."""
    stub: Any = types.ModuleType("ldm.util")
    for name in ("instantiate_from_config", "exists", "default"):
        setattr(stub, name, None)
    sys.path.insert(0, clone)
    config: Any = types.ModuleType("omegaconf.listconfig")
    config.ListConfig = ()
    sys.modules |= {"ldm.util": stub, "omegaconf": config, "omegaconf.listconfig": config}
    try:
        yield
    finally:
        sys.path.remove(clone)
