"""Tiny published transformers with random weights: what PyTorch computes for them.

Networks of diffusers come from the package. Those of the original repositories (DiT, SiT, U-ViT)
are imported from `sources`, a folder with checkouts of facebookresearch/DiT, willisma/SiT and
baofff/U-ViT under these names; without it they are left out.
"""

import hashlib
import importlib.util
import json
import pathlib
import sys
import types
from typing import Any

import numpy as np

TEXT, POOLED = 12, 10
_DIT = {"_class_name": "DiTTransformer2DModel", "num_attention_heads": 2, "attention_head_dim": 8}
_PIXART = {"_class_name": "PixArtTransformer2DModel", "num_attention_heads": 3}
_SD3 = {
    "_class_name": "SD3Transformer2DModel",
    "joint_attention_dim": TEXT,
    "pooled_projection_dim": POOLED,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
}
_FLUX = {
    "_class_name": "FluxTransformer2DModel",
    "joint_attention_dim": TEXT,
    "pooled_projection_dim": POOLED,
    "num_attention_heads": 2,
}
_FIRST = {"hidden_size": 16, "num_heads": 2, "input_size": 8, "num_classes": 5, "depth": 2}
_UVIT = {"_class_name": "UViT", "img_size": 8, "patch_size": 2, "embed_dim": 16, "num_heads": 2}

# name: (config, height and width of x)
CASES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "dit_learned": (
        _DIT | {"sample_size": 8, "out_channels": 8, "num_layers": 2, "num_embeds_ada_norm": 5},
        (8, 8),
    ),
    "dit_larger": (
        _DIT
        | {
            "num_attention_heads": 3,
            "attention_head_dim": 4,
            "sample_size": 8,
            "patch_size": 4,
            "in_channels": 3,
            "num_layers": 1,
            "attention_bias": False,
            "activation_fn": "gelu",
            "norm_eps": 1e-3,
            "num_embeds_ada_norm": 4,
        },
        (16, 16),
    ),
    "dit_old_name": (
        {
            "_class_name": "Transformer2DModel",
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "attention_bias": True,
            "sample_size": 8,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 3,
            "norm_type": "ada_norm_zero",
            "norm_elementwise_affine": False,
        },
        (8, 8),
    ),
    "pixart_sizes": (
        _PIXART
        | {"attention_head_dim": 8, "num_layers": 2, "caption_channels": TEXT}
        | {"cross_attention_dim": 24, "sample_size": 128},
        (8, 12),
    ),
    "pixart_plain": (
        _PIXART
        | {
            "attention_head_dim": 4,
            "num_layers": 1,
            "sample_size": 16,
            "patch_size": 4,
            "in_channels": 3,
            "out_channels": None,
            "cross_attention_dim": TEXT,
            "interpolation_scale": 2,
            "use_additional_conditions": False,
            "attention_bias": False,
        },
        (16, 16),
    ),
    "sd3_medium": (_SD3 | {"sample_size": 8, "num_layers": 2, "pos_embed_max_size": 6}, (8, 12)),
    "sd35_medium": (
        _SD3
        | {
            "sample_size": 16,
            "num_layers": 3,
            "pos_embed_max_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "qk_norm": "rms_norm",
            "dual_attention_layers": [0, 1],
        },
        (12, 8),
    ),
    "flux_dev": (
        _FLUX
        | {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "guidance_embeds": True,
            "axes_dims_rope": [2, 4, 2],
        },
        (8, 12),
    ),
    "flux_beside": (
        _FLUX
        | {
            "in_channels": 28,
            "out_channels": 16,
            "num_layers": 2,
            "num_single_layers": 1,
            "attention_head_dim": 8,
            "axes_dims_rope": [4, 2, 2],
        },
        (4, 8),
    ),
    "dit_original": (_FIRST | {"_class_name": "DiT"}, (8, 8)),
    "sit_original": (_FIRST | {"_class_name": "SiT", "depth": 1, "num_classes": 3}, (8, 8)),
    "uvit_labels": (
        _UVIT | {"in_chans": 3, "depth": 2, "num_classes": 4, "mlp_time_embed": True},
        (8, 8),
    ),
    "uvit_text": (
        _UVIT
        | {"in_chans": 4, "depth": 4, "clip_dim": TEXT, "num_clip_token": 5, "qkv_bias": True}
        | {"conv": False, "mlp_ratio": 2.0},
        (8, 8),
    ),
}

