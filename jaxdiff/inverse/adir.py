"""ADIR: adapt the network to the measurement before sampling, on images that look like it.

The K images of a gallery whose features are nearest to those of the degraded image (cosine
similarity; the paper's features are CLIP's, which see through degradations) are what the network is
trained on, briefly, with its own loss. The denoiser made of the adapted parameters is then guided
as any other.

Abu-Hussein, Tirer & Giryes 2022, arXiv:2212.03221, the strategy by
nearest neighbours.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxdiff.canonical import scan
from jaxdiff.inverse.doors import check_positive
from jaxdiff.types import Batch, PyTree, Scalar, number


def nearest(query: Float[Array, " f"], features: Float[Array, "n f"], k: int) -> Int[Array, " k"]:
    """The k rows of `features` of greatest cosine similarity with `query`, nearest first.

    Raises:
      ValueError: if k is not in [1, n].

    >>> rows = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    >>> nearest(jnp.array([1.0, 0.0]), rows, 2).tolist()
    [0, 2]
    """
    if not 1 <= k <= features.shape[0]:
        raise ValueError(f"k={k} of {features.shape[0]} rows: give a number between 1 and that")
    lengths = jnp.linalg.norm(features, axis=1)
    along = jnp.matmul(features, query, precision="highest") / jnp.maximum(lengths, 1e-30)
    return jax.lax.top_k(along, k)[1]


def adir(
    key: Key[Array, ""],
    params: PyTree,
    loss: Callable[[PyTree, Key[Array, ""], Batch], Array],
    images: PyTree,
    *,
    steps: int = 100,
    rate: Scalar = 1e-4,
) -> PyTree:
    """Adapt parameters to a few images: steps of Adam on the training loss of all of them.

    Args:
      key: one key.
      params: of the network; for a low-rank patch give the patch alone, and a loss that applies it.
      loss: `loss(params, key, batch) -> scalar`, e.g. a partial of `losses.edm_loss`.
      images: the retrieved ones, leaves [k, ...]: `gallery[nearest(query, features, k)]`.
      steps: of Adam, static.
      rate: of Adam.

    Returns:
      the adapted parameters; those given are not changed.

    Raises:
      ValueError: if steps < 1 or rate is not positive.

    Abu-Hussein et al. 2022, arXiv:2212.03221.

    >>> pull = lambda params, key, batch: jnp.mean((params - batch.x) ** 2)
    >>> found = adir(jax.random.key(0), jnp.zeros(()), pull, jnp.full(3, 0.5), steps=60, rate=0.1)
    >>> round(float(found), 1)
    0.5
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: adapting takes at least 1")
    check_positive("rate", rate)
    adam = optax.adam(number(rate))
    batch = Batch(images, row=jnp.arange(jax.tree.leaves(images)[0].shape[0]))

    def step(carry: tuple[PyTree, PyTree], i: Array) -> tuple[tuple[PyTree, PyTree], Array]:
        params, state = carry
        value, slope = jax.value_and_grad(loss)(params, jax.random.fold_in(key, i), batch)
        change, state = adam.update(slope, state)
        return (optax.apply_updates(params, change), state), value

    return scan(step, (params, adam.init(params)), jnp.arange(steps))[0][0]
