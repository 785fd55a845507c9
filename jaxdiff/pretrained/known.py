"""The configs of the Stable Diffusions, for checkpoints that come as one file without any.

As published in the repositories of their copies in the layout of diffusers.
"""

from typing import Any

Config = dict[str, Any]

_UNET: Config = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_VAE: Config = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_CLIP: Config = {
    "architectures": ["CLIPTextModel"],
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}
_TABLE: Config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_DDIM: Config = _TABLE | {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

KNOWN: dict[str, dict[str, Config]] = {
    "sd15": {
        "unet": _UNET | {"cross_attention_dim": 768, "attention_head_dim": 8},
        "vae": _VAE,
        "text_encoder": _CLIP,
        "scheduler": _DDIM,
    },
    "sd21": {
        "unet": _UNET
        | {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "vae": _VAE,
        "text_encoder": _CLIP
        | {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "projection_dim": 512,
            "hidden_act": "gelu",
        },
        "scheduler": _DDIM | {"prediction_type": "v_prediction"},
    },
    "sdxl": {
        "unet": _UNET
        | {
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": _VAE | {"scaling_factor": 0.13025},
        "text_encoder": _CLIP,
        "text_encoder_2": _CLIP
        | {
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
            "hidden_act": "gelu",
        },
        "scheduler": _TABLE
        | {
            "_class_name": "EulerDiscreteScheduler",
            "timestep_spacing": "leading",
            "steps_offset": 1,
        },
    },
}
"""By kind, the parts; sd21 is the one of 768 pixels, which predicts v."""

BY_WIDTH = {768: "sd15", 1024: "sd21", 2048: "sdxl"}
"""The kind by the width of the tokens that the U-Net looks at."""
