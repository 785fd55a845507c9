"""Autoencoders and text encoders of PyTorch, tiny and with random weights: what they say.

Each case is a class, its config and how it is asked. A gradient is that of sum(out * probe) with
respect to the input and to one weight, named in the case.
"""

import contextlib
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """`library` names the class; `weight` is the tensor whose gradient is stored."""

    library: str
    config: dict[str, Any]
    weight: str


VAE = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
CLIP = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 57,
    "pad_token_id": 1,
}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 3}
CASES: dict[str, Case] = {
    "vae4": Case(
        "diffusers.AutoencoderKL",
        VAE | {"layers_per_block": 1, "scaling_factor": 0.18215},
        "encoder.mid_block.attentions.0.to_q.weight",
    ),
    "vae16": Case(
        "diffusers.AutoencoderKL",
        VAE
        | {
            "block_out_channels": [4, 8],
            "latent_channels": 16,
            "layers_per_block": 2,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "mid_block_add_attention": False,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
        },
        "encoder.down_blocks.1.resnets.0.conv1.weight",
    ),
    "vq": Case(
        "diffusers.VQModel",
        VAE
        | {
            "block_out_channels": [8, 12],
            "latent_channels": 3,
            "num_vq_embeddings": 24,
            "vq_embed_dim": 4,
        },
        "quant_conv.weight",
    ),
    "vq_attention": Case(
        "diffusers.VQModel",
        VAE
        | {
            "block_out_channels": [4, 8],
            "norm_num_groups": 2,
            "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
            "num_vq_embeddings": 16,
            "mid_block_add_attention": False,
        },
        "encoder.down_blocks.1.attentions.0.to_k.weight",
    ),
    "taesd": Case(
        "diffusers.AutoencoderTiny",
        {
            "encoder_block_out_channels": [8, 8],
            "decoder_block_out_channels": [8, 8],
            "num_encoder_blocks": [1, 2],
            "num_decoder_blocks": [2, 1],
        },
        "encoder.layers.1.conv.2.weight",
    ),
    "taesd_silu": Case(
        "diffusers.AutoencoderTiny",
        {
            "encoder_block_out_channels": [6, 6, 6],
            "decoder_block_out_channels": [8, 8, 8],
            "num_encoder_blocks": [1, 1, 1],
            "num_decoder_blocks": [1, 1, 1],
            "act_fn": "silu",
            "latent_channels": 16,
        },
        "encoder.layers.0.weight",
    ),
    "clip_quick": Case(
        "transformers.CLIPTextModel",
        CLIP | {"eos_token_id": 2},
        "embeddings.token_embedding.weight",
    ),
    "clip_projected": Case(
        "transformers.CLIPTextModelWithProjection",
        CLIP | {"eos_token_id": 58, "hidden_act": "gelu", "projection_dim": 10},
        "text_model.encoder.layers.0.self_attn.k_proj.weight",
    ),
    "clip_vision": Case(
        "transformers.CLIPVisionModelWithProjection",
        {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 12,
            "patch_size": 4,
            "projection_dim": 6,
            "hidden_act": "gelu",
        },
        "vision_model.embeddings.class_embedding",
    ),
    "clip_vision_plain": Case(
        "transformers.CLIPVisionModel",
        {
            "hidden_size": 12,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "image_size": 15,
            "patch_size": 5,
        },
        "embeddings.patch_embedding.weight",
    ),
    "t5_gated": Case(
        "transformers.T5EncoderModel",
        T5 | {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 20},
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    "t5_relu": Case(
        "transformers.T5EncoderModel",
        T5 | {"relative_attention_num_buckets": 8, "num_layers": 3},
        "encoder.block.1.layer.1.DenseReluDense.wi.weight",
    ),
    "bert": Case(
        "transformers.BertModel",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "max_position_embeddings": 40,
        },
        "encoder.layer.0.attention.self.key.weight",
    ),
    "bert_relu": Case(
        "transformers.BertModel",
        {
            "vocab_size": 30,
            "hidden_size": 12,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 20,
            "max_position_embeddings": 33,
            "type_vocab_size": 3,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-6,
        },
        "encoder.layer.0.output.dense.weight",
    ),
}


def make(root: pathlib.Path, seed: int = 0) -> None:
    """Write root/NAME/{config.json, *.safetensors, io.npz} for every case, and the sizes."""
    import torch

    for number, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(1000 * seed + number)
        model = _random(_build(case))
        folder = root / name
        model.save_pretrained(folder, safe_serialization=True)
        for other in folder.glob("generation_config.json"):
            other.unlink()
        np.savez_compressed(folder / "io.npz", allow_pickle=False, **_ask(model, case))
    if seed == 0:
        (root / "encoder_sizes.json").write_text(json.dumps(_sizes(), indent=1) + "\n")


def _build(case: Case) -> Any:
    import diffusers
    import transformers

    library, _, name = case.library.partition(".")
    if library == "diffusers":
        return getattr(diffusers, name)(**case.config)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**case.config))


