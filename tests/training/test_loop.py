"""The loop: resumed runs are the run itself, and every way to stop is a clean one."""

import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import training
from jaxdiff.training import checkpoint, loop
from jaxdiff.trees import keys_for, normal
from jaxdiff.types import Batch

ADAM = optax.adam(0.05)


def loss(params, key, batch):
    noise = normal(keys_for(key, batch.row), batch.x)
    error = (batch.x + noise) @ params["w"] - batch.x
    return jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


@pytest.fixture(scope="module")
def step_fn():
    return training.compile_step(functools.partial(training.step, loss=loss, optimizer=ADAM))


def start(seed=0):
    w = jax.random.normal(jax.random.key(seed), (4, 4))
    return training.create({"w": w}, ADAM, jax.random.key(seed + 1))


def batch_of(step):
    return Batch(np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32))


class Counting:
    """An iterator that knows where it is, as those of data loaders do."""

    def __init__(self, packed=False):
        self.at, self.packed = 0, packed

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return batch_of(self.at - 1)

    def get_state(self):
        return json.dumps(self.at).encode() if self.packed else {"at": self.at}

    def set_state(self, state):
        self.at = json.loads(state) if self.packed else state["at"]


def train(folder, step_fn, steps, batches=batch_of, **options):
    checkpoints = training.open_checkpoints(folder / "ckpt")
    writer = training.jsonl(folder / "metrics.jsonl")
    try:
        return training.fit(
            start(),
            batches,
            step_fn=step_fn,
            steps=steps,
            log_every=4,
            checkpoints=checkpoints,
            writers=[writer],
            progress=False,
            **options,
        )
    finally:
        checkpoint.close(checkpoints)


def bits(state):
    plain = state._replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(plain)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, step_fn):
    """20 steps without a break: the state and the file of metrics."""
    folder = tmp_path_factory.mktemp("whole")
    done = train(folder, step_fn, 20)
    return bits(done.state), (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("make", [lambda: batch_of, Counting, lambda: Counting(packed=True)])
def test_a_resumed_run_is_the_run_itself(make, tmp_path, step_fn, whole):
    """10 steps, then the same call to 20, in the middle of a logging interval: the same bits."""
    first = train(tmp_path, step_fn, 10, make())
    assert int(first.state.step) == 10
    done = train(tmp_path, step_fn, 20, make())
    assert not done.stopped
    assert (bits(done.state), (tmp_path / "metrics.jsonl").read_bytes()) == whole


def test_a_crash_after_a_save_is_the_run_itself(tmp_path, step_fn, whole):
    """Records written after the last checkpoint are written anew, and not twice."""

    def crash(state, step):
        if step == 17:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path, step_fn, 20, save_every=6, look=crash, look_every=1)
    checkpoints = training.open_checkpoints(tmp_path / "ckpt")
    assert checkpoint.steps(checkpoints) == [6, 12]
    done = train(tmp_path, step_fn, 20, save_every=6)
    assert (bits(done.state), (tmp_path / "metrics.jsonl").read_bytes()) == whole


def test_records_are_the_means_of_their_interval(tmp_path, step_fn):
    state, rows = start(), []
    for step in range(6):
        state, metrics = step_fn(state, batch_of(step))
        rows.append(float(metrics["error"]))
    train(tmp_path, step_fn, 6)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 6]
    np.testing.assert_allclose(lines[0]["error"], np.mean(rows[:4]))
    np.testing.assert_allclose(lines[1]["error"], np.mean(rows[4:]))
    assert set(lines[0]) == {"step", "loss", "error", "grad_norm", "skipped"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, tmp_path, step_fn, whole, capsys):
    def interrupt(state, step):
        if step == 7:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    done = train(tmp_path, step_fn, 20, look=interrupt, look_every=1)
    assert done.stopped and int(done.state.step) == 7
    said = capsys.readouterr().err
    assert "stopped after step 7 of 20; step 7 is saved in" in said and "same command" in said
    assert signal.getsignal(number) is before
    done = train(tmp_path, step_fn, 20)
    assert (bits(done.state), (tmp_path / "metrics.jsonl").read_bytes()) == whole
    assert "resumed at step 7" in capsys.readouterr().err


