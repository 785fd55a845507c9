"""A control network beside a network: one checkpoint that reads a hint as well.

    p = net(x, t, cond + residuals),   residuals = s control(x, t, cond, hint)

Reference: Zhang et al. 2023, arXiv 2302.05543.
"""

from typing import Any

import jax
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.nets.unet2d import Residuals, scaled
from jaxdiff.pipelines.parts import Part, Pretrained
from jaxdiff.trees import fit
from jaxdiff.types import Net, PyTree


def controlled(loaded: Pretrained, control: Part, *, guess: bool = False) -> Pretrained:
    """The checkpoint with a ControlNet: its condition takes two keys more.

    cond["hint"] [b, h, w, 3] in [0, 1], in pixels; cond["hint_scale"] [b], how much the control
    counts, 0 for not at all.

    Args:
      loaded: the checkpoint.
      control: by `load_part`, of the same family.
      guess: shallow residuals count less (for use without a prompt).

    Returns:
      a checkpoint for `pipelines.text_to_image(..., beside={"hint": hint, "hint_scale": scale})`.
    """
    apply = Partial(_controlled, Partial(loaded.net.apply), Partial(control.net.apply), guess)
    params = {"net": loaded.params, "control": control.params}
    return loaded._replace(net=Net(loaded.net.init, apply), params=params)


def _controlled(
    apply: Any, control: Any, guess: bool, params: PyTree, x: Array, time: Array, cond: Any
) -> Array:
    rest = {name: value for name, value in cond.items() if name not in ("hint", "hint_scale")}
    reads = {name: value for name, value in rest.items() if name != "control"}
    made = control(params["control"], x, time, reads | {"image": cond["hint"]})
    made = scaled(made, 1.0, guess=guess)
    weight = cond["hint_scale"]
    residuals: Residuals = jax.tree.map(lambda leaf: leaf * fit(weight, leaf), made)
    return apply(params["net"], x, time, rest | {"residuals": residuals})
