"""Feature networks: LPIPS, ResNet-50 and Inception-v3, whose files come without a config.

The configs are ours:

    {"_class_name": "LPIPS", "net": "vgg" | "alex"}
    {"_class_name": "ResNet50", "layout": "torchvision" | "keras", "num_classes": 1000, "eps": ...}
    {"_class_name": "InceptionV3", "fid": true, "num_classes": 0}

Names are those of the packages lpips and torchvision. Other layouts: Keras's ResNet-50 with its
old (res2a_branch2a) and new names (conv2_block1_1_conv), and the Inception of the FID as it was
taken over for TorchScript, whose norms have no gain.
"""

import re

import numpy as np

from jaxdiff.nets.features import (
    ALEXNET,
    VGG16,
    Distance,
    Extractor,
    caffe_pixels,
    imagenet_pixels,
    inception,
    lpips,
    resnet,
)
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.families.family import Family
from jaxdiff.pretrained.names import Rule

_BLOCKS = "abcdef"
_LAYERS = {"2a": "conv1", "2b": "conv2", "2c": "conv3", "1": "downsample.0"}
_NORMS = {"2a": "bn1", "2b": "bn2", "2c": "bn3", "1": "downsample.1"}
_NEW = {"1": "2a", "2": "2b", "3": "2c", "0": "1"}
_KINDS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def build_lpips(config: Config) -> Distance:
    """The distance over VGG-16 or AlexNet."""
    return lpips(
        {"vgg": VGG16, "alex": ALEXNET}[config.only("net", "vgg", "alex")], dtype=config.dtype
    )


def build_resnet50(config: Config) -> Extractor:
    """ResNet-50 in the lineage that `layout` names."""
    keras = config.only("layout", "torchvision", "keras") == "keras"
    return resnet(
        dtype=config.dtype,
        classes=config("num_classes", 1000),
        early_stride=keras,
        bias=keras,
        eps=config("eps", 1.001e-5 if keras else 1e-5),
        pixels=caffe_pixels if keras else imagenet_pixels,
    )


def build_inception(config: Config) -> Extractor:
    """Inception-v3 with the pooling of the FID or of torchvision."""
    return inception(classes=config("num_classes", 0), fid=config("fid", True), dtype=config.dtype)


def _turned(kernel: np.ndarray) -> np.ndarray:
    """[h, w, i, o] -> [o, i, h, w], or [i, o] -> [o, i]."""
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


def _keras(conv: str, norm: str, into: str, into_norm: str) -> tuple[Rule, ...]:
    """A convolution or linear map and the norm behind it."""
    kernel = Rule(f"{conv}/kernel", f"{into}.weight", _turned)
    norms = _KINDS.items() if norm else ()
    more = tuple(Rule(f"{norm}/{kind}", f"{into_norm}.{name}") for kind, name in norms)
    return (kernel, Rule(f"{conv}/bias", f"{into}.bias"), *more)


def _keras_rules() -> tuple[Rule, ...]:
    found = [
        *_keras("conv1", "bn_conv1", "conv1", "bn1"),
        *_keras("conv1_conv", "conv1_bn", "conv1", "bn1"),
        *_keras("fc1000", "", "fc", ""),
        *_keras("predictions", "", "fc", ""),
    ]
    for stage in range(2, 6):
        for n, letter in enumerate(_BLOCKS):
            into = f"layer{stage - 1}.{n}"
            for new, branch in _NEW.items():
                old, later = f"{stage}{letter}_branch{branch}", f"conv{stage}_block{n + 1}_{new}"
                to = f"{into}.{_LAYERS[branch]}", f"{into}.{_NORMS[branch]}"
                found += _keras(f"res{old}", f"bn{old}", *to)
                found += _keras(f"{later}_conv", f"{later}_bn", *to)
    return tuple(found)


_STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
_A = {
    "conv": "branch1x1",
    "tower.conv": "branch5x5_1",
    "tower.conv_1": "branch5x5_2",
    "tower_1.conv": "branch3x3dbl_1",
    "tower_1.conv_1": "branch3x3dbl_2",
    "tower_1.conv_2": "branch3x3dbl_3",
    "tower_2.conv": "branch_pool",
}
_B = {
    "conv": "branch3x3",
    "tower.conv": "branch3x3dbl_1",
    "tower.conv_1": "branch3x3dbl_2",
    "tower.conv_2": "branch3x3dbl_3",
}
_C = {
    "conv": "branch1x1",
    "tower.conv": "branch7x7_1",
    "tower.conv_1": "branch7x7_2",
    "tower.conv_2": "branch7x7_3",
    "tower_1.conv": "branch7x7dbl_1",
    "tower_1.conv_1": "branch7x7dbl_2",
    "tower_1.conv_2": "branch7x7dbl_3",
    "tower_1.conv_3": "branch7x7dbl_4",
    "tower_1.conv_4": "branch7x7dbl_5",
    "tower_2.conv": "branch_pool",
}
_D = {
    "tower.conv": "branch3x3_1",
    "tower.conv_1": "branch3x3_2",
    "tower_1.conv": "branch7x7x3_1",
    "tower_1.conv_1": "branch7x7x3_2",
    "tower_1.conv_2": "branch7x7x3_3",
    "tower_1.conv_3": "branch7x7x3_4",
}
_E = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
_MIXED = {
    "mixed": ("5b", _A),
    "mixed_1": ("5c", _A),
    "mixed_2": ("5d", _A),
    "mixed_3": ("6a", _B),
    "mixed_4": ("6b", _C),
    "mixed_5": ("6c", _C),
    "mixed_6": ("6d", _C),
    "mixed_7": ("6e", _C),
    "mixed_8": ("7a", _D),
    "mixed_9": ("7b", _E),
    "mixed_10": ("7c", _E),
}


def _with_gain(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return beta, np.ones_like(beta)


def _scripted(name: str, into: str) -> tuple[Rule, ...]:
    old = r"(?:net\.)?layers\." + re.escape(name)
    return (
        Rule(rf"{old}\.weight", f"{into}.conv.weight"),
        Rule(rf"{old}\.beta", (f"{into}.bn.bias", f"{into}.bn.weight"), _with_gain),
        Rule(rf"{old}\.mean", f"{into}.bn.running_mean"),
        Rule(rf"{old}\.var", f"{into}.bn.running_var"),
    )


def _scripted_rules() -> tuple[Rule, ...]:
    found = [rule for old, new in _STEM.items() for rule in _scripted(old, new)]
    for block, (number, units) in _MIXED.items():
        for old, new in units.items():
            found += _scripted(f"{block}.{old}", f"Mixed_{number}.{new}")
    return tuple(found)


_COUNTS = r".*num_batches_tracked"

LPIPS = Family(build_lpips, (), (r"scaling_layer\..+", r"lins\..+"))
RESNET50 = Family(build_resnet50, _keras_rules(), (_COUNTS,))
INCEPTION = Family(build_inception, _scripted_rules(), (_COUNTS, r"AuxLogits\..+"))
