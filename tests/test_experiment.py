"""Experiments: the language of configs, every name in every table, runs that learn and resume."""

import json
import shutil
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import experiment, training
from jaxdiff.denoise import Model
from jaxdiff.experiment import objects as tables
from jaxdiff.experiment import run as running
from jaxdiff.experiment.config import default, from_values, put, read_config
from jaxdiff.types import Batch
from tests.tiny_run import TINY, compiled_once, pictures


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with compiled_once(tmp_path_factory.getbasetemp() / "compiled"):
        yield


# --- configs -------------------------------------------------------------------------------------


def test_overrides_take_the_type_of_what_they_replace():
    c = read_config(
        "two_moons",
        [
            "--config.optimizer.lr=1e-3",
            "--config.process.sigma_max=10",
            "--config.net.widths=[4,8]",
            "--config.data.flip=true",
            "--config.data.name=rings",
        ],
    )
    assert (c.optimizer.lr, c.process.sigma_max, c.net.widths) == (1e-3, 10.0, (4, 8))
    assert (c.data.flip, c.data.name) == (True, "rings")
    assert isinstance(c.process.sigma_max, float)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.optimizer.lrr=1", "did you mean config.optimizer.lr?"),
        ("--config.lr=1", "did you mean config.optimizer.lr?"),
        ("--config.netkind=unet", "did you mean config.net.kind?"),
        ("--config.zzzzzz=1", "there is no such key$"),
        ("--config.steps=many", "'many' is a str: a int is expected"),
        ("--config.steps=1.5", "1.5 is a float: a int is expected"),
        ("--config.steps=true", "True is a bool: a int is expected"),
        ("--config.net.widths=8", "8 is a int: a tuple is expected"),
        ("--config.net.widths=(8,'a')", "a tuple is expected"),
        ("--config.data.flip=1", "1 is a int: a bool is expected"),
        ("--config.steps", "is not --config.key=value"),
    ],
)
def test_a_wrong_override_is_named(override, message):
    with pytest.raises(ValueError, match=message):
        read_config("two_moons", [override])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.optimizer.lrr = 1.0", "config.lrr: .* did you mean config.optimizer.lr?"),
        ("c.steps = 'x'", "steps"),
        ("c = c.to_dict(); c['net']['widhts'] = (1,)", "did you mean config.net.widths?"),
        ("oops oops", "invalid syntax"),
    ],
)
def test_a_wrong_line_in_a_config_file_is_named(tmp_path, line, message):
    file = tmp_path / "mine.py"
    body = f"    c = default()\n    {line}\n    return c\n"
    file.write_text(f"from jaxdiff.experiment import default\n\n\ndef get_config():\n{body}")
    with pytest.raises(ValueError, match=message):
        read_config(file)


def test_a_config_that_is_not_there_names_those_that_are():
    with pytest.raises(FileNotFoundError, match="two_moons"):
        read_config("three_moons")


def test_a_config_survives_json():
    c = read_config("fashion_mnist:dit", ["--config.seed=3"])
    assert from_values(json.loads(json.dumps(c.to_dict()))).to_dict() == c.to_dict()


# --- the tables ----------------------------------------------------------------------------------


def _built(**choices):
    c = default()
    for key, value in choices.items():
        put(c, key.replace("__", "."), value)
    put(c, "net.widths", (8, 8))
    put(c, "net.attention", (1,))
    put(c, "net.width", 16)
    put(c, "net.heads", 2)
    put(c, "net.embed_dim", 16)
    put(c, "process.levels", 50)
    return c


def _loss_of(c, info):
    found = experiment.build(c, info)
    x = jax.ShapeDtypeStruct((4, *info.shape), jnp.float32)
    row: Any = jax.ShapeDtypeStruct((4,), jnp.int32)
    batch = Batch(x, row if info.classes else None, row)
    params = jax.eval_shape(found.net.init, jax.random.key(0))
    return jax.eval_shape(found.loss, params, jax.random.key(0), batch)[0]


_IMAGE, _POINT = experiment.Info((8, 8, 1), 3), experiment.Info((2,), 3)
_CHOICES = [
    *[("process.kind", name) for name in tables._PROCESSES],
    *[("loss.kind", name) for name in tables._LOSSES],
    *[("wiring.scale_in", name) for name in tables._SCALES_IN],
    *[("wiring.clock", name) for name in tables._CLOCKS],
    *[("optimizer.kind", name) for name in tables._OPTIMIZERS],
    *[("ema.kind", name) for name in tables._AVERAGES],
]  # fmt: skip


