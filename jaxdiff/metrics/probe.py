"""Two small classifiers, fitted in seconds on a CPU: what samples are judged with.

`logistic` says how often a generated picture is what it was asked to be (agreement); the 64
features of `small_cnn` give a Frechet distance where no Inception network is at hand. Both are
proxies: they compare runs of one data set, and stand in no published table. Agreement alone is
gamed by class means, so it is reported beside a distance.

Images are uint8 in [0, 255] or floats in [-1, 1]; both classifiers see [0, 1].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxdiff.canonical import scan
from jaxdiff.types import PyTree

Images = Float[Array, "n ..."] | UInt8[Array, "n ..."] | UInt8[np.ndarray, "n ..."]
Labels = Int[Array, " m"] | Int[np.ndarray, " m"]  # m = n, or an error that says so
_STRIDED = ("NHWC", "HWIO", "NHWC")


class Logistic(NamedTuple):
    """A linear classifier: logits = pixels @ weight + bias."""

    weight: Float[Array, "d classes"]
    bias: Float[Array, " classes"]


class Cnn(NamedTuple):
    """A small convolutional classifier: three layers with kernels, two dense ones after them."""

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    dense: Logistic
    head: Logistic


def logistic(
    images: Images, labels: Labels, *, classes: int, decay: float = 1e-3, steps: int = 60
) -> Logistic:
    """Fit a multinomial logistic regression by preconditioned, accelerated gradient steps.

    min_W mean_i [ log sum_c exp(w_c.x_i) - w_{y_i}.x_i ] + decay/2 ||W||^2. The Hessian is below
    1/2 X^T X / n + decay (Boehning), and a step uses that bound as its metric:
    W <- V - (1/2 X^T X / n + decay)^-1 grad(V), V extrapolated as by Nesterov.

    Args:
        images: [n, ...], uint8 or floats in [-1, 1].
        labels: the classes [n], integers in [0, classes).
        classes: how many classes there are.
        decay: the weight of the square penalty (pixels in [0, 1]).
        steps: how many gradient steps are made.

    Returns:
        The fitted `Logistic`.

    Raises:
        ValueError: lengths differ, or a label lies outside [0, classes).

    Example:
        >>> x = jnp.asarray([[-1.0], [-0.9], [0.9], [1.0]])
        >>> fit = logistic(x, jnp.asarray([0, 0, 1, 1]), classes=2)
        >>> jnp.argmax(logits(fit, x), 1).tolist()
        [0, 0, 1, 1]

    Reference:
        Boehning 1992, Multinomial logistic regression algorithm, theorem 5.3; Nesterov 1983.
    """
    _check_labels(images, labels, classes)
    x, one_hot = _with_one(_flat(images)), jax.nn.one_hot(jnp.asarray(labels), classes)
    n = x.shape[0]
    bound = 0.5 * x.T @ x / n + decay * jnp.eye(x.shape[1])
    factor = jax.scipy.linalg.cho_factor(bound)

    def body(carry: PyTree, k: Array) -> tuple[PyTree, None]:
        now, before = carry
        ahead = now + k / (k + 3) * (now - before)
        gradient = x.T @ (jax.nn.softmax(x @ ahead) - one_hot) / n + decay * ahead
        return (ahead - jax.scipy.linalg.cho_solve(factor, gradient), now), None

    start = jnp.zeros((x.shape[1], classes))
    (weight, _), _ = scan(body, (start, start), jnp.arange(steps, dtype=jnp.float32))
    return Logistic(weight[:-1], weight[-1])


def logits(fit: Logistic, images: Images) -> Float[Array, "n classes"]:
    """The scores of a fitted `logistic`: pixels @ weight + bias.

    Args:
        fit: what `logistic` returned.
        images: [n, ...], uint8 or floats in [-1, 1], as many pixels as it was fitted on.

    Returns:
        Unnormalised log-probabilities [n, classes].

    Example:
        >>> logits(Logistic(jnp.ones((1, 2)), jnp.zeros(2)), jnp.ones((1, 1))).tolist()
        [[1.0, 1.0]]
    """
    return _linear(fit, _flat(images))


def small_cnn(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    classes: int,
    steps: int = 800,
    batch: int = 128,
    rate: float = 2e-3,
) -> Cnn:
    """Fit a small convolutional network: three strided 3x3 layers, 64 features, one linear layer.

    Cross-entropy, Adam with a cosine schedule, batches drawn with replacement.

    Args:
        key: one key, for the first weights and the batches.
        images: [n, h, w, c], uint8 or floats in [-1, 1].
        labels: the classes [n], integers in [0, classes).
        classes: how many classes there are.
        steps: how many steps of Adam.
        batch: images a step.
        rate: the largest learning rate.

    Returns:
        The fitted `Cnn`; see `features` and `cnn_logits`.

    Raises:
        ValueError: images that are not [n, h, w, c], lengths differ, a label out of range.

    Example:
        >>> images = jnp.zeros((4, 8, 8, 1))
        >>> fit = small_cnn(jax.random.key(0), images, jnp.arange(4) % 2, classes=2, steps=1)
        >>> features(fit, images).shape
        (4, 64)
    """
    _check_labels(images, labels, classes)
    if images.ndim != 4:
        raise ValueError(f"images: shape {images.shape}; give [n, h, w, c]")
    pixels, targets = jnp.asarray(images), jnp.asarray(labels)
    tx = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def loss(params: Cnn, index: Array) -> Array:
        scores = cnn_logits(params, pixels[index])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, targets[index]))

    def body(carry: PyTree, key: Array) -> tuple[PyTree, None]:
        params, state = carry
        index = jax.random.randint(key, (batch,), 0, pixels.shape[0])
        updates, state = tx.update(jax.grad(loss)(params, index), state, params)
        return (optax.apply_updates(params, updates), state), None

    first, draws = jax.random.split(key)
    params = _start(first, pixels.shape[1:], classes)
    (params, _), _ = scan(body, (params, tx.init(params)), jax.random.split(draws, steps))
    return params


def features(params: Cnn, images: Images) -> Float[Array, "n 64"]:
    """The 64 features (after the ReLU) that the last layer of a `small_cnn` reads.

    Args:
        params: what `small_cnn` returned.
        images: [n, h, w, c], uint8 or floats in [-1, 1], of the size it was fitted on.

    Returns:
        Features [n, 64], >= 0.

    Example:
        See `small_cnn`.
    """
    x = _unit(images).astype(params.kernels[0].dtype)
    for kernel, bias in zip(params.kernels, params.biases):
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=_STRIDED)
        x = jax.nn.relu(x + bias[None, None, None])
    return jax.nn.relu(_linear(params.dense, x.reshape(x.shape[0], -1)))


def cnn_logits(params: Cnn, images: Images) -> Float[Array, "n classes"]:
    """The scores of a fitted `small_cnn`.

    Args:
        params: what `small_cnn` returned.
        images: [n, h, w, c], uint8 or floats in [-1, 1], of the size it was fitted on.

    Returns:
        Unnormalised log-probabilities [n, classes].

    Example:
        See `small_cnn`.
    """
    return _linear(params.head, features(params, images))


def _start(key: Array, shape: tuple[int, ...], classes: int) -> Cnn:
    """Weights of He et al. (2015), zero biases, for images of one shape."""
    height, width, channels = shape
    places = -(-height // 8) * -(-width // 8)
    widths = ((channels, 16), (16, 32), (32, 64))
    sizes = [*((3, 3, *pair) for pair in widths), (places * 64, 64), (64, classes)]
    keys = jax.random.split(key, len(sizes))
    weights = [jax.random.normal(k, s) * np.sqrt(2 / np.prod(s[:-1])) for k, s in zip(keys, sizes)]
    biases = [jnp.zeros(s[-1]) for s in sizes]
    dense, head = (Logistic(w, b) for w, b in zip(weights[3:], biases[3:]))
    return Cnn(tuple(weights[:3]), tuple(biases[:3]), dense, head)


def _linear(layer: Logistic, x: Array) -> Array:
    return x @ layer.weight + layer.bias[None]


def _unit(images: Images) -> Array:
    """Images in [0, 1]."""
    values = jnp.asarray(images)
    return values / 255.0 if values.dtype == jnp.uint8 else (values + 1) / 2


def _flat(images: Images) -> Array:
    return _unit(images).reshape(images.shape[0], -1)


def _with_one(x: Array) -> Array:
    return jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)


def _check_labels(images: Images, labels: Labels, classes: int) -> None:
    if images.shape[0] != labels.shape[0]:
        raise ValueError(f"labels: {labels.shape[0]} for {images.shape[0]} images; give one each")
    if not isinstance(labels, Tracer) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels: from {labels.min()} to {labels.max()}; give integers in [0, {classes})"
        )
