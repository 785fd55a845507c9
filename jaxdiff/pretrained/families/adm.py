"""guided-diffusion: its U-Net and its classifier, and the networks of EDM.

guided-diffusion has flags instead of a config; a config.json of "GuidedUNet" or "GuidedClassifier"
holds those flags by their names, with their defaults. One of "SongUNet" or "DhariwalUNet" holds the
arguments of EDM's classes. The tensors keep their names; those of EDM may begin with "model.", as
in the preconditioned network that its files hold.
"""

from collections.abc import Sequence

from jaxdiff.nets.unet2d import adm_classifier, adm_unet, dhariwal_unet, song_unet
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.names import Rule
from jaxdiff.types import Net

_MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}


def build_guided(config: Config) -> Net:
    """GuidedUNet: the flags of guided-diffusion's image_sample and super_res_sample."""
    base, size = config("num_channels", 128), _size(config)
    widths = _widths(config, base, size)
    head_width = config("num_head_channels", -1)
    up_heads = config("num_heads_upsample", -1)
    channels = 6 if "small_size" in config.values else 3
    config.ignore("small_size", "large_size", "dropout", "use_checkpoint", "use_fp16")
    return adm_unet(
        dtype=config.dtype,
        remat=config.remat,
        widths=widths,
        attention=_levels(config("attention_resolutions", "16,8"), size),
        channels=channels,
        out=6 if config("learn_sigma", False) else 3,
        depth=config("num_res_blocks", 2),
        base=base,
        heads=config("num_heads", 4),
        up_heads=None if up_heads == -1 else up_heads,
        head_width=0 if head_width == -1 else head_width,
        labels=config("num_classes", 1000) if config("class_cond", False) else 0,
        film=config("use_scale_shift_norm", True),
        resnet_resample=config("resblock_updown", False),
        new_order=config("use_new_attention_order", False),
        groups=config("norm_groups", 32),
    )


def build_classifier(config: Config) -> Net:
    """GuidedClassifier: the flags of guided-diffusion's classifier_sample."""
    base, size = config("classifier_width", 128), config("image_size", 64)
    config.only("classifier_pool", "attention")
    config.ignore("classifier_use_fp16")
    return adm_classifier(
        dtype=config.dtype,
        remat=config.remat,
        size=size,
        widths=_widths(config, base, size),
        attention=_levels(config("classifier_attention_resolutions", "32,16,8"), size),
        out=config("num_classes", 1000),
        depth=config("classifier_depth", 2),
        base=base,
        head_width=config("num_head_channels", 64),
        film=config("classifier_use_scale_shift_norm", True),
        resnet_resample=config("classifier_resblock_updown", True),
        groups=config("norm_groups", 32),
    )


def build_song(config: Config) -> Net:
    """SongUNet: the arguments of EDM's class."""
    kind = config.only("embedding_type", "positional", "fourier")
    config.ignore("dropout", "label_dropout")
    return song_unet(
        dtype=config.dtype,
        remat=config.remat,
        size=config("img_resolution", 32),
        channels=config("in_channels", 3),
        out=config("out_channels", 3),
        width=config("model_channels", 128),
        multipliers=tuple(config("channel_mult", (1, 2, 2, 2))),
        depth=config("num_blocks", 4),
        attention=tuple(config("attn_resolutions", (16,))),
        classes=config("label_dim", 0),
        augment_dim=config("augment_dim", 0),
        embed_factor=config("channel_mult_emb", 4),
        noise_factor=config("channel_mult_noise", 1),
        fourier=kind == "fourier",
        encoder=config("encoder_type", "standard"),
        decoder=config("decoder_type", "standard"),
        taps=tuple(map(float, config("resample_filter", (1, 1)))),
    )


def build_dhariwal(config: Config) -> Net:
    """DhariwalUNet: the arguments of EDM's class."""
    config.ignore("dropout", "label_dropout")
    return dhariwal_unet(
        dtype=config.dtype,
        remat=config.remat,
        size=config("img_resolution", 64),
        channels=config("in_channels", 3),
        out=config("out_channels", 3),
        width=config("model_channels", 192),
        multipliers=tuple(config("channel_mult", (1, 2, 3, 4))),
        depth=config("num_blocks", 3),
        attention=tuple(config("attn_resolutions", (32, 16, 8))),
        classes=config("label_dim", 0),
        augment_dim=config("augment_dim", 0),
        embed_factor=config("channel_mult_emb", 4),
        head_width=config("channels_per_head", 64),
    )


def _size(config: Config) -> int:
    if "small_size" in config.values:
        return config("large_size", 256)
    return config("image_size", 64)


def _widths(config: Config, base: int, size: int) -> tuple[int, ...]:
    said = config("channel_mult", "")
    if said:
        parts = said.split(",") if isinstance(said, str) else said
        return tuple(int(float(part) * base) for part in parts)
    if size not in _MULTIPLIERS:
        raise ValueError(
            f"{config.name}: image_size is {size}, for which there are no channel_mult; there are "
            f"for {', '.join(map(str, _MULTIPLIERS))}: give channel_mult"
        )
    return tuple(int(part * base) for part in _MULTIPLIERS[size])


def _levels(said: str | Sequence[int], size: int) -> tuple[int, ...]:
    """Resolutions "32,16,8" of images of `size`, as levels."""
    resolutions = [int(r) for r in said.split(",")] if isinstance(said, str) else said
    return tuple((size // r).bit_length() - 1 for r in resolutions)


_INNER = (Rule(r"model\.(.*)", r"\1"),)
_FILTERS = (r".*resample_filter", r"sigma_.*")

GUIDED_UNET = Family(build_guided)
GUIDED_CLASSIFIER = Family(build_classifier)
SONG_UNET = Family(build_song, _INNER, _FILTERS)
DHARIWAL_UNET = Family(build_dhariwal, _INNER, _FILTERS)
