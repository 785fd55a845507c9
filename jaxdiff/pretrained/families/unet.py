"""The U-Nets of diffusers: UNet2DConditionModel, UNet2DModel and ControlNetModel.

A knob that no public checkpoint in the scope of `unet2d` turns is refused by name. Three facts that
the names of the knobs do not tell: in UNet2DConditionModel `attention_head_dim` is the number of
heads of a transformer, though the width of a head in AttnDownBlock2D; in UNet2DModel it is the
width of a head everywhere; and a UNet2DModel with scale_shift has no norm in its middle attention
unless attn_norm_num_groups is given.
"""

from collections.abc import Sequence
from typing import Any

from jaxdiff.nets.unet2d import Clock, Level, Look, Middle, Told, controlnet, unet2d
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.names import Rule
from jaxdiff.types import Net

_CROSS_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_CROSS_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
_SELF_DOWN = ("DownBlock2D",) + ("AttnDownBlock2D",) * 3
_SELF_UP = ("AttnUpBlock2D",) * 3 + ("UpBlock2D",)
_WIDTHS = (320, 640, 1280, 1280)


def build_condition(config: Config) -> Net:
    """UNet2DConditionModel."""
    levels, middle, context_dim = _cross_levels(config, _up_types(config, _CROSS_UP))
    widths = [level.width for level in levels]
    config.only("resnet_out_scale_factor", 1.0, 1)
    config.ignore("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads")
    return unet2d(
        dtype=config.dtype,
        remat=config.remat,
        levels=levels,
        middle=middle,
        channels=config("in_channels", 4),
        out=config("out_channels", 4),
        clock=_clock(config, widths[0]),
        told=_told(config),
        embed_dim=_embed_dim(config, widths[0]),
        context_dim=context_dim,
        groups=config("norm_num_groups", 32),
        eps=config("norm_eps", 1e-5),
        film=_film(config),
        flat=config("use_linear_projection", False),
        padding=config("downsample_padding", 1),
        sizes=(config("conv_in_kernel", 3), config("conv_out_kernel", 3)),
        centred=config("center_input_sample", False),
    )


def build_controlnet(config: Config) -> Net:
    """ControlNetModel."""
    levels, middle, context_dim = _cross_levels(config, None)
    widths = [level.width for level in levels]
    order = config.only("controlnet_conditioning_channel_order", "rgb", "bgr")
    config.ignore("upcast_attention", "addition_embed_type_num_heads")
    if middle is None:
        raise ValueError(f"{config.name}: mid_block_type is None, but a ControlNet has a middle")
    return controlnet(
        dtype=config.dtype,
        remat=config.remat,
        levels=levels,
        middle=middle,
        channels=config("in_channels", 4),
        hint_channels=config("conditioning_channels", 3),
        hint_widths=tuple(config("conditioning_embedding_out_channels", (16, 32, 96, 256))),
        bgr=order == "bgr",
        pooled_residuals=config("global_pool_conditions", False),
        clock=_clock(config, widths[0]),
        told=_told(config),
        context_dim=context_dim,
        groups=config("norm_num_groups", 32),
        eps=config("norm_eps", 1e-5),
        film=_film(config),
        flat=config("use_linear_projection", False),
        padding=config("downsample_padding", 1),
    )


def build_plain(config: Config) -> Net:
    """UNet2DModel."""
    widths = tuple(config("block_out_channels", (224, 448, 672, 896)))
    groups, film = config("norm_num_groups", 32), _film(config)
    config.only("class_embed_type", None, "timestep", "identity")
    config.only("act_fn", "silu", "swish")
    config.ignore("sample_size", "dropout")
    return unet2d(
        dtype=config.dtype,
        remat=config.remat,
        levels=_plain_levels(config, widths),
        middle=_plain_middle(config, widths[-1], groups, film),
        channels=config("in_channels", 3),
        out=config("out_channels", 3),
        clock=_plain_clock(config, widths[0]),
        told=_told(config),
        embed_dim=config("time_embedding_dim", None),
        groups=groups,
        eps=config("norm_eps", 1e-5),
        film=film,
        padding=config("downsample_padding", 1),
        centred=config("center_input_sample", False),
    )


