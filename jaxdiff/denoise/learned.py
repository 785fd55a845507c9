"""Networks that learn their variance: 2c channels, the prediction and v.

The reverse step t -> s has a variance between the posterior's and the forward kernel's,

    log var = (1 + v)/2 log large + (1 - v)/2 log small,

v = -1 the small one, v = 1 the large one, for each entry of x; v travels in `Estimate.aux["v"]`.

Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15), with v here = 2 v - 1 there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.denoise.door import Model, model, predict
from jaxdiff.process import Process, Wiring, decode
from jaxdiff.types import Estimate, PyTree, Scalar


def halves(both: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
    """The two halves of the last axis of a network's answer, each shaped like x.

    Args:
      both: [b, ..., 2c], or a tree of such.
      x: [b, ..., c], like it.

    Returns:
      (p, v).

    Raises:
      ValueError: if an answer has not twice the channels of its sample.

    >>> p, v = halves(jnp.arange(4.0)[None], jnp.zeros((1, 2)))
    >>> p.tolist(), v.tolist()
    ([[0.0, 1.0]], [[2.0, 3.0]])
    """
    for answer, leaf in zip(jax.tree.leaves(both), jax.tree.leaves(x), strict=True):
        if answer.shape != (*leaf.shape[:-1], 2 * leaf.shape[-1]):
            raise ValueError(
                f"the network answers {answer.shape} for samples {leaf.shape}: to learn its "
                "variance it needs twice the channels, the prediction and v"
            )
    leaves, structure = jax.tree.flatten(both)
    pairs = [jnp.split(leaf, 2, axis=-1) for leaf in leaves]
    return structure.unflatten([p for p, _ in pairs]), structure.unflatten([v for _, v in pairs])


def learned_variance(
    apply: Callable[..., Any],
    params: PyTree,
    process: Process,
    wiring: Wiring,
    *,
    span: tuple[Scalar, Scalar] | None = (-1.0, 1.0),
) -> Model:
    """A model whose network answers 2c channels: the prediction, and v for `Estimate.aux["v"]`.

    Args:
      apply: `apply(params, x [b, ..., c], time [b], cond) -> [b, ..., 2c]`, p before v.
      params, process, span: see `model`.
      wiring: see `model`; its prediction is that of the first half.

    Raises:
      ValueError: as `model`, and where the network has not 2c channels.

    Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.1.

    >>> from jaxdiff import process as pr
    >>> net = lambda params, x, time, cond: jnp.concatenate([0 * x, 0 * x - 1], axis=-1)
    >>> made = learned_variance(net, {}, pr.edm(), pr.wiring(pr.x0))
    >>> est = made.fn(jnp.ones((1, 2)), 1.0, None, None)
    >>> est.x0.tolist(), est.aux["v"].tolist()
    ([[0.0, 0.0]], [[-1.0, -1.0]])
    """
    plain = model(apply, params, process, wiring, span=span)
    fn = Partial(_two_answers, Partial(apply), params, process, wiring)
    return Model(process, fn, plain.span)


def _two_answers(
    apply: Any, params: Any, process: Any, wiring: Any, x: Any, t: Any, cond: Any, now: Any
) -> Estimate:
    both, centred = predict(apply, params, process, wiring, x, t, cond)
    p, v = halves(both, x)
    x0, _ = decode(wiring.prediction, process, t, centred, p)
    return Estimate(jax.tree.map(lambda leaf: leaf + wiring.center, x0), None, {"v": v})
