"""What training carries from step to step, and nothing else.

One immutable record holds all that a resumed run needs to go on as if it had never stopped: the
number of finished steps, the parameters, the moments of the optimiser, the moving average and the
key. The key never changes: step k draws its noise from fold_in(key, k), so a run that is cut in two
sees the same noise as one that is not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from jaxdiff.types import PyTree


class TrainState(NamedTuple):
    """The state of a training run.

    `step` number of finished steps; `params` the parameters; `opt_state` what the optimiser keeps;
    `ema` the moving average of the parameters, or None; `key` one typed key, the same for all
    steps.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    key: Key[Array, ""]


def create(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    average: bool = True,
) -> TrainState:
    """The state before the first step.

    The average starts as a COPY of the parameters: the compiled step gives the memory of its old
    state away, and one buffer cannot be given away twice. The parameters themselves are not copied:
    they belong to the state from now on.

    Args:
      params: tree of floating arrays.
      optimizer: an optax transformation.
      key: one typed key, `jax.random.key(seed)`.
      average: whether a moving average is kept (it costs the memory of the parameters once more).

    Returns:
      TrainState with step 0.

    >>> state = create({"w": jnp.ones(3)}, optax.sgd(0.1), jax.random.key(0))
    >>> int(state.step), state.ema["w"] is state.params["w"]
    (0, False)
    """
    ema = jax.tree.map(jnp.copy, params) if average else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema, key)


def parameter_count(params: PyTree) -> int:
    """The number of scalars in a tree of parameters (arrays or their shapes).

    >>> parameter_count({"w": jnp.ones((3, 4)), "b": jnp.ones(4)})
    16
    """
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