def test_a_second_interrupt_aborts_at_once(tmp_path, step_fn):
    def interrupt(state, step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, step_fn, 20, look=interrupt, look_every=1)


def test_a_full_disk_does_not_stop_training(tmp_path, step_fn, monkeypatch, capsys):
    real, calls = checkpoint.save, []

    def save(checkpoints, state, *args, **options):
        calls.append(int(state.step))
        if len(calls) == 2:
            raise OSError(28, "no space left in the folder")
        real(checkpoints, state, *args, **options)

    monkeypatch.setattr(checkpoint, "save", save)
    done = train(tmp_path, step_fn, 8, save_every=2)
    assert not done.stopped and calls == [2, 4, 6, 8]
    assert "NOT SAVED, training goes on: [Errno 28] no space left" in capsys.readouterr().err
    assert checkpoint.steps(training.open_checkpoints(tmp_path / "ckpt")) == [2, 6, 8]


def test_nan_for_long_gives_up_and_names_the_step(tmp_path, step_fn):
    def poisoned(step):
        return (
            batch_of(step) if step < 5 or step == 7 else Batch(np.full((8, 4), np.nan, np.float32))
        )

    with pytest.raises(FloatingPointError, match=r"not finite for 3 steps, since step 9;"):
        train(tmp_path, step_fn, 20, poisoned, patience=3)


def test_a_few_bad_steps_are_counted_and_left_out(tmp_path, step_fn):
    def poisoned(step):
        return batch_of(step) if step != 2 else Batch(np.full((8, 4), np.nan, np.float32))

    done = train(tmp_path, step_fn, 8, poisoned)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [1, 0]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert np.isfinite(done.state.params["w"]).all()


def test_metrics_are_read_late_and_the_host_does_not_run_away(step_fn, tmp_path):
    """Reading metrics waits for nothing that was asked for in the last steps."""
    asked = []

    class Late:
        def __init__(self, step):
            self.step = step

        def __array__(self, dtype=None, copy=None):
            asked.append(self.step)
            return np.asarray(1.0)

    seen = []

    def fake(state, batch):
        step = int(state.step) + 1
        seen.append(step - len(asked))
        return state._replace(step=jnp.asarray(step)), {"loss": Late(step)}

    training.fit(start(), batch_of, step_fn=fake, steps=60, log_every=5, progress=False)
    assert max(seen) == loop.AHEAD + 1 and seen[-1] == loop.AHEAD + 1
    assert asked == list(range(1, 61))


def test_looks_and_places(step_fn, tmp_path):
    looked = []
    mesh = training.mesh(jax.devices()[:1])
    done = training.fit(
        start(),
        batch_of,
        step_fn=step_fn,
        steps=7,
        look=lambda state, step: looked.append((step, int(state.step))),
        look_every=3,
        place=functools.partial(training.place_batch, mesh),
        progress=True,
    )
    assert looked == [(3, 3), (6, 6), (7, 7)] and int(done.state.step) == 7


def test_bad_numbers_and_data_are_named(tmp_path, step_fn):
    with pytest.raises(ValueError, match="steps = 0"):
        train(tmp_path, step_fn, 0)
    with pytest.raises(ValueError, match="save_every = -1"):
        train(tmp_path, step_fn, 3, save_every=-1)
    with pytest.raises(ValueError, match=r"data ended after step 3 of 5"):
        train(tmp_path, step_fn, 5, iter([batch_of(k) for k in range(3)]))
    with pytest.raises(ValueError, match=r"holds step 3, but the data cannot be resumed"):
        train(tmp_path, step_fn, 5, iter([batch_of(k) for k in range(3)]))


def test_the_loss_goes_down(tmp_path, step_fn):
    done = train(tmp_path, step_fn, 60)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"] and int(done.state.step) == 60
