"""Small networks, their inputs, and parameters moved off the zeros that they start from.

Everything is compiled once for the session: small networks spend their time in the compiler.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import dit, mlp, unet
from jaxdiff.types import Net

CLASSES = 3
# The networks are tiny: compiling them costs far more than running them unoptimised.
_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Built(NamedTuple):
    """A net, parameters with noise on every leaf, its jitted apply, and inputs for it."""

    net: Net
    params: Any
    apply: Callable[..., jax.Array]
    x: jax.Array
    time: jax.Array
    cond: dict[str, jax.Array]


def _make(name: str, **changes: Any) -> Net:
    usual: dict[str, Any] = dict(channels=2, heads=2, classes=CLASSES, context_dim=6)
    own: dict[str, dict[str, Any]] = {
        "unet": usual | dict(widths=(8, 12), attention=(1,), embed_dim=16),
        "dit": usual | dict(size=8, patch=2, width=16, depth=2),
        "mlp": dict(dim=2, width=16, depth=2, classes=CLASSES),
    }
    arguments: Any = own[name] | changes
    return {"unet": unet, "dit": dit, "mlp": mlp}[name](**arguments)


def _moved(net: Net, seed: int = 0):
    """Zero-initialised layers hide what is behind them: add noise to every leaf."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        return leaf + jnp.asarray(0.1 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(move, net.init(jax.random.key(seed)))


@cache
def _built(name: str) -> Built:
    rng = np.random.default_rng(10)
    net = _make(name)
    shape = (4, 2) if name == "mlp" else (4, 8, 8, 2)
    cond = {"label": jnp.arange(4) % (CLASSES + 1)}
    if name != "mlp":
        cond["tokens"] = jnp.asarray(rng.standard_normal((4, 5, 6)), jnp.float32)
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return Built(net, _moved(net), _jit(net.apply), x, jnp.linspace(-1.0, 1.0, 4), cond)


@pytest.fixture(scope="session")
def jit():
    """`jax.jit` that compiles fast and optimises nothing."""
    return _jit


@pytest.fixture(scope="session")
def make():
    """`make(name, **changes)`: a new small net."""
    return _make


@pytest.fixture(scope="session")
def moved():
    """`moved(net, seed)`: its initial parameters plus noise."""
    return _moved


@pytest.fixture(scope="session", params=["unet", "dit", "mlp"])
def built(request) -> Built:
    return _built(request.param)


@pytest.fixture(scope="session", params=["unet", "dit"])
def image_net(request) -> tuple[str, Built]:
    return request.param, _built(request.param)


@pytest.fixture(scope="session")
def point_net() -> Built:
    return _built("mlp")