def _cross_levels(
    config: Config, ups: Sequence[str] | None
) -> tuple[list[Level], Middle | None, int]:
    widths = tuple(config("block_out_channels", _WIDTHS))
    downs = _types(config, "down_block_types", _CROSS_DOWN, widths)
    _refuse(config)
    heads = each(config, "attention_head_dim", 8, widths)
    layers = each(config, "transformer_layers_per_block", 1, widths)
    up_layers = config("reverse_transformer_layers_per_block", None)
    only = each(config, "only_cross_attention", False, widths)
    depths = each(config, "layers_per_block", 2, widths)
    levels = []
    for i, width in enumerate(widths):
        back = layers[i] if up_layers is None else up_layers[len(widths) - 1 - i]
        up = None if ups is None else ups[len(widths) - 1 - i]
        levels.append(
            Level(
                width,
                depths[i],
                _look(config, downs[i], width, heads[i], layers[i], only[i]),
                None if up is None else _look(config, up, width, heads[i], back, only[i]),
                "resnet" if downs[i].startswith("Resnet") else "conv",
                "resnet" if (up or "").startswith("Resnet") else "conv",
            )
        )
    middle = _cross_middle(config, Look("cross", heads[-1], layers[-1]))
    return levels, middle, _context_dim(config, levels, middle, widths)


def _context_dim(
    config: Config, levels: Sequence[Level], middle: Middle | None, widths: Sequence[int]
) -> int:
    dims = set(each(config, "cross_attention_dim", 1280, widths))
    looks = [look for level in levels for look in (level.down, level.up)]
    looks.append(middle.look if middle else None)
    if not any(look is not None and look.kind == "cross" for look in looks):
        return 0
    if len(dims) > 1 or None in dims:
        raise ValueError(
            f"{config.name}: cross_attention_dim is {config('cross_attention_dim')}, which jaxdiff "
            "does not have; it has one width for all levels"
        )
    return dims.pop()


