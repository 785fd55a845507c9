"""deepinv's DPS, PiGDM, DiffPIR and DDRM on the weights of our transformer."""

import pathlib
import sys
import time
from typing import Any

import deepinv
import jax.numpy as jnp
import numpy as np
import torch
from tasks import NOISE, SHAPE

from jaxdiff.inverse import gaussian_kernel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))

from deepinv_methods import methods
from torch_denoiser import Preconditioned
from torch_dit import TorchDiT

TASKS = ("box", "random", "blur")
NAMES = ("DPS", "PiGDM", "DiffPIR", "DDRM")


class Counted(Preconditioned):
    """Counts how often the network is asked."""

    calls = 0

    def forward(self, x, sigma, *args, **kwargs):
        Counted.calls += 1
        return super().forward(x, sigma, *args, **kwargs)


def physics_of(task: str, operator: Any) -> Any:
    """The same measurement of images on [0, 1], [b, c, h, w]."""
    size, noise = (1, *SHAPE[:2]), deepinv.physics.GaussianNoise(NOISE / 2)
    if task == "blur":
        kernel = torch.tensor(np.array(gaussian_kernel(1.5, 9)))[None, None]
        return deepinv.physics.BlurFFT(size, filter=kernel, noise_model=noise)
    mask = torch.tensor(np.array(operator.A(jnp.ones(SHAPE)).transpose(2, 0, 1)))
    return deepinv.physics.Inpainting(size, mask=mask, noise_model=noise)


class Peer:
    """deepinv on one network."""

    def __init__(self, params: Any, config: Any):
        c, w = config.net, config.wiring
        sizes = {"size": SHAPE[0], "patch": c.patch, "width": c.width, "heads": c.heads}
        net = TorchDiT(params, **sizes, label=-1).eval()  # the last label is the null one
        self.denoiser = Counted(net, w.sigma_data, w.center)

    def restore(self, name: str, steps: int, task: str, operator: Any, y: Any) -> Any:
        """Samples on [-1, 1], seconds an image, and how often the network was asked."""
        physics = physics_of(task, operator)
        given = torch.tensor(np.array((y + operator.A(jnp.ones(SHAPE))[None]) / 2))
        given = given.permute(0, 3, 1, 2).contiguous()
        method = methods(self.denoiser, steps, NOISE / 2)[name]
        torch.manual_seed(0)
        Counted.calls, begun = 0, time.perf_counter()
        x = method(given, physics).detach()
        spent = (time.perf_counter() - begun) / len(y)
        x = 2 * x.permute(0, 2, 3, 1).numpy() - 1
        return jnp.asarray(x, jnp.float32), spent, Counted.calls
