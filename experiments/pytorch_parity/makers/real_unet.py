"""Published U-Nets at their real size, on the meta device: how many parameters, of what names.

The configs are those of the public config.json files. `make` writes one table, real_unet.json:
name -> config, number of parameters, and the sha256 of the sorted lines "name [shape]". Networks of
EDM and guided-diffusion are measured where EDM_CLONE and GUIDED_CLONE name clones, else kept.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.pytorch_parity.makers import adm

_DOWN, _UP = "DownBlock2D", "UpBlock2D"
_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
_SD = dict(
    _class_name="UNet2DConditionModel",
    act_fn="silu",
    attention_head_dim=8,
    block_out_channels=[320, 640, 1280, 1280],
    center_input_sample=False,
    cross_attention_dim=768,
    down_block_types=[_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, _DOWN],
    downsample_padding=1,
    flip_sin_to_cos=True,
    freq_shift=0,
    in_channels=4,
    layers_per_block=2,
    mid_block_scale_factor=1,
    norm_eps=1e-05,
    norm_num_groups=32,
    out_channels=4,
    sample_size=64,
    up_block_types=[_UP, _CROSS_UP, _CROSS_UP, _CROSS_UP],
)
_SD21 = _SD | dict(
    attention_head_dim=[5, 10, 20, 20],
    cross_attention_dim=1024,
    dual_cross_attention=False,
    num_class_embeds=None,
    only_cross_attention=False,
    sample_size=96,
    upcast_attention=True,
    use_linear_projection=True,
)
_XL = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    attention_head_dim=[5, 10, 20],
    block_out_channels=[320, 640, 1280],
    cross_attention_dim=2048,
    down_block_types=[_DOWN, _CROSS_DOWN, _CROSS_DOWN],
    projection_class_embeddings_input_dim=2816,
    sample_size=128,
    transformer_layers_per_block=[1, 2, 10],
    use_linear_projection=True,
)
_NO_UP = ("up_block_types", "out_channels", "sample_size", "center_input_sample")
_CONTROL = {k: v for k, v in _SD.items() if k not in _NO_UP} | dict(_class_name="ControlNetModel")
_DDPM = dict(
    _class_name="UNet2DModel",
    act_fn="silu",
    attention_head_dim=None,
    block_out_channels=[128, 256, 256, 256],
    center_input_sample=False,
    down_block_types=[_DOWN, "AttnDownBlock2D", _DOWN, _DOWN],
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    in_channels=3,
    layers_per_block=2,
    mid_block_scale_factor=1,
    norm_eps=1e-06,
    norm_num_groups=32,
    out_channels=3,
    sample_size=32,
    time_embedding_type="positional",
    up_block_types=[_UP, _UP, "AttnUpBlock2D", _UP],
)
_EDM = dict(_class_name="SongUNet", img_resolution=32, in_channels=3, out_channels=3)
_EDM |= dict(augment_dim=9, channel_mult=[2, 2, 2])
_GUIDED = dict(
    _class_name="GuidedUNet",
    attention_resolutions="32,16,8",
    class_cond=True,
    image_size=256,
    learn_sigma=True,
    num_channels=256,
    num_head_channels=64,
    num_res_blocks=2,
    resblock_updown=True,
    use_fp16=True,
    use_scale_shift_norm=True,
)

CASES: dict[str, dict[str, Any]] = {
    "sd15": _SD,
    "sd15_inpainting": _SD | dict(in_channels=9),
    "instruct_pix2pix": _SD | dict(in_channels=8),
    "sd21": _SD21,
    "sdxl": {k: v for k, v in _SD.items() if k != "center_input_sample"}
    | _XL
    | dict(up_block_types=[_CROSS_UP, _CROSS_UP, _UP]),
    "lcm_sd15": _SD | dict(time_cond_proj_dim=256),
    "unclip_sd21": _SD21
    | dict(class_embed_type="projection", projection_class_embeddings_input_dim=2048),
    "upscaler_x4": _SD21
    | dict(
        attention_head_dim=8,
        block_out_channels=[256, 512, 512, 1024],
        down_block_types=[_DOWN, _CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN],
        in_channels=7,
        num_class_embeds=1000,
        only_cross_attention=[True, True, True, False],
        sample_size=128,
        up_block_types=[_CROSS_UP, _CROSS_UP, _CROSS_UP, _UP],
    ),
    "controlnet_sd15": _CONTROL | dict(conditioning_embedding_out_channels=[16, 32, 96, 256]),
    "controlnet_sdxl": _CONTROL | {k: v for k, v in _XL.items() if k != "sample_size"},
    "ddpm_cifar10": _DDPM,
    "ddpm_celebahq": _DDPM
    | dict(
        block_out_channels=[128, 128, 256, 256, 512, 512],
        down_block_types=[_DOWN] * 4 + ["AttnDownBlock2D", _DOWN],
        sample_size=256,
        up_block_types=[_UP, "AttnUpBlock2D"] + [_UP] * 4,
    ),
    "edm_cifar10_vp": _EDM,
    "edm_cifar10_cond_ve": _EDM
    | dict(label_dim=10, embedding_type="fourier", encoder_type="residual", channel_mult_noise=2)
    | dict(resample_filter=[1, 3, 3, 1]),
    "edm_imagenet64_adm": dict(_class_name="DhariwalUNet", img_resolution=64, in_channels=3)
    | dict(out_channels=3, label_dim=1000),
    "guided_256": _GUIDED,
    "guided_512": _GUIDED | dict(image_size=512),
    "guided_64": _GUIDED
    | dict(image_size=64, num_channels=192, num_res_blocks=3, use_new_attention_order=True),
}


def make(root: pathlib.Path, seed: int = 0) -> None:
    """Write the table; of no seed."""
    path = root / "real_unet.json"
    table = json.loads(path.read_text()) if path.is_file() else {}
    for name, config in CASES.items():
        measured = measure(config)
        if measured is not None:
            table[name] = {"config": config, **measured}
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def measure(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The number of parameters and the sha256 of their names, or None without the clone."""
    import torch

    name = config["_class_name"]
    with torch.device("meta"):
        if name.endswith("Model"):
            import diffusers

            kwargs = {key: value for key, value in config.items() if key != "_class_name"}
            return digest(getattr(diffusers, name)(**kwargs))
        guided = name.startswith("Guided")
        clone = os.environ.get("GUIDED_CLONE" if guided else "EDM_CLONE")
        if not clone:
            return None
        with adm.found_at(clone):
            build = adm.build_guided if guided else adm.build_edm
            return digest(build({"norm_groups": 32, **config} if guided else config)[0])


def digest(net: Any) -> dict[str, Any]:
    """Of the parameters, and of the buffer that is one in all but name (Fourier rates)."""
    found = dict(net.named_parameters())
    found |= {n: b for n, b in net.named_buffers() if n.endswith("freqs")}
    lines = sorted(f"{name} {list(p.shape)}" for name, p in found.items())
    text = "\n".join(lines).encode()
    count = sum(p.numel() for p in found.values())
    return {"count": count, "names": hashlib.sha256(text).hexdigest()}
