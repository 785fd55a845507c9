"""Composition: products of experts, negation, and a worse network as the one to leave.

If the conditions are independent given x_t, the score of p(x_t) prod_k (p(c_k | x_t))^{w_k} is

    grad log p(x_t) + sum_k w_k (grad log p(x_t | c_k) - grad log p(x_t)),

which is linear in x_0: conjunction for w_k > 0, negation for w_k < 0. At w_k = 1 it is the exact
conditional where the independence holds; at other weights it is a score at each t, but not the
score of a diffused product.

Liu et al. 2022, arXiv:2206.01714, section 3 (composing conjunctions and negation).
"""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Denoiser, Model, Number, blend, mix, numeric, value_at
from jaxdiff.types import At, PyTree


def _rest(weights: tuple[Any, ...], at: At) -> Array:
    return 1 - reduce(add, [value_at(w, at) for w in weights])


def compose(
    model: Model, conds: Sequence[PyTree], null: PyTree, scales: Sequence[Number]
) -> Denoiser:
    """x_0 = x_0(null) + sum_k w_k (x_0(cond_k) - x_0(null)), in ONE call at b * (1 + k).

    Args:
      model: a model trained with its condition dropped at times.
      conds: the conditions.
      null: the empty condition.
      scales: w_k: above 0 to have it, below 0 to have it not; numbers, [b], or At -> scalar.

    Raises:
      ValueError: if there are not as many scales as conditions, or their structures differ.

    Negative prompts: with one condition and one to be kept away from, either put the negative in
    the place of `null` in `cfg`, x_0 = x_0(neg) + w (x_0(cond) - x_0(neg)), or give it a weight of
    its own, compose(model, (cond, neg), null, (w, -v)).

    Liu et al. 2022, arXiv:2206.01714, section 3.

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> from jaxdiff import process as pr
    >>> net = lambda params, x, time, cond: x * 0 + cond[:, None]
    >>> m = jd.model(net, {}, pr.edm(), pr.wiring(pr.x0))
    >>> some = [jnp.float32(c) for c in (3.0, 2.0, 1.0)]
    >>> float(compose(m, some[:2], some[2], (2.0, -1.0))(jnp.zeros((1, 1)), 1.0).x0[0, 0])
    4.0
    """
    if len(conds) != len(scales) or not conds:
        raise ValueError(f"{len(conds)} conditions and {len(scales)} scales: give one each")
    weights = tuple(map(numeric, scales))
    return mix(model, (null, *conds), (Partial(_rest, weights), *weights))


def autoguided(strong: Denoiser, weak: Denoiser, scale: Number) -> Denoiser:
    """Autoguidance: x_0 = x_0(weak) + scale (x_0(strong) - x_0(weak)), one call of each network.

    Args:
      strong: the denoiser to sample from, with its condition.
      weak: a smaller one or one less trained, with the same condition, on the same process.
      scale: w; 1 is the strong one alone. A number, [b], or At -> scalar.

    Karras et al. 2024, arXiv:2406.02507, eq. (3).
    """
    scale = numeric(scale)
    return blend((weak, strong), (Partial(_rest, (scale,)), scale))