_XL = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "patch_size": 2}
REAL: dict[str, dict[str, Any]] = {
    "DiT-XL/2 256": _XL
    | {
        "_class_name": "DiTTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "in_channels": 4,
        "norm_elementwise_affine": False,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_embeds_ada_norm": 1000,
        "out_channels": 8,
        "sample_size": 32,
    },
    "DiT-XL/2 256 original": {"_class_name": "DiT", "input_size": 32},
    "PixArt-XL-2-1024": _XL
    | {
        "_class_name": "PixArtTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "caption_channels": 4096,
        "cross_attention_dim": 1152,
        "in_channels": 4,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "norm_type": "ada_norm_single",
        "num_embeds_ada_norm": 1000,
        "out_channels": 8,
        "sample_size": 128,
    },
    "SD3-medium": {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": 192,
    },
    "SD3.5-medium": {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": list(range(13)),
    },
    "FLUX.1-dev": {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        "axes_dims_rope": [16, 56, 56],
    },
    "U-ViT-H/2 256": {
        "_class_name": "UViT",
        "img_size": 32,
        "patch_size": 2,
        "in_chans": 4,
        "embed_dim": 1152,
        "depth": 28,
        "num_heads": 16,
        "num_classes": 1001,
        "conv": False,
    },
}
_ORIGINALS = {"DiT": "DiT/models.py", "SiT": "SiT/models.py", "UViT": "U-ViT"}
_WEIGHTS = "diffusion_pytorch_model.safetensors"


def make(root: pathlib.Path, seed: int = 0, *, sources: pathlib.Path | None = None) -> None:
    """Write a folder for each case: config.json, weights, io.npz."""
    for name, (config, hw) in CASES.items():
        if sources is not None or config["_class_name"] not in _ORIGINALS:
            _write(root / name, config, hw, seed, sources)