@pytest.mark.parametrize(("key", "name"), _CHOICES)
def test_every_name_builds_a_loss(key, name):
    c = _built(net__kind="mlp", **{key.replace(".", "__"): name})
    assert _loss_of(c, _POINT).shape == ()


@pytest.mark.parametrize(("net", "info"), [("unet", _IMAGE), ("dit", _IMAGE), ("mlp", _POINT)])
def test_every_net_builds_a_loss(net, info):
    assert _loss_of(_built(net__kind=net), info).shape == ()
    assert _loss_of(_built(net__kind=net), experiment.Info(info.shape)).shape == ()


@pytest.mark.parametrize("name", tables._PREDICTIONS)
def test_every_prediction_builds_a_model(name):
    c = _built(wiring__prediction=name, net__kind="mlp")
    found = experiment.build(c, _POINT)
    assert found.wiring.prediction.name == name
    params = found.net.init(jax.random.key(0))
    assert isinstance(experiment.model_of(found, params), Model)


def test_a_prediction_that_says_nothing_of_the_image_is_refused():
    c = _built(wiring__prediction="eps", process__kind="vp_cosine", net__kind="mlp")
    found = experiment.build(c, _POINT)
    with pytest.raises(ValueError, match=r"prediction eps at t=1\.0: alpha is about 0"):
        experiment.model_of(found, found.net.init(jax.random.key(0)))


@pytest.mark.parametrize("sampler", tables._SAMPLERS)
def test_every_sampler_samples(sampler):
    c = _built(net__kind="mlp", sample__sampler=sampler, sample__steps=3)
    found = experiment.build(c, _POINT)
    model = experiment.model_of(found, found.net.init(jax.random.key(0)))
    assert experiment.draw(c, found, model, jax.random.key(0), 5).shape == (5, 2)


@pytest.mark.parametrize("times", sorted(set(tables._TIMES) - {"leading"}))
def test_every_grid_decreases(times):
    c = _built(sample__times=times, sample__steps=3)
    found = experiment.build(c, _IMAGE)
    assert (jnp.diff(experiment.grid_of(c, found.process)) < 0).all()


@pytest.mark.parametrize("name", tables._TOYS)
def test_every_toy_is_a_source(name):
    c = _built(data__kind="toy", data__name=name, data__points=8)
    train, test = experiment.source(c), experiment.source(c, test=True)
    assert train.images.shape == (8, 2)
    assert not np.array_equal(train.images, test.images)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"net.kind": "unnet"}, "did you mean 'unet'"),
        ({"net.kind": "mlp"}, "points take mlp"),
        ({"loss.kind": "flo"}, "config.loss.kind='flo': did you mean 'flow'"),
        ({"process.sigma_min": 79.99999, "sample.steps": 50}, "times must decrease"),
        ({"sample.times": "leading", "sample.steps": 90}, "leading: steps=90"),
        ({"sample.steps": 0}, "at least one step"),
        ({"sample.rho": 0.0}, "sample.rho"),
        ({"optimizer.lr": -1.0}, "lr"),
        ({"data.kind": "folder"}, "config.data.path is empty"),
    ],
)
def test_a_wrong_choice_is_named(choice, message):
    c = _built(**{k.replace(".", "__"): v for k, v in choice.items()})

    def everything():
        found = experiment.build(c, _IMAGE)
        experiment.grid_of(c, found.process)
        experiment.source(c)

    with pytest.raises(ValueError, match=message):
        everything()


@pytest.mark.parametrize(("text", "label"), [("Cat", 0), ("dog", 1), ("1", 1), ("none", 2)])
def test_labels_are_names_or_numbers(text, label):
    assert experiment.label_of(experiment.Info((2,), 2, ("cat", "dog")), text) == label


@pytest.mark.parametrize("text", ["2", "-1", "dgo", ""])
def test_a_wrong_label_is_named(text):
    with pytest.raises(ValueError, match=f"label '{text}': .*one of cat, dog, a number, or none"):
        experiment.label_of(experiment.Info((2,), 2, ("cat", "dog")), text)


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("photos") / "set")


@pytest.fixture
def config(photos):
    return read_config("folder", [*TINY, f"--config.data.path={photos}"])


