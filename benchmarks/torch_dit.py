"""The diffusion transformer of `jaxdiff.nets.dit` in PyTorch, with the same weights."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def _linear(params, name):
    kernel = np.asarray(params["kernel"])
    layer = nn.Linear(*kernel.shape, bias="bias" in params)
    layer.weight.data = torch.tensor(kernel.T.copy())
    if "bias" in params:
        layer.bias.data = torch.tensor(np.asarray(params["bias"]))
    layer.name = name
    return layer


def _positions(side, width):
    def line(place):
        rates = 10000.0 ** (-torch.arange(width // 4) / (width // 4))
        angle = place.reshape(-1, 1) * rates
        return torch.cat([angle.sin(), angle.cos()], 1)

    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([line(column), line(row)], 1)


class Block(nn.Module):
    def __init__(self, params, heads):
        super().__init__()
        self.heads = heads
        self.modulation = _linear(params["modulation"], "modulation")
        own, mlp = params["own"], params["mlp"]
        self.query, self.key, self.value, self.out = (
            _linear(own[n], n) for n in ("query", "key", "value", "out")
        )
        self.grow, self.shrink = _linear(mlp["grow"], "grow"), _linear(mlp["shrink"], "shrink")

    def forward(self, x, e):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(e)[:, None].chunk(6, -1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        q, k, v = (
            layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + gate1 * self.out(h)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.shrink(F.gelu(self.grow(h), approximate="tanh"))


class TorchDiT(nn.Module):
    """x [b, h, w, c], time [b] -> [b, h, w, c]; `label` is one for all (None: no classes)."""

    def __init__(self, params, *, size, patch, width, heads, label=None):
        super().__init__()
        self.patch, self.side = patch, size // patch
        embedding = params["embedding"]
        self.first, self.second = (_linear(embedding[n], n) for n in ("first", "second"))
        self.entry, self.exit = _linear(params["entry"], "entry"), _linear(params["exit"], "exit")
        self.modulation = _linear(params["modulation"], "modulation")
        blocks = [params["blocks"][k] for k in sorted(params["blocks"], key=int)]
        self.blocks = nn.ModuleList(Block(block, heads) for block in blocks)
        given = np.zeros(width) if label is None else np.asarray(embedding["table"])[label]
        self.register_buffer("label", torch.tensor(given, dtype=torch.float32))
        self.register_buffer("where", _positions(self.side, width))
        rates = 0.25 * (32.0 / 0.25) ** torch.linspace(0, 1, 64)
        self.register_buffer("rates", rates)

    def forward(self, x, time):
        b, s, p = x.shape[0], self.side, self.patch
        angle = time.float()[:, None] * self.rates
        e = math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], 1)
        e = F.silu(self.second(F.silu(self.first(e))) + self.label)
        h = x.reshape(b, s, p, s, p, -1).transpose(2, 3).reshape(b, s * s, -1)
        h = self.entry(h) + self.where
        for block in self.blocks:
            h = block(h, e)
        shift, scale = self.modulation(e)[:, None].chunk(2, -1)
        h = self.exit(F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return h.reshape(b, s, s, p, p, -1).transpose(2, 3).reshape(x.shape)
