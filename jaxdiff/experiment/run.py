"""A run: train a config into a folder, resume it by the same call, load it again."""

import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from jaxdiff import data, training
from jaxdiff.data.grids import write_picture
from jaxdiff.denoise import Model
from jaxdiff.experiment.config import flat, from_values
from jaxdiff.experiment.objects import Experiment, Info, build, info_of, model_of, source
from jaxdiff.experiment.show import draw, drawn
from jaxdiff.training import checkpoint
from jaxdiff.training.loop import Fit
from jaxdiff.training.preflight import describe
from jaxdiff.training.sharding import batch_sharding, check_batch, dividing
from jaxdiff.types import Batch, PyTree

_QUIET = ("log.", "save.", "look.", "sample.")  # keys that change nothing of the training


def _nothing(text: str) -> None:
    """Says nothing."""


def train(
    config: ConfigDict,
    folder: str | os.PathLike[str],
    *,
    say: Callable[[str], None] = _nothing,
    progress: bool = True,
) -> Fit:
    """Train a config into a folder; the same call goes on from its last checkpoint.

    Args:
      config: see `default`.
      folder: made if it is not there.
      say: takes the lines that are for people.
      progress: whether a bar is shown.

    Returns:
      Fit(state, stopped).

    Raises:
      ValueError: if the batch does not divide over the devices, the folder holds another
        architecture, the step does not fit into memory, and what the parts refuse.
      OSError: if the folder cannot be written to, or the last checkpoint was not saved.
    """
    found = source(config)
    experiment = build(config, info_of(found))
    mesh = _mesh(config)
    check_batch(config.batch, mesh.size, config.accumulate)
    folder = pathlib.Path(folder)
    saved = training.open_checkpoints(folder / "checkpoints", keep=config.save.keep)
    try:
        _describe(folder, config, experiment.info, checkpoint.latest(saved) is not None, say)
        state = _first(config, experiment, mesh)
        step_fn = _compiled(config, experiment, mesh, state, found.labels is not None, say)
        done = training.fit(
            state,
            batches(config, found),
            step_fn=step_fn,
            steps=config.steps,
            log_every=config.log.every,
            save_every=config.save.every or None,
            checkpoints=saved,
            writers=_writers(folder),
            look=_look(config, experiment, folder),
            look_every=config.look.every or None,
            place=functools.partial(training.place_batch, mesh),
            progress=progress,
        )
        _check_saved(saved, int(done.state.step))
    finally:
        checkpoint.close(saved)
    return done