@pytest.fixture(scope="module")
def straight(photos, tmp_path_factory):
    """A run of 20 steps that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight")
    config = read_config("folder", [*TINY, f"--config.data.path={photos}"])
    done = experiment.train(config, folder, progress=False)
    return folder, done


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _same(a, b):
    pairs = zip(jax.tree.leaves(a._replace(key=None)), jax.tree.leaves(b._replace(key=None)))
    return all(np.array_equal(x, y) for x, y in pairs)


def test_twenty_steps_lower_the_loss(straight):
    folder, _ = straight
    losses = [record["loss"] for record in _records(folder)]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_run_folder_describes_itself(straight):
    folder, _ = straight
    assert {p.name for p in folder.iterdir()} == {
        "checkpoints", "config.json", "metrics.jsonl", "samples", "tensorboard",
    }  # fmt: skip
    assert (folder / "samples" / "step_000020.png").stat().st_size > 0
    assert json.loads((folder / "config.json").read_text())["data"]["names"] == ["down", "up"]


def test_a_run_loads_with_its_averaged_parameters(straight):
    folder, done = straight
    params, found, config = experiment.restore(folder)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, jax.device_get(done.state.ema)))
    model, _, _ = experiment.load(folder)
    x = experiment.draw(config, found, model, jax.random.key(0), 3)
    assert x.shape == (3, 8, 8, 1)
    alone = experiment.draw(config, found, model, jax.random.key(0), 1, start=2)
    assert jnp.abs(alone - x[2:]).max() < 1e-4


@pytest.mark.parametrize("labels", [None, [1, 0, 1]])
def test_samples_are_the_same_on_all_devices(straight, labels):
    model, found, config = experiment.load(straight[0])
    given = None if labels is None else jnp.asarray(labels)
    wide = experiment.spread(model)
    one, all_ = (
        experiment.draw(config, found, m, jax.random.key(0), 3, labels=given, start=2)
        for m in (model, wide)
    )
    assert one.shape == all_.shape == (3, 8, 8, 1)
    assert jnp.abs(one - jax.device_get(all_)).max() < 1e-5


@pytest.mark.slow
def test_on_a_cpu_as_many_cores_train_as_divide_the_batch(straight, config, tmp_path):
    put(config, "mesh.data", -1)
    put(config, "batch", 6)
    put(config, "steps", 1)
    said = []
    done = experiment.train(config, tmp_path / "six", say=said.append, progress=False)
    assert len(jax.tree.leaves(done.state.params)[0].sharding.device_set) == 6


def test_a_run_cut_at_a_checkpoint_ends_the_same_bit_for_bit(straight, config, tmp_path):
    folder, done = straight
    shutil.copytree(folder, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_20")
    again = experiment.train(config, tmp_path / "cut", progress=False)
    assert _same(again.state, done.state)
    metrics = [f / "metrics.jsonl" for f in (folder, tmp_path / "cut")]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()


@pytest.mark.parametrize("resident", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on(config, tmp_path, monkeypatch, resident):
    """Both ways of feeding: by the number of the step, and by an iterator that resumes."""
    put(config, "data.resident", resident)
    whole = experiment.train(config, tmp_path / "whole", progress=False)
    real = training.place_batch
    count = iter(range(100))

    def place(mesh, batch):
        if next(count) == 6:
            signal.raise_signal(signal.SIGINT)
        return real(mesh, batch)

    with monkeypatch.context() as patch:
        patch.setattr(running.training, "place_batch", place)
        cut = experiment.train(config, tmp_path / "cut", progress=False)
    assert cut.stopped
    assert int(cut.state.step) == 7
    rest = experiment.train(config, tmp_path / "cut", progress=False)
    assert not rest.stopped
    assert _same(rest.state, whole.state)


def test_another_architecture_is_refused_by_name(straight, config):
    put(config, "net.width", 32)
    with pytest.raises(ValueError, match=r"another architecture: net.width \(16 there, 32 here"):
        experiment.train(config, straight[0], progress=False)


def test_what_changed_otherwise_is_said(straight, config, tmp_path):
    shutil.copytree(straight[0], tmp_path / "more")
    put(config, "data.on_error", "skip")
    said = []
    experiment.train(config, tmp_path / "more", say=said.append, progress=False)
    assert any("data.on_error (raise there, skip here)" in line for line in said)


def test_a_batch_that_the_devices_cannot_share_is_refused(config, tmp_path):
    put(config, "mesh.data", 2)
    put(config, "batch", 7)
    with pytest.raises(ValueError, match="a batch of 7 does not divide over 2 devices"):
        experiment.train(config, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_four_devices_learn_the_same(straight, config, tmp_path):
    put(config, "mesh.data", 2)
    put(config, "mesh.fsdp", 2)
    done = experiment.train(config, tmp_path / "wide", progress=False)
    first = [_records(f)[4]["loss"] for f in (straight[0], tmp_path / "wide")]
    assert abs(first[0] - first[1]) < 1e-4
    assert int(done.state.step) == 20


def test_a_full_disk_is_said_and_is_an_error(config, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="step 20 was not saved"):
        experiment.train(config, tmp_path / "run", progress=False)
    assert "NOT SAVED" in capsys.readouterr().err
