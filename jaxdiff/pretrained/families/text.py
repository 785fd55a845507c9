"""Text encoders of transformers: CLIP (with its encoder of images), T5 and BERT.

Files differ in a prefix: `text_model.` is there in the checkpoints of CLIPTextModel on the hub and
lacks in those that a recent transformers writes; T5's and BERT's may belong to a larger model,
whose other parts are left aside.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxdiff.nets.text import (
    ImageEncoder,
    TextEncoder,
    bert,
    clip_text,
    clip_vision,
    gelu,
    quick_gelu,
    t5_encoder,
)
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.names import Rule

_ACTS: dict[str, Callable[..., Any]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
_TRAINING = (
    "attention_dropout",
    "dropout",
    "dropout_rate",
    "attention_probs_dropout_prob",
    "hidden_dropout_prob",
    "classifier_dropout",
    "initializer_factor",
    "initializer_range",
    "gradient_checkpointing",
)
_SPEAKING = (
    "bos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "is_encoder_decoder",
    "n_positions",
    "num_decoder_layers",
    "output_past",
    "scale_decoder_outputs",
    "task_specific_params",
    "tie_word_embeddings",
    "tie_encoder_decoder",
    "use_cache",
)


def build_clip_text(config: Config) -> TextEncoder:
    """`CLIPTextModel`."""
    config.ignore("projection_dim")
    return _clip_text(config, 0)


def build_clip_text_projected(config: Config) -> TextEncoder:
    """`CLIPTextModelWithProjection`."""
    return _clip_text(config, config("projection_dim", 512))


def build_clip_vision(config: Config) -> ImageEncoder:
    """`CLIPVisionModel`."""
    config.ignore("projection_dim")
    return _clip_vision(config, 0)


def build_clip_vision_projected(config: Config) -> ImageEncoder:
    """`CLIPVisionModelWithProjection`."""
    return _clip_vision(config, config("projection_dim", 512))


def build_t5(config: Config) -> TextEncoder:
    """`T5EncoderModel`."""
    config.ignore(*_TRAINING, *_SPEAKING, "eos_token_id", "is_gated_act", "dense_act_fn")
    kind = config.only("feed_forward_proj", "relu", "gated-gelu", "gated-silu", "gelu", "silu")
    gated, act = kind.startswith("gated-"), kind.removeprefix("gated-")
    return t5_encoder(
        dtype=config.dtype,
        vocabulary=config("vocab_size", 32128),
        width=config("d_model", 512),
        head_width=config("d_kv", 64),
        heads=config("num_heads", 8),
        inner=config("d_ff", 2048),
        layers=config("num_layers", 6),
        gated=gated,
        # "gated-gelu" has always meant the approximation by tanh; "gelu" alone is the exact one.
        act=_ACTS["gelu_new" if kind == "gated-gelu" else act],
        buckets=config("relative_attention_num_buckets", 32),
        farthest=config("relative_attention_max_distance", 128),
        eps=config("layer_norm_epsilon", 1e-6),
    )


def build_bert(config: Config) -> TextEncoder:
    """`BertModel`."""
    config.ignore(*_TRAINING, *_SPEAKING, "eos_token_id")
    config.only("position_embedding_type", "absolute")
    return bert(
        dtype=config.dtype,
        vocabulary=config("vocab_size", 30522),
        tokens=config("max_position_embeddings", 512),
        segments=config("type_vocab_size", 2),
        width=config("hidden_size", 768),
        inner=config("intermediate_size", 3072),
        layers=config("num_hidden_layers", 12),
        heads=config("num_attention_heads", 12),
        act=_ACTS[config.only("hidden_act", "gelu", "gelu_new", "relu", "silu")],
        eps=config("layer_norm_eps", 1e-12),
    )


def _clip_text(config: Config, project: int) -> TextEncoder:
    config.ignore(*_TRAINING, *_SPEAKING)
    return clip_text(
        dtype=config.dtype,
        vocabulary=config("vocab_size", 49408),
        tokens=config("max_position_embeddings", 77),
        project=project,
        end=config("eos_token_id", 49407),
        **_tower(config, width=512, inner=2048, heads=8),
    )


def _clip_vision(config: Config, project: int) -> ImageEncoder:
    config.ignore(*_TRAINING, *_SPEAKING)
    return clip_vision(
        dtype=config.dtype,
        channels=config("num_channels", 3),
        side=config("image_size", 224),
        patch=config("patch_size", 32),
        project=project,
        **_tower(config, width=768, inner=3072, heads=12),
    )


def _tower(config: Config, *, width: int, inner: int, heads: int) -> dict[str, Any]:
    act = config.only("hidden_act", "quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh")
    return {
        "width": config("hidden_size", width),
        "inner": config("intermediate_size", inner),
        "layers": config("num_hidden_layers", 12),
        "heads": config("num_attention_heads", heads),
        "act": _ACTS[act],
        "eps": config("layer_norm_eps", 1e-5),
    }


def _prefixed(prefix: str) -> tuple[Rule, ...]:
    """Put the prefix before the names that lack it."""
    parts = r"embeddings|encoder|final_layer_norm|pre_layrnorm|post_layernorm"
    return (Rule(rf"((?:{parts})\..+)", rf"{prefix}.\1"),)


_POSITIONS = (r".*position_ids", r".*token_type_ids")
_TEXT, _VISION = _prefixed("text_model"), _prefixed("vision_model")

CLIP_TEXT = Family(build_clip_text, _TEXT, (*_POSITIONS, r"text_projection\..+", r"logit_scale"))
CLIP_TEXT_PROJECTED = Family(build_clip_text_projected, _TEXT, (*_POSITIONS, r"logit_scale"))
CLIP_VISION = Family(
    build_clip_vision, _VISION, (*_POSITIONS, r"visual_projection\..+", r"logit_scale")
)
CLIP_VISION_PROJECTED = Family(build_clip_vision_projected, _VISION, (*_POSITIONS, r"logit_scale"))
T5 = Family(build_t5, (), (r"encoder\.embed_tokens\.weight", r"decoder\..+", r"lm_head\..+"))
BERT = Family(
    build_bert,
    (
        Rule(r"bert\.(.+)", r"\1"),
        Rule(r"(.+)\.gamma", r"\1.weight"),
        Rule(r"(.+)\.beta", r"\1.bias"),
    ),
    (*_POSITIONS, r"cls\..+"),
)