def measure(root: pathlib.Path, *, sources: pathlib.Path | None = None) -> None:
    """Write transformers.json: count and digest of the parameters of the real sizes."""
    import torch

    found = {}
    for name, config in REAL.items():
        if sources is None and config["_class_name"] in _ORIGINALS:
            continue
        with torch.device("meta"):
            state = _model(config, sources).state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        lines = sorted(f"{key} {list(shape)}" for key, shape in shapes.items())
        found[name] = {
            "config": config,
            "count": sum(int(np.prod(shape)) for shape in shapes.values()),
            "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        }
    (root / "transformers.json").write_text(json.dumps(found, indent=1) + "\n")


def _write(
    folder: pathlib.Path,
    config: dict[str, Any],
    hw: tuple[int, int],
    seed: int,
    sources: pathlib.Path | None,
) -> None:
    import safetensors.torch
    import torch

    torch.manual_seed(seed)
    model = _model(config, sources).eval().float()
    _randomise(model)
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        safetensors.torch.save_file(model.state_dict(), str(folder / _WEIGHTS))
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    np.savez_compressed(folder / "io.npz", allow_pickle=False, **_run(model, config, hw))


def _model(config: dict[str, Any], sources: pathlib.Path | None) -> Any:
    import diffusers

    kind = config["_class_name"]
    options = {key: value for key, value in config.items() if key != "_class_name"}
    if kind not in _ORIGINALS:
        return getattr(diffusers, kind)(**options)
    assert sources is not None
    return getattr(_original(kind, config, sources), kind)(**options)


def _original(kind: str, config: dict[str, Any], sources: pathlib.Path) -> types.ModuleType:
    if kind == "UViT":
        sys.path.insert(0, str(sources / _ORIGINALS[kind]))
        name = "libs.uvit_t2i" if "clip_dim" in config else "libs.uvit"
        return importlib.import_module(name)
    _stand_in()
    spec = importlib.util.spec_from_file_location(f"original_{kind}", sources / _ORIGINALS[kind])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stand_in() -> None:
    """The three layers of timm that DiT and SiT import, by their equations."""
    import torch
    from torch import nn

    class PatchEmbed(nn.Module):
        def __init__(self, size: int, patch: int, channels: int, width: int, bias: bool = True):
            super().__init__()
            self.num_patches, self.patch_size = (size // patch) ** 2, (patch, patch)
            self.proj = nn.Conv2d(channels, width, patch, patch, bias=bias)

        def forward(self, x: Any) -> Any:
            return self.proj(x).flatten(2).transpose(1, 2)

    class Attention(nn.Module):
        def __init__(self, width: int, num_heads: int, qkv_bias: bool):
            super().__init__()
            self.heads = num_heads
            self.qkv, self.proj = nn.Linear(width, 3 * width, qkv_bias), nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            b, n, d = x.shape
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            probs = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
            return self.proj((probs @ v).transpose(1, 2).reshape(b, n, d))

    class Mlp(nn.Module):
        def __init__(self, in_features: int, hidden_features: int, act_layer: Any, drop: float):
            super().__init__()
            self.fc1 = nn.Linear(in_features, hidden_features)
            self.fc2, self.act = nn.Linear(hidden_features, in_features), act_layer()

        def forward(self, x: Any) -> Any:
            return self.fc2(self.act(self.fc1(x)))

    layers = types.ModuleType("timm.models.vision_transformer")
    layers.__dict__.update(PatchEmbed=PatchEmbed, Attention=Attention, Mlp=Mlp)
    for name in ("timm", "timm.models", "timm.models.vision_transformer"):
        sys.modules.setdefault(name, layers)


def _randomise(model: Any) -> None:
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue  # DiT's table of positions
            noise = 0.1 * torch.randn_like(weight)
            gain = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(1 + noise if gain else noise)


def _run(model: Any, config: dict[str, Any], hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """Inputs, output and gradients of sum(output * probe) for x and the first query's weight."""
    import torch

    given = _inputs(config, hw)
    x = given["x"].requires_grad_(True)
    out = _call(model, config, given)
    probe = torch.randn_like(out)
    weights = dict(model.named_parameters())
    name = next(n for n in weights if n.endswith(("to_q.weight", "qkv.weight")))
    grads = torch.autograd.grad((out * probe).sum(), [x, weights[name]])
    arrays = given | {"out": out, "probe": probe, "grad_x": grads[0], "grad_weight": grads[1]}
    return {key: value.detach().numpy() for key, value in arrays.items()} | {
        "weight": np.array(name)
    }


def _inputs(config: dict[str, Any], hw: tuple[int, int], b: int = 2) -> dict[str, Any]:
    import torch

    kind = config["_class_name"]
    channels = config.get("in_channels", config.get("in_chans"))
    if channels is None:
        channels = 16 if kind.startswith("SD3") else 4
    channels = channels // 4 if kind.startswith("Flux") else channels
    given = {"x": torch.randn(b, channels, *hw), "time": torch.tensor([3.0, 741.0])}
    classes = config.get("num_embeds_ada_norm", config.get("num_classes"))
    if "DiT" in kind or kind in {"Transformer2DModel", "SiT"}:
        given["label"] = torch.tensor([1, classes])
    elif classes is not None:
        given["label"] = torch.tensor([1, classes - 1])
    if kind.startswith(("SD3", "Flux", "PixArt")) or "clip_dim" in config:
        given["tokens"] = torch.randn(b, 5, TEXT)
    if kind.startswith(("SD3", "Flux")):
        given["pooled"] = torch.randn(b, POOLED)
    if kind.startswith("PixArt"):
        given["mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
        # PyTorch's float32 exponential is off by a bit in the rates of the sinusoid, which at large
        # times is up to 6e-5 of a feature: here it stays below the rounding of the rest.
        given["time"] = torch.tensor([3.0, 41.0])
    if kind.startswith("PixArt") and config["sample_size"] == 128:
        given["sizes"] = torch.tensor([[8.0, 12.0, 0.67], [11.0, 4.0, 2.75]])
    if kind.startswith("Flux"):
        given["time"] = torch.tensor([0.02, 0.75])
    if config.get("guidance_embeds"):
        given["guidance"] = torch.tensor([1.0, 0.25])
    if kind == "SiT":
        given["time"] = torch.tensor([0.25, 0.9])
    return given


def _call(model: Any, config: dict[str, Any], given: dict[str, Any]) -> Any:
    kind, x, time = config["_class_name"], given["x"], given["time"]
    if kind.startswith("Flux"):
        return _flux(model, given)
    if kind.startswith("SD3"):
        return model(x, given["tokens"], given["pooled"], time).sample
    if kind.startswith("PixArt"):
        added = None
        if "sizes" in given:
            sizes = given["sizes"]
            added = {"resolution": sizes[:, :2], "aspect_ratio": sizes[:, 2:]}
        mask = given["mask"]
        return model(x, given["tokens"], time, added, encoder_attention_mask=mask).sample
    if kind in _ORIGINALS:
        return model(x, time, given["tokens"] if "tokens" in given else given["label"])
    return model(x, timestep=time, class_labels=given["label"]).sample


def _flux(model: Any, given: dict[str, Any]) -> Any:
    import torch
    from diffusers import FluxPipeline

    b, c, h, w = given["x"].shape
    places = FluxPipeline._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", torch.float32)
    packed = FluxPipeline._pack_latents(given["x"], b, c, h, w)
    out = model(
        packed,
        given["tokens"],
        given["pooled"],
        given["time"],
        places,
        torch.zeros(given["tokens"].shape[1], 3),
        given.get("guidance"),
    ).sample
    # The pipeline's own unpacking counts in pixels behind an autoencoder of scale 8.
    return FluxPipeline._unpack_latents(out, 8 * h, 8 * w, 8)
