"""What a published U-Net is told besides x, as one vector: time, class, pooled text, sizes.

    e = MLP(features(t)) + class + MLP([pooled text, features(sizes)])

The modules carry the names of diffusers: time_proj, time_embedding, class_embedding,
add_embedding, encoder_hid_proj.

Reference: Ho et al. 2020, arXiv 2006.11239; the Fourier features of NCSN++: Song et al. 2021, arXiv
2011.13456, appendix H; sizes and pooled text: Podell et al. 2023, arXiv 2307.01952, section 2.2;
guidance as an input: Luo et al. 2023, arXiv 2310.04378, section 4.2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdiff.nets.cond import Given
from jaxdiff.nets.embed import TwoLayers, sinusoid
from jaxdiff.nets.initial import spread
from jaxdiff.nets.layers import Table, linear


class Clock(NamedTuple):
    """How time becomes features.

    `kind` is "sinusoid"; "fourier" (of t, at fixed random rates) or "log_fourier" (of log t; the
    output of the network is divided by t); "table" (a learned row for each of `steps`). `width` is
    the number of features, `sine_first` and `shift` are those of `sinusoid`.
    """

    width: int
    kind: str = "sinusoid"
    sine_first: bool = False
    shift: float = 0.0
    steps: int = 0


class Told(NamedTuple):
    """What else the vector holds; everything is off by default.

    `labels`: rows of a table of classes. `level`: a second time, cond["level"]. `pooled`: what
    becomes of cond["pooled"]: "identity", "linear", "two_layers" (unCLIP), or "sizes" (SDXL: with
    the sinusoids, `size_width` features each, of cond["sizes"]); `pooled_dim` is the width of what
    is mapped. `beside`: the class lies beside the time, not on top. `guidance_dim`: features of
    cond["guidance"]. `text_dim`: width of tokens that are mapped to the network's first.
    """

    labels: int = 0
    level: bool = False
    pooled: str = ""
    pooled_dim: int = 0
    size_width: int = 256
    beside: bool = False
    guidance_dim: int = 0
    text_dim: int = 0


NOTHING = Told()


class Rates(nnx.Module):
    """Random rates of Fourier features, which are never trained.

    >>> Rates(4, 16.0, rngs=nnx.Rngs(0)).weight.shape
    (4,)
    """

    def __init__(self, count: int, deviation: float, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(spread(deviation)(rngs.params(), (count,), jnp.float32))

    def __call__(self, time: Float[Array, " b"]) -> Float[Array, "b n"]:
        rates = jax.lax.stop_gradient(self.weight.get_value())
        return 2 * jnp.pi * time[:, None] * rates[None, :]


class TimeEmbedding(nnx.Module):
    """W2 silu(W1 (features + W guidance)).

    >>> TimeEmbedding(4, 8, rngs=nnx.Rngs(0))(jnp.ones((2, 4))).shape
    (2, 8)
    """

    def __init__(self, inputs: int, width: int, guidance_dim: int = 0, *, rngs: nnx.Rngs):
        self.linear_1 = linear(inputs, width, rngs=rngs)
        self.linear_2 = linear(width, width, rngs=rngs)
        self.cond_proj = (
            linear(guidance_dim, inputs, bias=False, zero=True, rngs=rngs) if guidance_dim else None
        )

    def __call__(
        self, features: Float[Array, "b n"], guidance: Float[Array, "b k"] | None = None
    ) -> Float[Array, "b d"]:
        if self.cond_proj is not None and guidance is not None:
            features = features + self.cond_proj(guidance)
        return self.linear_2(jax.nn.silu(self.linear_1(features)))


def attach(net: Any, clock: Clock, told: Told, width: int, context_dim: int, rngs: nnx.Rngs) -> int:
    """Give `net` the modules of the vector; returns the width of the vector."""
    _check(clock, told)
    net.clock, net.told, net.context_dim = clock, told, told.text_dim or context_dim
    net.time_proj = _time_proj(clock, rngs)
    net.time_embedding = TimeEmbedding(clock.width, width, told.guidance_dim, rngs=rngs)
    net.class_embedding = _class_embedding(clock, told, width, rngs)
    net.add_embedding = (
        TwoLayers(told.pooled_dim, width, rngs=rngs) if told.pooled == "sizes" else None
    )
    net.encoder_hid_proj = linear(told.text_dim, context_dim, rngs=rngs) if told.text_dim else None
    return 2 * width if told.beside else width


def extras(told: Told) -> tuple[str, ...]:
    """The fields of `Given` that `told` asks for.

    >>> extras(Told(pooled="sizes", pooled_dim=2816))
    ('pooled', 'sizes')
    """
    asked = {
        "pooled": bool(told.pooled),
        "sizes": told.pooled == "sizes",
        "level": told.level,
        "guidance?": told.guidance_dim > 0,
    }
    return tuple(name for name, wanted in asked.items() if wanted)


def embed(net: Any, time: Float[Array, " b"], given: Given) -> Float[Array, "b d"]:
    """The vector of time and condition, in float32.

    Raises:
      ValueError: if pooled or sizes are of another width than the network was built for.
    """
    told: Told = net.told
    guidance = _guidance(given.guidance, told.guidance_dim)
    vector = net.time_embedding(features(net, time), guidance)
    other = _class(net, given)
    if other is not None:
        vector = jnp.concatenate([vector, other], axis=1) if told.beside else vector + other
    if net.add_embedding is None:
        return vector
    return vector + net.add_embedding(_pooled_and_sizes(net, given))


def features(net: Any, time: Float[Array, " b"]) -> Float[Array, "b n"]:
    """The features of a time."""
    clock: Clock = net.clock
    if clock.kind == "sinusoid":
        return sinusoid(time, clock.width, sine_first=clock.sine_first, shift=clock.shift)
    if clock.kind == "table":
        return net.time_proj(time.astype(jnp.int32))
    angle = net.time_proj(jnp.log(time) if clock.kind == "log_fourier" else time)
    parts = [jnp.cos(angle), jnp.sin(angle)]
    return jnp.concatenate(parts[::-1] if clock.sine_first else parts, axis=1)


def _time_proj(clock: Clock, rngs: nnx.Rngs) -> Any:
    if clock.kind == "table":
        return Table(clock.steps, clock.width, rngs=rngs)
    if clock.kind == "sinusoid":
        return None
    deviation = 16.0 if clock.kind == "log_fourier" else 1.0
    return Rates(clock.width // 2, deviation, rngs=rngs)


def _class_embedding(clock: Clock, told: Told, width: int, rngs: nnx.Rngs) -> Any:
    if told.labels:
        return Table(told.labels, width, rngs=rngs)
    if told.level:
        return TwoLayers(clock.width, width, rngs=rngs)
    if told.pooled == "two_layers":
        return TwoLayers(told.pooled_dim, width, rngs=rngs)
    return linear(told.pooled_dim, width, rngs=rngs) if told.pooled == "linear" else None


def _class(net: Any, given: Given) -> Array | None:
    told: Told = net.told
    if told.labels:
        return net.class_embedding(given.label)
    if told.level:
        return net.class_embedding(features(net, given.level))
    if told.pooled in ("two_layers", "linear", "identity"):
        width = told.pooled_dim or net.time_embedding.linear_2.out_features
        _check_width("pooled", given.pooled, width)
        pooled = given.pooled.astype(jnp.float32)
        return pooled if net.class_embedding is None else net.class_embedding(pooled)
    return None


def _pooled_and_sizes(net: Any, given: Given) -> Array:
    told: Told = net.told
    count = told.size_width
    b, numbers = given.sizes.shape
    flat = sinusoid(
        given.sizes.reshape(-1), count, sine_first=net.clock.sine_first, shift=net.clock.shift
    )
    joint = jnp.concatenate([given.pooled.astype(jnp.float32), flat.reshape(b, -1)], axis=1)
    if joint.shape[1] != told.pooled_dim:
        raise ValueError(
            f"cond['pooled'] has width {given.pooled.shape[1]} and cond['sizes'] {numbers} numbers "
            f"of {count} features each, {joint.shape[1]} in all: the network takes "
            f"{told.pooled_dim}"
        )
    return joint


def _guidance(scale: Array | None, width: int) -> Array | None:
    """Features of a guidance scale w (1: none), of which networks are told 1000 (w - 1)."""
    if scale is None:
        return None
    return sinusoid(1000.0 * (scale - 1.0), width, sine_first=True, shift=1.0)


def _check_width(name: str, value: Array, width: int) -> None:
    if value.ndim != 2 or value.shape[1] != width:
        raise ValueError(
            f"cond[{name!r}] has shape {list(value.shape)}: the network takes [b, {width}]"
        )


def _check(clock: Clock, told: Told) -> None:
    if clock.kind not in ("sinusoid", "fourier", "log_fourier", "table"):
        raise ValueError(
            f"clock.kind is {clock.kind!r}: it must be 'sinusoid', 'fourier', 'log_fourier' or "
            "'table'"
        )
    if clock.kind == "table" and clock.steps < 1:
        raise ValueError(f"clock.steps is {clock.steps}: a table of times needs their number")
    if told.pooled not in ("", "identity", "linear", "two_layers", "sizes"):
        raise ValueError(
            f"told.pooled is {told.pooled!r}: it must be '', 'identity', 'linear', 'two_layers' or "
            "'sizes'"
        )
    if told.labels == 1:
        raise ValueError("told.labels is 1: a table of classes needs at least 2 rows")
    classes = bool(told.labels) + told.level + (told.pooled not in ("", "sizes"))
    if classes > 1 or (told.beside and (classes == 0 or told.pooled == "sizes")):
        raise ValueError(
            f"told asks for {classes} kinds of a class at once ({told}): choose one of labels, "
            "level, pooled"
        )
