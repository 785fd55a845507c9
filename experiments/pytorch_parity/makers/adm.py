"""Tiny networks of guided-diffusion and of EDM with random weights: what they were given and gave.

    python experiments/pytorch_parity/makers/adm.py tests/pretrained/fixtures SEED EDM GUIDED

EDM and GUIDED are clones of github.com/NVlabs/edm and github.com/openai/guided-diffusion; `make`
finds them in the environment as EDM_CLONE and GUIDED_CLONE, and does nothing where they are not.
Three constants of theirs are made small: 32 groups, 1000 classes, 64 channels a head.
"""

import contextlib
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.pytorch_parity.makers.unet import randomise

_GUIDED = dict(_class_name="GuidedUNet", image_size=8, num_channels=8, channel_mult="1,1")
_SONG = dict(_class_name="SongUNet", img_resolution=8, in_channels=2, out_channels=3)
_SONG |= dict(model_channels=8, channel_mult=[1, 1], num_blocks=1, attn_resolutions=[4])

CASES: dict[str, dict[str, Any]] = {
    "guided_legacy": _GUIDED
    | dict(attention_resolutions="4", num_res_blocks=1, learn_sigma=True, class_cond=True)
    | dict(num_head_channels=4, resblock_updown=True, use_scale_shift_norm=True)
    | dict(num_classes=3, norm_groups=4),
    "guided_new": _GUIDED
    | dict(attention_resolutions="8", num_res_blocks=1, num_heads=2, num_heads_upsample=4)
    | dict(use_scale_shift_norm=False, use_new_attention_order=True, norm_groups=2)
    | dict(channel_mult="1,1"),
    "guided_classifier": dict(_class_name="GuidedClassifier", image_size=8, classifier_width=8)
    | dict(classifier_depth=1, classifier_attention_resolutions="4", channel_mult="1,1")
    | dict(num_head_channels=4, num_classes=5, norm_groups=4),
    "edm_ddpmpp": _SONG | dict(label_dim=3, augment_dim=2),
    "edm_ncsnpp": _SONG
    | dict(embedding_type="fourier", encoder_type="residual", channel_mult_noise=2)
    | dict(resample_filter=[1, 3, 3, 1], channel_mult=[1, 1, 1], channel_mult_emb=1),
    "edm_skip": _SONG
    | dict(encoder_type="skip", decoder_type="skip", resample_filter=[1, 3, 3, 1])
    | dict(channel_mult_emb=2, model_channels=4, channel_mult=[1, 2]),
    "edm_adm": _SONG
    | dict(_class_name="DhariwalUNet", label_dim=3, augment_dim=2, channels_per_head=4)
    | dict(channel_mult_emb=2),
}
_SIZES = {
    "GuidedUNet": ("num_classes", "norm_groups"),
    "GuidedClassifier": ("num_classes", "norm_groups", "num_head_channels"),
    "DhariwalUNet": ("channels_per_head",),
    "SongUNet": (),
}


def make(root: pathlib.Path, seed: int = 0) -> None:
    """Write a folder for each case under `root`, where the clones are known."""
    make_from(root, seed, os.environ.get("EDM_CLONE"), os.environ.get("GUIDED_CLONE"))


def make_from(root: pathlib.Path, seed: int, edm: str | None, guided: str | None) -> None:
    """The same with the paths of the clones."""
    for name, config in CASES.items():
        theirs = guided if config["_class_name"].startswith("Guided") else edm
        if theirs:
            with found_at(theirs):
                make_one(root / name, config, seed)


