"""Networks: who predicts. Deaf to noise, they know only x, time and cond.

Each constructor returns `Net(init, apply)`, two pure functions; `functional` makes them of any
`nnx.Module` that holds nothing but parameters. `autoencoders`, `text`, `features` and
`discriminators` hold networks with other calls than `apply(params, x, time, cond)`.
"""

from jaxdiff.nets import autoencoders, discriminators, features, text
from jaxdiff.nets.control import ask, hook
from jaxdiff.nets.dit import DiT, dit
from jaxdiff.nets.functional import check_params, functional, shapes
from jaxdiff.nets.kernels import attending
from jaxdiff.nets.mlp import MLP, mlp
from jaxdiff.nets.unet import UNet, unet

__all__ = [
    "MLP",
    "DiT",
    "UNet",
    "ask",
    "attending",
    "autoencoders",
    "check_params",
    "discriminators",
    "dit",
    "features",
    "functional",
    "hook",
    "mlp",
    "shapes",
    "text",
    "unet",
]
