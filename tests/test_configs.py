"""Every config in configs/: documented, buildable, and one tiny step of it compiles and runs."""

import ast
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import experiment, training
from jaxdiff.experiment import read_config
from jaxdiff.types import Batch

_FILES = sorted(pathlib.Path(__file__).parents[1].joinpath("configs").glob("[!_]*.py"))
_INFO = {
    "fashion_mnist": experiment.Info((28, 28, 1), 10),
    "fashion_mnist:dit": experiment.Info((28, 28, 1), 10),
    "cifar10_edm": experiment.Info((32, 32, 3), 10),
    "folder": experiment.Info((32, 32, 3), 0),
    "two_moons": experiment.Info((2,), 2),
}
_SMALL = [
    "--config.net.widths=(4,4)",
    "--config.net.attention=(1,)",
    "--config.net.middle=1",
    "--config.net.depth=1",
    "--config.net.embed_dim=16",
    "--config.net.heads=2",
    "--config.net.width=16",
    "--config.batch=2",
]


def _slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


def test_every_config_is_tested():
    assert {file.stem for file in _FILES} == {name.partition(":")[0] for name in _INFO}


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_a_config_is_short_and_says_its_command_and_result(file):
    text = file.read_text()
    assert text.count("\n") < 80
    words = ast.get_docstring(ast.parse(text)) or ""
    assert f"jaxdiff train {file.stem}" in words
    assert "Measured:" in words


@pytest.mark.parametrize("name", [_slow(n) if n == "cifar10_edm" else n for n in _INFO])
def test_a_config_builds_at_its_full_size(name):
    config = read_config(name)
    found = experiment.build(config, _INFO[name])
    params = jax.eval_shape(found.net.init, jax.random.key(0))
    shape = (config.batch, *_INFO[name].shape)
    row: Any = jax.ShapeDtypeStruct((config.batch,), jnp.int32)
    batch = Batch(jax.ShapeDtypeStruct(shape, jnp.float32), row if found.null else None, row)
    jax.eval_shape(found.loss, params, jax.random.key(0), batch)
    assert len(experiment.grid_of(config, found.process)) == config.sample.steps + 1
    experiment.sampler_of(config)


def test_fashion_mnist_has_the_size_that_it_says():
    found = experiment.build(read_config("fashion_mnist"), _INFO["fashion_mnist"])
    params = jax.eval_shape(found.net.init, jax.random.key(0))
    assert 6e5 < training.parameter_count(params) < 7e5


# Their networks are of the kind of fashion_mnist's.
_SLOW = ("cifar10_edm", "folder")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in _SLOW else n for n in _INFO]
)
def test_a_tiny_step_of_a_config_runs(name):
    config, info = read_config(name, _SMALL), _INFO[name]
    found = experiment.build(config, info)
    step = functools.partial(
        training.step, loss=found.loss, optimizer=found.optimizer, ema=found.ema
    )
    state = training.create(
        jax.jit(found.net.init)(jax.random.key(0)), found.optimizer, jax.random.key(1)
    )
    x = jax.random.uniform(jax.random.key(2), (2, *info.shape), minval=-1.0)
    batch = Batch(x, jnp.arange(2) if info.classes else None)
    # Whether it compiles is asked here, not how fast it runs.
    quick: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    compiled = jax.jit(step).lower(state, batch).compile(compiler_options=quick)
    state, metrics = compiled(state, batch)
    assert jnp.isfinite(metrics["loss"])
    assert metrics["skipped"] == 0


def test_a_word_that_a_config_does_not_know_is_named():
    with pytest.raises(ValueError, match="fashion_mnist:vit"):
        read_config("fashion_mnist:vit")
