"""Feature networks: what classifiers see, for losses and measures of images.

`lpips` returns a `Distance`, the others an `Extractor`; images are [b, h, w, 3] in [-1, 1].
"""

from jaxdiff.nets.features.inception import inception
from jaxdiff.nets.features.lpips import ALEXNET, VGG16, Trunk, lpips
from jaxdiff.nets.features.record import Distance, Extractor, Features
from jaxdiff.nets.features.resnet import caffe_pixels, imagenet_pixels, resnet

__all__ = [
    "ALEXNET",
    "VGG16",
    "Distance",
    "Extractor",
    "Features",
    "Trunk",
    "caffe_pixels",
    "imagenet_pixels",
    "inception",
    "lpips",
    "resnet",
]
