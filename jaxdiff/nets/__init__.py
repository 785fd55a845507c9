"""Networks: who predicts. Deaf to noise, they know only x, time and cond.

Each constructor returns `Net(init, apply)`, two pure functions; `functional` makes them of any
`nnx.Module` that holds nothing but parameters.
"""

from jaxdiff.nets.control import ask, hook
from jaxdiff.nets.dit import DiT, dit
from jaxdiff.nets.functional import check_params, functional
from jaxdiff.nets.kernels import attending
from jaxdiff.nets.mlp import MLP, mlp
from jaxdiff.nets.unet import UNet, unet

__all__ = [
    "MLP",
    "DiT",
    "UNet",
    "ask",
    "attending",
    "check_params",
    "dit",
    "functional",
    "hook",
    "mlp",
    "unet",
]
