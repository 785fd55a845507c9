"""Small networks, their inputs, and parameters moved off the zeros that they start from."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff.nets import dit, mlp, unet

CLASSES = 3


def _moved(net, seed=0):
    """Parameters with noise on every leaf: zero-initialised layers hide what is behind them."""
    params = net.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noise = [0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise)])


@pytest.fixture(scope="session")
def moved():
    return _moved


def _unet(**changes):
    usual = dict(channels=2, widths=(8, 12), attention=(1,), heads=2, embed_dim=16)
    return unet(**(usual | changes))


def _dit(**changes):
    usual = dict(size=8, patch=2, channels=2, width=16, depth=2, heads=2)
    return dit(**(usual | changes))


def _mlp(**changes):
    return mlp(**(dict(dim=2, width=16, depth=2) | changes))


@pytest.fixture(scope="session")
def small():
    """Constructors of small nets by name; the arguments override."""
    return {"unet": _unet, "dit": _dit, "mlp": _mlp}


@pytest.fixture(scope="session")
def inputs():
    """`inputs(name, b)` -> x, time, labels."""

    def make(name, b=4):
        shape = (b, 2) if name == "mlp" else (b, 8, 8, 2)
        x = jax.random.normal(jax.random.key(10), shape)
        return x, jnp.linspace(-1.0, 1.0, b), jnp.arange(b) % (CLASSES + 1)

    return make


@pytest.fixture(scope="session")
def tokens():
    return jax.random.normal(jax.random.key(11), (4, 5, 6))
