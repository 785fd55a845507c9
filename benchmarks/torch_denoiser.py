"""A network of `jaxdiff.nets.dit` with EDM's wiring as a PyTorch denoiser, as deepinv wants it."""

import torch
from torch import nn


class Preconditioned(nn.Module):
    """D(x, sigma) on [b, c, h, w]: c_skip (x - m) + c_out F(c_in (x - m), log(sigma) / 4) + m.

    With `unit`, images lie in [0, 1] and sigma is in those units; else in [-1, 1].
    """

    def __init__(self, net, std, center, unit=True):
        super().__init__()
        self.net, self.std, self.center, self.unit = net, std, center, unit

    def forward(self, x, sigma, *args, **kwargs):
        sigma = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1, 1, 1)
        x = x.float()
        if self.unit:
            x, sigma = 2 * x - 1, 2 * sigma
        x = x - self.center
        total = sigma**2 + self.std**2
        clock = (sigma.clamp_min(1e-6).log() / 4).flatten().expand(len(x))
        f = self.net((x / total.sqrt()).permute(0, 2, 3, 1), clock).permute(0, 3, 1, 2)
        out = self.std**2 / total * x + sigma * self.std / total.sqrt() * f + self.center
        return (out + 1) / 2 if self.unit else out