def _mesh(config: ConfigDict) -> Any:
    c, devices = config.mesh, jax.devices()
    if c.data > 0 and c.fsdp > 0:
        devices = devices[: c.data * c.fsdp]
    elif devices[0].platform == "cpu" and jax.process_count() == 1 and c.fsdp == 1:
        # Cores nobody counted: as many as share the batch, rather than an error.
        devices = devices[: dividing(config.batch // max(config.accumulate, 1), len(devices))]
    return training.mesh(devices, data=c.data, fsdp=c.fsdp)


def _first(config: ConfigDict, experiment: Experiment, mesh: Any) -> Any:
    make = training.compile_create(
        experiment.net.init,
        experiment.optimizer,
        mesh=mesh,
        average=experiment.ema is not None,
    )
    return make(jax.random.key(config.seed))


def _compiled(
    config: ConfigDict,
    experiment: Experiment,
    mesh: Any,
    state: Any,
    labelled: bool,
    say: Callable[[str], None],
) -> Any:
    """The compiled step, after it was asked what memory it needs."""
    one = functools.partial(
        training.step,
        loss=experiment.loss,
        optimizer=experiment.optimizer,
        ema=experiment.ema,
        accumulate=config.accumulate,
    )
    run = training.compile_step(one, mesh=mesh, shardings=training.state_shardings(mesh, state))
    place = batch_sharding(mesh)

    def like(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((config.batch, *shape), dtype, sharding=place)

    cond = like((), jnp.int32) if labelled else None
    batch = Batch(like(experiment.info.shape, jnp.float32), cond, like((), jnp.int32))
    compiled = run.lower(state, batch).compile()
    sizes = dict(params=state.params, batch=config.batch, accumulate=config.accumulate)
    say(describe(training.preflight(compiled, **sizes)))
    return compiled


def batches(config: ConfigDict, found: data.Source) -> Any:
    """Where the batches of a run come from: a function of the step, or an iterator that resumes."""
    flip = data.augment.flip if config.data.flip else None
    index, count = jax.process_index(), jax.process_count()
    if not config.data.resident:
        return data.loader(
            found, config.batch, seed=config.seed, shard=(index, count), augment=flip
        )
    held = data.resident(found)
    local = config.batch // count
    rows = jnp.arange(index * local, (index + 1) * local, dtype=jnp.int32)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)

    @jax.jit
    def take(held: data.Resident, step: Array) -> Batch:
        return data.resident_batch(held, key, step, config.batch, rows=rows, augment=flip)

    return lambda step: take(held, step)


def _writers(folder: pathlib.Path) -> list[Any]:
    return [training.jsonl(folder / "metrics.jsonl"), training.tensorboard(folder / "tensorboard")]


def _look(config: ConfigDict, experiment: Experiment, folder: pathlib.Path) -> Any:
    """Writes a picture of samples; the same noise each time, so that pictures can be compared."""
    if jax.process_count() > 1:
        return None
    run, key = drawn(config, experiment), jax.random.key(config.seed)

    def look(state: Any, step: int) -> None:
        params = state.params if state.ema is None else state.ema
        c, model = config.look, model_of(experiment, params)
        x = draw(config, experiment, model, key, c.n, scale=c.scale, run=run)
        columns = experiment.info.classes if 0 < experiment.info.classes <= c.n else None
        write_picture(folder / "samples" / f"step_{step:06d}.png", x, columns=columns)

    return look


def _check_saved(saved: Any, step: int) -> None:
    last = checkpoint.latest(saved)
    if last != step:
        raise OSError(
            f"step {step} was not saved in {saved.folder} (the last that was: {last}): make room "
            "there and run the same command again"
        )


# --- the folder ----------------------------------------------------------------------------------


def _describe(
    folder: pathlib.Path,
    config: ConfigDict,
    info: Info,
    begun: bool,
    say: Callable[[str], None],
) -> None:
    """Write config.json; where a run has begun, refuse another architecture first."""
    file = folder / "config.json"
    values = {"config": config.to_dict(), "data": info._asdict()}
    if begun and file.is_file():
        old, before = _read(folder)
        now, then = dict(flat(config)), dict(flat(old))
        changed = {k: f"{then[k]} there, {now[k]} here" for k in now if now[k] != then[k]}
        if before[:2] != info[:2]:
            changed["net: data"] = f"{before[:2]} there, {info[:2]} here"
        lines = [f"{k} ({text})" for k, text in changed.items() if k.startswith("net")]
        if lines:
            raise ValueError(
                f"{folder} holds a run of another architecture: {', '.join(lines)}; take another "
                "--folder, or the config it was begun with"
            )
        loud = [f"{k} ({text})" for k, text in changed.items() if not k.startswith(_QUIET)]
        if loud:
            say(f"changed since {folder} was begun: {', '.join(loud)}")
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(values, indent=2) + "\n")
    draft.replace(file)


def _read(folder: pathlib.Path) -> tuple[ConfigDict, Info]:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no run (there is no config.json): make one by jaxdiff train CONFIG "
            f"--folder {folder}"
        )
    try:
        values = json.loads(file.read_text())
        shape, classes, names = (values["data"][k] for k in Info._fields)
        return from_values(values["config"]), Info(tuple(shape), classes, tuple(names))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}") from error


def restore(folder: str | os.PathLike[str]) -> tuple[PyTree, Experiment, ConfigDict]:
    """The averaged parameters of the last checkpoint of a run, and what its config stands for.

    Raises:
      FileNotFoundError: if there is no run in the folder, or it has no checkpoint yet.
      ValueError: if config.json or the checkpoint are damaged, or do not belong together.
    """
    folder = pathlib.Path(folder)
    config, info = _read(folder)
    experiment = build(config, info)

    def make(key: Array) -> Any:
        params = experiment.net.init(key)
        average = experiment.ema is not None
        return training.create(params, experiment.optimizer, key, average=average)

    like = jax.eval_shape(make, jax.random.key(0))
    saved = training.open_checkpoints(folder / "checkpoints", read_only=True)
    try:
        state, _ = training.restore(saved, like)
    finally:
        checkpoint.close(saved)
    return (state.params if state.ema is None else state.ema), experiment, config


def load(folder: str | os.PathLike[str]) -> tuple[Model, Experiment, ConfigDict]:
    """The model of a run, with its averaged parameters; see `restore`."""
    params, experiment, config = restore(folder)
    return model_of(experiment, params), experiment, config
