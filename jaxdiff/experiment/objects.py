"""From a config to objects: the only file that reads one, the only tables of names.

Each table holds, for a name, the function and the keys of the section that are its arguments.
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from jaxdiff import data, losses, nets, process, samplers, training
from jaxdiff.denoise import Model
from jaxdiff.denoise import model as make_model
from jaxdiff.process import Process, Wiring
from jaxdiff.types import Net, PyTree, Sampler

_NETS = {
    "unet": (
        nets.unet,
        ("widths", "depth", "middle", "heads", "attention", "embed_dim", "remat"),
    ),
    "dit": (nets.dit, ("patch", "width", "depth", "heads", "remat", "scan")),
    "mlp": (nets.mlp, ("width", "depth")),
}
_PROCESSES = {
    "edm": (process.edm, ("sigma_min", "sigma_max")),
    "ve": (process.ve, ("sigma_min", "sigma_max")),
    "vp_linear": (process.vp_linear, ("beta_min", "beta_max", "t_min")),
    "sub_vp": (process.sub_vp, ("beta_min", "beta_max", "t_min")),
    "vp_cosine": (process.vp_cosine, ("t_min",)),
    "rectified_flow": (process.rectified_flow, ()),
    "ddpm": (lambda levels: process.from_betas(process.linear_betas(levels)), ("levels",)),
    "ddpm_cosine": (lambda levels: process.from_betas(process.cosine_betas(levels)), ("levels",)),
}
_PREDICTIONS = {
    "F": (process.F, ("sigma_data",)),
    "x0": (lambda: process.x0, ()),
    "eps": (lambda: process.eps, ()),
    "v": (lambda: process.v, ()),
    "score": (lambda: process.score, ()),
    "velocity": (lambda: process.velocity, ()),
}
_SCALES_IN = {
    "edm": (lambda sigma_data: process.edm_wiring(sigma_data).scale_in, ("sigma_data",)),
    "unit": (lambda: process.unit, ()),
}
_CLOCKS = {
    "edm": (lambda: process.edm_clock, ()),
    "own": (lambda: process.own_time, ()),
    "thousand": (lambda: process.thousand, ()),
}
_LOSSES = {
    "edm": (losses.edm_loss, ("mean", "std")),
    "v": (losses.v_loss, ()),
    "x0": (losses.x0_loss, ()),
    "flow": (losses.flow_matching_loss, ()),
    "ddpm": (losses.ddpm_loss, ()),
    "min_snr": (losses.min_snr_loss, ("gamma",)),
    "p2": (losses.p2_loss, ("gamma",)),
    "sigmoid": (losses.sigmoid_loss, ("bias",)),
    "likelihood": (losses.likelihood_loss, ()),
}
_OPTIMIZERS = {
    "muon": (training.muon, ("b1", "b2", "weight_decay")),
    "adam": (training.adam, ("b1", "b2", "weight_decay")),
}
_AVERAGES = {
    "power": (
        lambda exponent: functools.partial(training.power_ema, exponent=exponent),
        ("exponent",),
    ),
    "constant": (lambda decay: functools.partial(training.constant_ema, decay=decay), ("decay",)),
    "none": (lambda: None, ()),
}
_SAMPLERS = {
    "adams_moulton": (samplers.adams_moulton, ()),
    "dpmpp_2m": (samplers.dpmpp_2m, ()),
    "unipc": (samplers.unipc, ()),
    "deis": (samplers.deis, ()),
    "heun": (samplers.heun, ()),
    "euler": (samplers.euler, ()),
    "ddim": (samplers.ddim, ("eta",)),
    "ddpm": (samplers.ddpm, ()),
}
_TIMES = {
    "root_flow": (lambda: process.root_flow, ()),
    "karras": (lambda rho: functools.partial(process.karras, rho=rho), ("rho",)),
    "uniform": (lambda: process.uniform, ()),
    "uniform_lambda": (lambda: process.uniform_lambda, ()),
    "linspace": (lambda: process.linspace, ()),
    "leading": (lambda: process.leading, ()),
}
_TOYS = {
    name: (getattr(data.toys, name), ())
    for name in ("two_moons", "checkerboard", "swiss_roll", "rings", "gaussians")
}


def _toy(name: str, points: int, part: str) -> data.Source:
    """Points of the plane; the held-out ones come from another key."""
    draw = _entry(_TOYS, name, "data.name")[0]
    x, label = draw(jax.random.key(int(part == "test")), points)
    return data.Source(x, label, int(label.max()) + 1)


_SOURCES = {
    "fashion_mnist": (lambda part: data.fashion_mnist(part), ("part",)),
    "tfds": (
        lambda name, part, path, size: data.tfds(name, part, path or None, size=size or None),
        ("name", "part", "path", "size"),
    ),
    "folder": (
        lambda part, size, channels, on_error, resident: data.folder(
            part, size=size or None, channels=channels or None, on_error=on_error, lazy=not resident
        ),
        ("part", "size", "channels", "on_error", "resident"),
    ),
    "toy": (_toy, ("name", "points", "part")),
}


def _positive(rho: float) -> float:
    if not rho > 0:
        raise ValueError(f"config.sample.rho={rho}: it has to be positive, 5 to 7 is usual")
    return rho


def _entry(table: dict[str, Any], name: str, key: str) -> Any:
    if name not in table:
        near = difflib.get_close_matches(name, table, 1, 0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"config.{key}={name!r}: {hint}it is one of {', '.join(table)}")
    return table[name]


def _made(table: dict[str, Any], name: str, key: str, section: Any, **more: Any) -> Any:
    """table[name], called with the keys of the section that it reads."""
    fn, keys = _entry(table, name, key)
    return fn(**{k: section[k] for k in keys}, **more)


class Info(NamedTuple):
    """What has to be known of the data: `shape` of one example, how many `classes`, `names`."""

    shape: tuple[int, ...]
    classes: int = 0
    names: tuple[str, ...] = ()


class Experiment(NamedTuple):
    """All that a config stands for; `null` is the empty label, None where there are no classes."""

    info: Info
    net: Net
    process: Process
    wiring: Wiring
    loss: Callable[..., Any]
    optimizer: Any
    ema: Callable[..., PyTree] | None
    null: int | None


def source(config: ConfigDict, *, test: bool = False) -> data.Source:
    """The images (or points) to train on, or the held-out ones."""
    values = config.data.to_dict()
    part = (values["test"] if test else "") or values["split"]
    if values["kind"] == "folder":
        part = (values["test"] if test else "") or values["path"]
        if not part:
            raise ValueError(
                "config.data.path is empty: name the folder, --config.data.path=photos"
            )
    return _made(_SOURCES, values["kind"], "data.kind", values | {"part": part})


def info_of(found: data.Source) -> Info:
    """Shape, classes and names of a source."""
    return Info(tuple(found.images[0].shape), found.classes, tuple(found.names))


def build(config: ConfigDict, info: Info | None = None) -> Experiment:
    """The objects that a config stands for; without `info` the data are read to know their shape.

    Raises:
      ValueError: for a name that is in no table, and what the constructors refuse.

    >>> from jaxdiff.experiment.config import default
    >>> experiment = build(default(), Info((28, 28, 1), 10))
    >>> experiment.null, experiment.wiring.prediction.name
    (10, 'F')
    """
    info = info_of(source(config)) if info is None else info
    net, noise = (
        _net(config, info),
        _made(_PROCESSES, config.process.kind, "process.kind", config.process),
    )
    wired = _wiring(config.wiring)
    null = info.classes or None
    loss = _entry(_LOSSES, config.loss.kind, "loss.kind")
    bound = functools.partial(
        loss[0], apply=net.apply, process=noise, wiring=wired, null=null,
        drop=config.loss.drop if null else 0.0, **{k: config.loss[k] for k in loss[1]},
    )  # fmt: skip
    average = _made(_AVERAGES, config.ema.kind, "ema.kind", config.ema)
    return Experiment(info, net, noise, wired, bound, _optimizer(config), average, null)


def _net(config: ConfigDict, info: Info) -> Net:
    c = config.net
    _entry(_NETS, c.kind, "net.kind")
    if len(info.shape) == 1:
        place: dict[str, Any] = {"dim": info.shape[0]}
    else:
        place = {"channels": info.shape[-1]}
        place |= {"size": info.shape[:2]} if c.kind == "dit" else {}
    if (c.kind == "mlp") != (len(info.shape) == 1):
        raise ValueError(
            f"config.net.kind={c.kind!r} for data of shape {info.shape}: points take mlp, images "
            "take unet or dit"
        )
    more = place | {"classes": info.classes, "dtype": jnp.dtype(c.dtype)}
    return _made(_NETS, c.kind, "net.kind", c, **more)


def _wiring(c: ConfigDict) -> Wiring:
    return process.wiring(
        _made(_PREDICTIONS, c.prediction, "wiring.prediction", c),
        scale_in=_made(_SCALES_IN, c.scale_in, "wiring.scale_in", c),
        clock=_made(_CLOCKS, c.clock, "wiring.clock", c),
        center=c.center,
    )


def _optimizer(config: ConfigDict) -> Any:
    c = config.optimizer
    rate = training.schedule(
        c.lr, config.steps, warmup=c.warmup, cooldown=c.cooldown, floor=c.floor
    )
    return _made(_OPTIMIZERS, c.kind, "optimizer.kind", c, lr=rate, clip=c.clip or None)


def model_of(experiment: Experiment, params: PyTree) -> Model:
    """The model with these parameters; images lie in [-1, 1], points anywhere."""
    span = (-1.0, 1.0) if len(experiment.info.shape) == 3 else None
    return make_model(
        experiment.net.apply, params, experiment.process, experiment.wiring, span=span
    )


def label_of(info: Info, text: str) -> int:
    """The label that a text stands for: the name of a class, its number, or "none" (null).

    >>> label_of(Info((1,), 2, ("cat", "dog")), "Dog")
    1
    """
    if not info.classes:
        raise ValueError(f"label {text!r}: this model has no classes, so leave --label out")
    names = {name.casefold(): i for i, name in enumerate(info.names)}
    names |= {str(i): i for i in range(info.classes)} | {"none": info.classes}
    if text.casefold() in names:
        return names[text.casefold()]
    near = difflib.get_close_matches(text.casefold(), names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(info.names) or f"0 ... {info.classes - 1}"
    raise ValueError(f"label {text!r}: {hint}it is one of {known}, a number, or none")


def sampler_of(config: ConfigDict) -> Sampler:
    """The solver that config.sample names."""
    return _made(_SAMPLERS, config.sample.sampler, "sample.sampler", config.sample)


def grid_of(config: ConfigDict, noise: Process) -> Array:
    """The times that config.sample names, [steps + 1], checked to decrease.

    Raises:
      ValueError: for steps < 1, or numbers with which the times do not decrease.
    """
    c = config.sample
    _positive(c.rho)
    name = c.times or ("root_flow" if c.sampler == "adams_moulton" else "karras")
    times = _made(_TIMES, name, "sample.times", c)(noise, c.steps)
    process.check_grid(times)
    return times
