"""Tiny U-Nets of diffusers with random weights: what they were given and gave.

    python experiments/pytorch_parity/makers/unet.py tests/pretrained/fixtures [seed]

needs torch and diffusers. Every case is a class, its config, and the inputs besides x and time; the
gradients are those of sum(out * cotangent) with respect to x and the weight of conv_in. Times are
small: at t = 1000 the last bit of a rate, where PyTorch and XLA differ, is 6e-5 of an angle.
"""

import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """A class of diffusers, its config, the shape of x [c, h, w], and other inputs."""

    name: str
    config: Mapping[str, Any]
    shape: tuple[int, int, int]
    given: Mapping[str, Any] = {}


_SMALL = dict(block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1)
_CROSS = dict(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
_ENCODER = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
_XL = dict(
    attention_head_dim=[1, 4],
    transformer_layers_per_block=[1, 2],
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=5 + 3 * 4,
    cross_attention_dim=7,
)
_XL_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
_SKIPS = [(4, 7, 5), (4, 7, 5), (4, 4, 3), (8, 4, 3)]

CASES: dict[str, Case] = {
    "unet_sd15": Case(
        "UNet2DConditionModel",
        dict(_SMALL, **_CROSS, attention_head_dim=2, cross_attention_dim=6),
        (4, 7, 5),
        dict(tokens=(3, 6), mask=True, skips=_SKIPS, middle=(8, 4, 3)),
    ),
    "unet_sdxl": Case(
        "UNet2DConditionModel",
        dict(
            _SMALL,
            **_XL,
            down_block_types=_XL_DOWN,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        (4, 8, 4),
        dict(tokens=(3, 7), pooled=5, sizes=3, inner=[(4, 4, 2), (8, 4, 2), (8, 4, 2)]),
    ),
    "unet_unclip": Case(
        "UNet2DConditionModel",
        dict(
            _SMALL,
            down_block_types=("AttnDownBlock2D", "ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"),
            mid_block_type="UNetMidBlock2D",
            mid_block_scale_factor=2.0,
            attention_head_dim=2,
            in_channels=9,
            out_channels=5,
            cross_attention_dim=[6, 6, 6],
            only_cross_attention=True,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=5,
            class_embeddings_concat=True,
            time_cond_proj_dim=6,
            center_input_sample=True,
            resnet_time_scale_shift="scale_shift",
            conv_in_kernel=1,
            conv_out_kernel=5,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-3,
        )
        | dict(block_out_channels=(4, 4, 4)),
        (9, 8, 4),
        dict(tokens=(3, 6), pooled=5, guidance=True),
    ),
    "unet_label": Case(
        "UNet2DConditionModel",
        dict(
            _SMALL,
            **_CROSS,
            attention_head_dim=[2, 4],
            cross_attention_dim=6,
            only_cross_attention=[True, False],
            transformer_layers_per_block=[2, 1],
            reverse_transformer_layers_per_block=[1, [2, 1]],
            num_class_embeds=5,
            encoder_hid_dim=7,
            time_embedding_dim=10,
        ),
        (4, 4, 4),
        dict(tokens=(3, 7), label=5),
    ),
    "unet_ddpm": Case(
        "UNet2DModel",
        dict(
            _SMALL,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
        ),
        (3, 8, 4),
    ),
    "unet_film": Case(
        "UNet2DModel",
        dict(
            _SMALL,
            down_block_types=("AttnDownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
            up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=3,
            in_channels=2,
            out_channels=4,
            center_input_sample=True,
        )
        | dict(block_out_channels=(4, 4, 4)),
        (2, 8, 4),
        dict(label=3),
    ),
    "unet_fourier": Case(
        "UNet2DModel",
        dict(
            _SMALL,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            time_embedding_type="fourier",
            attention_head_dim=4,
            attn_norm_num_groups=2,
            mid_block_scale_factor=1.5,
            class_embed_type="timestep",
            resnet_time_scale_shift="scale_shift",
        ),
        (3, 4, 4),
        dict(level=True),
    ),
    "controlnet_sd15": Case(
        "ControlNetModel",
        dict(
            _SMALL,
            **_ENCODER,
            attention_head_dim=2,
            cross_attention_dim=6,
            conditioning_embedding_out_channels=(4, 6),
        ),
        (4, 8, 6),
        dict(tokens=(3, 6), image=(3, 16, 12)),
    ),
    "controlnet_sdxl": Case(
        "ControlNetModel",
        dict(
            _SMALL,
            **_XL,
            down_block_types=_XL_DOWN,
            conditioning_embedding_out_channels=(4, 6),
            controlnet_conditioning_channel_order="bgr",
            global_pool_conditions=True,
        ),
        (4, 6, 4),
        dict(tokens=(3, 7), pooled=5, sizes=3, image=(3, 12, 8)),
    ),
}

BATCH = 2


def make(root: pathlib.Path, seed: int = 0) -> None:
    """Write a folder for each case under `root`."""
    for name, case in CASES.items():
        make_one(root / name, case, seed)


def make_one(folder: pathlib.Path, case: Case, seed: int) -> None:
    """Write config.json, the weights, and io.npz of one case."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    net = getattr(diffusers, case.name)(**case.config).eval()
    randomise(net)
    folder.mkdir(parents=True, exist_ok=True)
    net.save_pretrained(folder, safe_serialization=True)
    x = torch.randn(BATCH, *case.shape).requires_grad_()
    time = torch.tensor([3.0, 41.0])
    given = draw(case.given)
    out = call(case.name, net, x, time, given)
    parts = out if isinstance(out, list) else [out]
    cotangents = [torch.randn_like(part) for part in parts]
    sum((c * part).sum() for c, part in zip(cotangents, parts)).backward()
    arrays = dict(x=x, time=time, grad_x=x.grad, grad_w=net.conv_in.weight.grad)
    arrays |= {f"out_{i}": part for i, part in enumerate(parts)}
    arrays |= {f"cotangent_{i}": part for i, part in enumerate(cotangents)}
    arrays |= {f"cond_{key}": value for key, value in flat(given).items()}
    np.savez(folder / "io.npz", **{k: v.detach().numpy() for k, v in arrays.items()})


def randomise(net: Any) -> None:
    """Random numbers for every parameter: of the usual size for maps, around 1 for norms."""
    import torch

    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim > 1:
                p.normal_(0, p[0].numel() ** -0.5)
            else:
                p.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)


def draw(given: Mapping[str, Any]) -> dict[str, Any]:
    """Random inputs besides x and time, in our words."""
    import torch

    kinds: dict[str, Callable[[Any], Any]] = {
        "tokens": lambda shape: torch.randn(BATCH, *shape),
        "mask": lambda _: torch.tensor([[True, True, False], [True, False, True]]),
        "skips": lambda shapes: [torch.randn(BATCH, *shape) for shape in shapes],
        "inner": lambda shapes: [torch.randn(BATCH, *shape) for shape in shapes],
        "middle": lambda shape: torch.randn(BATCH, *shape),
        "image": lambda shape: torch.rand(BATCH, *shape),
        "pooled": lambda width: torch.randn(BATCH, width),
        "sizes": lambda count: torch.randint(0, 32, (BATCH, count)).float(),
        "guidance": lambda _: torch.tensor([1.02, 1.005]),
        "label": lambda rows: torch.tensor([rows - 1, 0]),
        "level": lambda _: torch.tensor([25.0, 2.0]),
    }
    return {key: kinds[key](value) for key, value in given.items()}


def call(name: str, net: Any, x: Any, time: Any, given: Mapping[str, Any]) -> Any:
    """Run the class; a list of outputs for a ControlNet."""
    label = given.get("label", given.get("level"))
    if name == "UNet2DModel":
        return net(x, time, class_labels=label).sample
    added = {"text_embeds": given.get("pooled"), "time_ids": given.get("sizes")}
    tokens = given["tokens"]
    if name == "ControlNetModel":
        out = net(x, time, tokens, given["image"], added_cond_kwargs=added)
        return [*out.down_block_res_samples, out.mid_block_res_sample]
    pooled = given.get("pooled") if "sizes" not in given else None
    return net(
        x,
        time,
        tokens,
        class_labels=label if label is not None else pooled,
        timestep_cond=told_guidance(net, given.get("guidance")),
        encoder_attention_mask=given.get("mask"),
        added_cond_kwargs=added,
        down_block_additional_residuals=given.get("skips"),
        mid_block_additional_residual=given.get("middle"),
        down_intrablock_additional_residuals=list(given["inner"]) if "inner" in given else None,
    ).sample


def told_guidance(net: Any, scale: Any) -> Any:
    """What the pipeline of latent consistency models tells the network of a guidance scale."""
    if scale is None:
        return None
    from diffusers import LatentConsistencyModelPipeline as Pipeline

    width = net.config.time_cond_proj_dim
    return Pipeline.get_guidance_scale_embedding(None, scale - 1, embedding_dim=width)


def flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Lists become numbered entries."""
    made = {}
    for key, value in given.items():
        if isinstance(value, list):
            made |= {f"{key}_{i}": part for i, part in enumerate(value)}
        else:
            made[key] = value
    return made


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