def _random(model: Any) -> Any:
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def _ask(model: Any, case: Case) -> dict[str, np.ndarray]:
    import torch

    if case.library.startswith("diffusers"):
        return _ask_autoencoder(model, case)
    if "Vision" in case.library:
        side = case.config["image_size"]
        image = torch.randn(2, 3, side, side, requires_grad=True)
        out = model(image, output_hidden_states=True)
        asked = {"image": image}
    else:
        asked = _texts(case)
        with torch.set_grad_enabled(True):
            out = model(
                input_ids=asked["ids"], attention_mask=asked["mask"], output_hidden_states=True
            )
        bare = model(input_ids=asked["ids"])
        asked |= {"bare": bare.last_hidden_state}
    named = {f"hidden{i}": state for i, state in enumerate(out.hidden_states)}
    pooled = next(
        (
            out[key]
            for key in ("text_embeds", "image_embeds", "pooler_output")
            if key in out and out[key] is not None
        ),
        None,
    )
    named |= {"last": out.last_hidden_state} | ({} if pooled is None else {"pooled": pooled})
    score = named.get("pooled", named["last"])
    return _arrays(asked | named | _gradient(model, case, score, asked.get("image")))


def _texts(case: Case) -> dict[str, Any]:
    import torch

    many = case.config["vocab_size"]
    length = (
        min(12, case.config.get("max_position_embeddings", 40)) if "CLIP" in case.library else 33
    )
    ids = torch.randint(3, many - 5, (3, length))
    mask = torch.ones_like(ids)
    for row, end in enumerate((length - 1, length // 2, 3)):
        ids[row, end] = many - 2 if "CLIP" in case.library else 1
        ids[row, end + 1 :] = 0
        mask[row, end + 1 :] = 0
    return {"ids": ids, "mask": mask}


def _ask_autoencoder(model: Any, case: Case) -> dict[str, np.ndarray]:
    import torch

    image = (torch.rand(2, 3, 16, 24) * 2 - 1).requires_grad_()
    encoded = model.encode(image)
    said: dict[str, Any] = {"image": image}
    if "latent_dist" in encoded:
        said |= {"mean": encoded.latent_dist.mean, "logvar": encoded.latent_dist.logvar}
        said |= {"kl": encoded.latent_dist.kl()}
    else:
        said |= {"mean": encoded.latents}
    code = said["mean"].detach() + 0.5 * torch.randn_like(said["mean"])
    said |= {"code": code, "decoded": model.decode(code).sample}
    if "VQ" in case.library:
        nearest, _, (_, _, index) = model.quantize(code)
        said |= {"nearest": nearest, "index": index}
    if "KL" in case.library:
        said |= _tiled(model, said["mean"].shape[1])
    # Through encoder and decoder, and through the codebook where there is one.
    return _arrays(said | _gradient(model, case, model.decode(said["mean"]).sample, image))


def _tiled(model: Any, channels: int) -> dict[str, Any]:
    import torch

    model.enable_tiling()
    model.tile_sample_min_size, model.tile_latent_min_size = 16, 8
    image, code = torch.randn(1, 3, 36, 16), torch.randn(1, channels, 15, 22)
    with torch.no_grad():
        said = {
            "tiled_image": image,
            "tiled_mean": model.encode(image).latent_dist.mean,
            "tiled_code": code,
            "tiled_decoded": model.decode(code).sample,
        }
    model.disable_tiling()
    return said


def _gradient(model: Any, case: Case, out: Any, image: Any) -> dict[str, Any]:
    import torch

    probe = torch.randn_like(out)
    weight = dict(model.named_parameters())[case.weight]
    wanted = [weight] if image is None else [weight, image]
    found = torch.autograd.grad((out * probe).sum(), wanted)
    named = {"probe": probe, "weight_gradient": found[0]}
    return named if image is None else named | {"image_gradient": found[1]}


def _arrays(named: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in named.items()}


SIZES: dict[str, Case] = {
    "sd_vae": Case(
        "diffusers.AutoencoderKL",
        {
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
            "sample_size": 512,
        },
        "",
    ),
    "flux_vae": Case(
        "diffusers.AutoencoderKL",
        {
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "sample_size": 1024,
        },
        "",
    ),
    "vq_f4": Case(
        "diffusers.VQModel",
        {
            "block_out_channels": [128, 256, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "layers_per_block": 2,
            "num_vq_embeddings": 8192,
        },
        "",
    ),
    "taesd": Case("diffusers.AutoencoderTiny", {}, ""),
    "clip_l": Case(
        "transformers.CLIPTextModel",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
            "eos_token_id": 2,
        },
        "",
    ),
    "clip_big_g": Case(
        "transformers.CLIPTextModelWithProjection",
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
            "hidden_act": "gelu",
        },
        "",
    ),
    "t5_xxl": Case(
        "transformers.T5EncoderModel",
        {
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "feed_forward_proj": "gated-gelu",
        },
        "",
    ),
    "minilm": Case(
        "transformers.BertModel",
        {
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
        },
        "",
    ),
}


def _sizes() -> dict[str, Any]:
    """Config, number of parameters and a digest of names and shapes of the published sizes."""
    found = {}
    for name, case in SIZES.items():
        model = _meta(case)
        shapes = {key: list(value.shape) for key, value in model.named_parameters()}
        if case.library.endswith(".CLIPTextModel"):
            # The checkpoints on the hub have the prefix, which this class has given up.
            shapes = {f"text_model.{key}": shape for key, shape in shapes.items()}
        found[name] = {
            "config": _described(case),
            "parameters": sum(value.numel() for value in model.parameters()),
            "digest": digest(shapes),
        }
    return found


def digest(shapes: dict[str, list[int]]) -> str:
    """sha256 of the sorted lines "name shape"."""
    lines = sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _meta(case: Case) -> Any:
    import torch

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        return _build(case)


def _described(case: Case) -> dict[str, Any]:
    library, _, name = case.library.partition(".")
    key = {"_class_name": name} if library == "diffusers" else {"architectures": [name]}
    return key | case.config