def _cross_middle(config: Config, look: Look) -> Middle | None:
    kind = config.only("mid_block_type", "UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
    scale = 1 / config("mid_block_scale_factor", 1)
    if kind is None:
        return None
    if kind == "UNetMidBlock2D":
        return Middle(None, 1, scale)
    return Middle(look, 2, scale)


def _look(
    config: Config, kind: str, width: int, heads: int | None, layers: Any, only: bool
) -> Look | None:
    if kind.startswith("Cross"):
        return Look("cross", heads or 1, layers if isinstance(layers, int) else tuple(layers), only)
    return Look("self", _heads(config, width, heads)) if kind.startswith("Attn") else None


def _heads(config: Config, width: int, of_width: int | None) -> int:
    if of_width is not None and width % of_width:
        raise ValueError(
            f"{config.name}: attention_head_dim is {of_width}, which does not divide the width "
            f"{width}"
        )
    return width // (of_width or width)


def _plain_levels(config: Config, widths: Sequence[int]) -> list[Level]:
    downs = _types(config, "down_block_types", _SELF_DOWN, widths)
    ups = tuple(reversed(_types(config, "up_block_types", _SELF_UP, widths)))
    dim, depth = config("attention_head_dim", 8), config("layers_per_block", 2)
    shrink = config.only("downsample_type", "conv", "resnet")
    grow = config.only("upsample_type", "conv", "resnet")
    levels = []
    for width, down, up in zip(widths, downs, ups):
        for kind in (down, up):
            if kind.startswith("Cross"):
                raise ValueError(f"{config.name}: {kind} needs tokens, which UNet2DModel has not")
        levels.append(
            Level(
                width,
                depth,
                _look(config, down, width, dim, 1, False),
                _look(config, up, width, dim, 1, False),
                _change(down, shrink),
                _change(up, grow),
                _pyramid(config, down, up),
            )
        )
    return levels


def _change(kind: str, given: str) -> str:
    """Only blocks with attention obey downsample_type and upsample_type."""
    if kind.startswith("Attn"):
        return given or "conv"
    return "resnet" if kind.startswith("Resnet") else "conv"


def _pyramid(config: Config, down: str, up: str) -> bool:
    carried = "Skip" in down, "Skip" in up
    if carried[0] != carried[1]:
        raise ValueError(
            f"{config.name}: {down} beside {up}, which jaxdiff does not have; it has both with the "
            "image, or both without"
        )
    return carried[0]


def _plain_middle(config: Config, width: int, groups: int, film: bool) -> Middle | None:
    kind = config("mid_block_type", "UNetMidBlock2D")
    scale = 1 / config("mid_block_scale_factor", 1)
    own = config("attn_norm_num_groups", None)
    look = Look("self", _heads(config, width, config("attention_head_dim", 8)))
    if kind is None:
        return None
    look = look if config("add_attention", True) else None
    return Middle(look, 2, scale, own if own is not None else (0 if film else groups))


def _clock(config: Config, width: int) -> Clock:
    kind = config.only("time_embedding_type", "positional", "fourier")
    flip, shift = config("flip_sin_to_cos", True), config("freq_shift", 0)
    if kind == "fourier":
        return Clock(_embed_dim(config, width), "fourier", not flip)
    return Clock(width, "sinusoid", not flip, float(shift))


def _plain_clock(config: Config, width: int) -> Clock:
    kind = config.only("time_embedding_type", "positional", "fourier", "learned")
    flip, shift = config("flip_sin_to_cos", True), config("freq_shift", 0)
    steps = config("num_train_timesteps", None)
    if kind == "learned":
        return Clock(width, "table", steps=steps or 0)
    if kind == "fourier":
        # These features are sines first whatever flip_sin_to_cos says.
        return Clock(2 * width, "log_fourier", True)
    return Clock(width, "sinusoid", not flip, float(shift))


def _embed_dim(config: Config, width: int) -> int:
    times = 2 if config("time_embedding_type", "positional") == "fourier" else 4
    return config("time_embedding_dim", None) or times * width


def _told(config: Config) -> Told:
    kind = config.only(
        "class_embed_type", None, "timestep", "identity", "projection", "simple_projection"
    )
    rows = config("num_class_embeds", None)
    dim = config("projection_class_embeddings_input_dim", None) or 0
    pooled = {"projection": "two_layers", "simple_projection": "linear", "identity": "identity"}
    text_time = config.only("addition_embed_type", None, "text_time") is not None
    config.only("encoder_hid_dim_type", None, "text_proj")
    if text_time and kind in pooled:
        raise ValueError(
            f"{config.name}: class_embed_type {kind!r} beside addition_embed_type 'text_time', "
            "which jaxdiff does not have"
        )
    return Told(
        labels=(rows or 0) if kind is None else 0,
        level=kind == "timestep",
        pooled="sizes" if text_time else pooled.get(kind or "", ""),
        pooled_dim=0 if kind == "identity" else dim,
        size_width=config("addition_time_embed_dim", None) or 256,
        beside=config("class_embeddings_concat", False),
        guidance_dim=config("time_cond_proj_dim", None) or 0,
        text_dim=config("encoder_hid_dim", None) or 0,
    )


def _film(config: Config) -> bool:
    return config.only("resnet_time_scale_shift", "default", "scale_shift") == "scale_shift"


def _refuse(config: Config) -> None:
    config.only("act_fn", "silu", "swish")
    config.only("attention_type", "default")
    for key in ("num_attention_heads", "dual_cross_attention", "resnet_skip_time_act"):
        config.only(key, None, False)
    for key in ("time_embedding_act_fn", "timestep_post_act", "cross_attention_norm"):
        config.only(key, None)
    config.only("mid_block_only_cross_attention", None, False, True)


def _types(
    config: Config, key: str, default: Sequence[str], widths: Sequence[int]
) -> tuple[str, ...]:
    side = "Down" if key.startswith("down") else "Up"
    known = {f"{side}Block2D", f"Attn{side}Block2D", f"CrossAttn{side}Block2D"}
    known.add(f"Resnet{side}sampleBlock2D")
    if config.name == "UNet2DModel":
        known |= {f"Skip{side}Block2D", f"AttnSkip{side}Block2D"}
    found = tuple(kind.removeprefix("UNetRes") for kind in config(key, default))
    for kind in found:
        if kind not in known:
            raise ValueError(
                f"{config.name}: {key} holds {kind!r}, which jaxdiff does not have; it has "
                f"{', '.join(sorted(known))}"
            )
    if len(found) != len(widths):
        raise ValueError(
            f"{config.name}: {key} has {len(found)} entries and block_out_channels {len(widths)}"
        )
    return found


def _up_types(config: Config, default: Sequence[str]) -> tuple[str, ...]:
    return _types(config, "up_block_types", default, config("block_out_channels", _WIDTHS))


def each(config: Config, key: str, default: Any, widths: Sequence[int]) -> tuple[Any, ...]:
    """The value of a knob for each level, given as one or as a list."""
    value = config(key, default)
    if not isinstance(value, list | tuple):
        return (value,) * len(widths)
    if len(value) != len(widths):
        raise ValueError(
            f"{config.name}: {key} has {len(value)} entries and block_out_channels {len(widths)}"
        )
    return tuple(value)


_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
RULES = tuple(
    Rule(rf"(.*attentions\.\d+)\.{old}\.(weight|bias)", rf"\1.{new}.\2")
    for old, new in _OLD.items()
)

UNET2D_CONDITION = Family(build_condition, RULES)
UNET2D = Family(build_plain, RULES)
CONTROLNET = Family(build_controlnet, RULES)
