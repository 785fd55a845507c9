"""deepinv's DPS, PiGDM, DiffPIR and DDRM on the weights of our transformer."""

import math
import pathlib
import sys
import time
from typing import Any

import deepinv
import jax
import jax.numpy as jnp
import numpy as np
import torch
from tasks import MASKS, NOISE, SHAPE
from torch.nn import functional as F

from jaxdiff.inverse import gaussian_kernel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))

from deepinv_methods import methods
from torch_denoiser import Preconditioned
from torch_dit import TorchDiT

NAMES = ("DPS", "DPS, a rate", "PiGDM", "DiffPIR", "DDRM")


class Counted(Preconditioned):
    """Counts how often the network is asked."""

    calls = 0

    def forward(self, x, sigma, *args, **kwargs):
        Counted.calls += 1
        return super().forward(x, sigma, *args, **kwargs)


def dense(operator: Any, noise: Any) -> Any:
    """Any small linear operator by the singular values of its matrix; y is [b, m]."""
    basis = jnp.eye(math.prod(SHAPE)).reshape(-1, *SHAPE)
    columns = np.asarray(jax.vmap(operator.A)(basis)).reshape(len(basis), -1)
    u, values, vt = torch.linalg.svd(torch.tensor(columns.T.copy()))
    u, values = (F.pad(part, (0, len(vt) - len(values))) for part in (u, values))
    return deepinv.physics.DecomposablePhysics(
        U=lambda z: z @ u.T,
        U_adjoint=lambda y: y @ u,
        V=lambda z: (z @ vt).reshape(-1, 1, *SHAPE[:2]),
        V_adjoint=lambda x: x.flatten(1) @ vt.T,
        mask=values[None],
        noise_model=noise,
    )


def physics_of(task: str, operator: Any) -> Any:
    """The same measurement of images on [0, 1], [b, c, h, w]."""
    size, noise = (1, *SHAPE[:2]), deepinv.physics.GaussianNoise(NOISE / 2)
    if task == "blur":
        kernel = torch.tensor(np.array(gaussian_kernel(1.5, 9)))[None, None]
        return deepinv.physics.BlurFFT(size, filter=kernel, noise_model=noise)
    if task not in MASKS:
        return dense(operator, noise)
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
        flat = task not in (*MASKS, "blur")
        given = given.flatten(1) if flat else given.permute(0, 3, 1, 2).contiguous()
        method = methods(self.denoiser, steps, NOISE / 2)[name]
        torch.manual_seed(0)
        Counted.calls, begun = 0, time.perf_counter()
        x = method(given, physics).detach()
        spent = (time.perf_counter() - begun) / len(y)
        x = 2 * x.permute(0, 2, 3, 1).numpy() - 1
        return jnp.asarray(x, jnp.float32), spent, Counted.calls
