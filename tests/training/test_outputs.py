"""Writers of metrics, and the memory preflight."""

import builtins
import functools
import json

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxdiff import training
from jaxdiff.training.preflight import Preflight, describe
from jaxdiff.types import Batch


def test_jsonl_appends_and_rewinds(tmp_path):
    path = tmp_path / "deep" / "m.jsonl"
    writer = training.jsonl(path)
    for step in (10, 20, 30):
        writer.write(step, {"b": 1.0 / step, "a": float("nan")})
    with open(path, "a") as file:
        file.write('{"step": 40, "a"')
    writer.rewind(20)
    writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": s, "a": None, "b": 1.0 / s} for s in (10, 20)]


def test_jsonl_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"metrics cannot be written to .*name another file"):
        training.jsonl(tmp_path / "file" / "m.jsonl")


def test_tensorboard_writes_events(tmp_path):
    writer = training.tensorboard(tmp_path)
    writer.rewind(0)
    writer.write(1, {"loss": 0.5})
    writer.close()
    assert any(b"loss" in path.read_bytes() for path in tmp_path.glob("events.*"))


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "tensorboardX":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboardX"):
        training.tensorboard(tmp_path)


def lowered(b=512, **options):
    def loss(params, key, batch):
        return jnp.mean((jnp.tanh(batch.x @ params["w"]) @ params["w"].T - batch.x) ** 2), {}

    optimizer = optax.adam(0.1)
    state = training.create({"w": jnp.ones((64, 256))}, optimizer, jax.random.key(0))
    fn = functools.partial(training.step, loss=loss, optimizer=optimizer, **options)
    batch = Batch(jax.ShapeDtypeStruct((b, 64), jnp.float32))
    return training.compile_step(fn).lower(state, batch), state.params


def test_preflight_counts_what_a_step_holds():
    step, params = lowered()
    report = training.preflight(step, params=params)
    weights = 64 * 256 * 4
    assert report.parameters == 64 * 256
    # parameters, two moments, average; and the batch.
    assert 0 <= report.arguments - (4 * weights + 512 * 64 * 4) < 4096
    assert report.needed == report.arguments + report.outputs + report.temporary - report.aliased
    assert report.available is None or report.available > report.needed
    assert "16,384 parameters; " in describe(report)


def test_accumulation_needs_less_memory():
    whole, parts = (training.preflight(lowered(accumulate=k)[0]) for k in (1, 8))
    assert parts.temporary < 0.6 * whole.temporary


def test_a_step_that_does_not_fit_is_refused_with_advice():
    step, _ = lowered()
    step = step.compile()
    report = training.preflight(step)
    with pytest.raises(
        ValueError, match=rf"needs {report.needed} bytes .*accumulate = \d"
    ) as error:
        training.preflight(step, available=report.needed - 1, batch=512)
    assert "a batch of 256" in str(error.value)
    with pytest.raises(ValueError, match=r"1000 .*do not fit; split the parameters"):
        training.preflight(step, available=1000)


def test_a_backend_that_does_not_count():
    class Silent:
        def memory_analysis(self):
            return None

    assert training.preflight(Silent(), available=1) == Preflight(0, 0, 0, 0, 0, 1, 0)