def make_one(folder: pathlib.Path, config: Mapping[str, Any], seed: int) -> None:
    """Write config.json, the weights, and io.npz of one case."""
    import safetensors.torch
    import torch

    torch.manual_seed(seed)
    build = build_guided if config["_class_name"].startswith("Guided") else build_edm
    net, call = build(config)
    randomise(net.eval())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    prefix = "" if build is build_guided else "model."
    state = {prefix + name: value.contiguous() for name, value in net.state_dict().items()}
    safetensors.torch.save_file(state, folder / "diffusion_pytorch_model.safetensors")
    x = torch.randn(2, config.get("in_channels", 3), 8, 8).requires_grad_()
    time = torch.tensor([0.7, -1.2]) if prefix else torch.tensor([3.0, 41.0])
    given = draw(config)
    out = call(net, x, time, given)
    cotangent = torch.randn_like(out)
    (out * cotangent).sum().backward()
    arrays = dict(x=x, time=time, grad_x=x.grad, out_0=out, cotangent_0=cotangent)
    arrays |= {f"cond_{key}": value for key, value in given.items()}
    np.savez(folder / "io.npz", **{k: v.detach().numpy() for k, v in arrays.items()})


def build_guided(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """A network of guided-diffusion and how it is called."""
    unet = importlib.import_module("guided_diffusion.unet")
    script = importlib.import_module("guided_diffusion.script_util")
    norm = importlib.import_module("guided_diffusion.nn").GroupNorm32
    unet.normalization = lambda channels: norm(config["norm_groups"], channels)
    if config["_class_name"] == "GuidedClassifier":
        return classifier(unet, config), lambda net, x, time, given: net(x, time)
    script.NUM_CLASSES = config.get("num_classes", 1000)
    own = {"_class_name", *_SIZES["GuidedUNet"]}
    flags = {key: value for key, value in config.items() if key not in own}
    net = script.create_model(**flags)
    return net, lambda net, x, time, given: net(x, time, y=given.get("label"))


def classifier(unet: Any, config: Mapping[str, Any]) -> Any:
    """The classifier, as create_classifier makes it, with other constants."""
    width, size = config["classifier_width"], config["image_size"]
    return unet.EncoderUNetModel(
        image_size=size,
        in_channels=3,
        model_channels=width,
        out_channels=config["num_classes"],
        num_res_blocks=config["classifier_depth"],
        attention_resolutions=(size // int(config["classifier_attention_resolutions"]),),
        channel_mult=tuple(map(int, config["channel_mult"].split(","))),
        num_head_channels=config["num_head_channels"],
        use_scale_shift_norm=True,
        resblock_updown=True,
        pool="attention",
    )


def build_edm(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """A network of EDM and how it is called."""
    import torch

    networks = importlib.import_module("training.networks")
    if "channels_per_head" in config:
        smaller_heads(networks, config["channels_per_head"])
    own = {"_class_name", *_SIZES[config["_class_name"]]}
    kwargs = {key: value for key, value in config.items() if key not in own}
    net, rows = getattr(networks, config["_class_name"])(**kwargs), config.get("label_dim", 0)

    def call(net: Any, x: Any, time: Any, given: Mapping[str, Any]) -> Any:
        label = None
        if rows:
            # the null label is a row of zeros
            label = torch.nn.functional.one_hot(given["label"], rows + 1)[:, :rows].float()
        return net(x, time, label, augment_labels=given.get("augment"))

    return net, call


def smaller_heads(networks: Any, width: int) -> None:
    """Heads of another width than 64, which that class gives to every block."""
    plain = networks.UNetBlock

    class Block(plain):
        def __init__(self, **options: Any):
            super().__init__(**(options | {"channels_per_head": width}))

    networks.UNetBlock = Block


def draw(config: Mapping[str, Any]) -> dict[str, Any]:
    """Random inputs besides x and time, in our words."""
    import torch

    given = {}
    if config.get("label_dim"):
        given["label"] = torch.tensor([1, config["label_dim"]])
    if config.get("class_cond"):
        given["label"] = torch.tensor([1, config["num_classes"] - 1])
    if config.get("augment_dim"):
        given["augment"] = torch.randn(2, config["augment_dim"])
    return given


@contextlib.contextmanager
def found_at(path: str) -> Iterator[None]:
    """Import from a clone, and forget what was imported afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("training", "torch_utils", "dnnlib", "guided_diffusion"):
                del sys.modules[name]


if __name__ == "__main__":
    root, seed, edm, guided = sys.argv[1:]
    make_from(pathlib.Path(root), int(seed), edm, guided)
