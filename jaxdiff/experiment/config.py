"""The language of configs: every key with its type and default, files, overrides, JSON.

A config is data. Nothing here knows what a value stands for; `objects.py` does.
"""

import ast
import difflib
import functools
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict


def default() -> ConfigDict:
    """Every key there is, with its type; 0, "" and 0.0 mean "none" or "as it is" where they can.

    `sample.guide_below`: guidance acts where sigma/alpha is at most this; 0.0 is everywhere.
    `sample.times`: "" is root_flow for adams_moulton, karras for any other sampler.

    >>> default().net.kind
    'unet'
    """
    sections: dict[str, Any] = dict(
        seed=0, steps=900, batch=64, accumulate=1,
        # test: the held-out split, for a folder its path; "" stands for the training images
        data=dict(kind="fashion_mnist", name="", path="", split="train", test="test", size=0,
                  channels=0, flip=False, resident=True, on_error="raise", points=4096),
        net=dict(kind="unet", widths=(16, 48, 96), depth=1, middle=2, heads=4, attention=(2,),
                 embed_dim=128, width=128, patch=4, remat=False, scan=False, dtype="float32"),
        process=dict(kind="edm", sigma_min=0.002, sigma_max=80.0, beta_min=0.1, beta_max=20.0,
                     t_min=1e-3, levels=1000),
        wiring=dict(prediction="F", scale_in="edm", clock="edm", sigma_data=0.5, center=0.0),
        loss=dict(kind="edm", mean=-1.2, std=1.2, gamma=5.0, bias=0.0, drop=0.1),
        optimizer=dict(kind="muon", lr=4e-3, warmup=40, cooldown=0.35, floor=0.01, b1=0.9, b2=0.95,
                       weight_decay=0.0, clip=1.0),
        ema=dict(kind="power", exponent=13.0, decay=0.9999),
        # data: -1 takes all devices; on a CPU as many cores as divide the batch
        mesh=dict(data=-1, fsdp=1),
        log=dict(every=50),
        save=dict(every=300, keep=3),
        look=dict(every=0, n=20, scale=2.0),
        sample=dict(sampler="adams_moulton", steps=20, times="", rho=7.0, eta=0.0, scale=2.0,
                    guide_below=0.0),
    )  # fmt: skip
    return ConfigDict(sections).lock()


def flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of a dotted key and its value.

    >>> dict(flat(default()))["optimizer.lr"]
    0.004
    """
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _unknown(key: str) -> ValueError:
    known = [k for k, _ in flat(default())]
    last = {k.rpartition(".")[2]: k for k in known}
    near = difflib.get_close_matches(key, known, 1, 0.5)
    near = near or [last[k] for k in difflib.get_close_matches(key.rpartition(".")[2], last, 1)]
    hint = f": did you mean config.{near[0]}?" if near else ""
    return ValueError(f"config.{key}: there is no such key{hint}")


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Set one dotted key, if it is there and the value has its type.

    Raises:
      ValueError: naming the nearest key, or the type that is expected.

    >>> put(default(), "optimizer.lrr", 1e-3)
    Traceback (most recent call last):
    ValueError: config.optimizer.lrr: there is no such key: did you mean config.optimizer.lr?
    """
    old = dict(flat(default())).get(key)
    if old is None:
        raise _unknown(key)
    kind, given = type(old), value
    if kind is tuple and isinstance(value, list | tuple):
        fits, value = all(type(v) is type(old[0]) for v in value), tuple(value)
    elif kind is float and type(value) is int:
        fits, value = True, float(value)
    else:
        fits = type(value) is kind
    if not fits:
        raise ValueError(
            f"config.{key}={given!r} is a {type(given).__name__}: a {kind.__name__} is expected, "
            f"such as {old!r}"
        )
    *parents, last = key.split(".")
    functools.reduce(lambda node, name: node[name], parents, config)[last] = value


def from_values(values: Any) -> ConfigDict:
    """A complete config from a ConfigDict or nested dict; keys that are absent keep their default.

    Raises:
      ValueError: for a key that is unknown, or a value of another type.
    """
    config = default()
    for key, value in flat(ConfigDict(values, convert_dict=True)):
        put(config, key, value)
    return config


def read_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ConfigDict:
    """A config from its file, changed by `--config.key=value`.

    Args:
      path: a Python file with `get_config()`, or the name of one in ./configs or beside the
        package; "file.py:word" and "name:word" call `get_config("word")`.
      overrides: texts "--config.net.depth=2"; the value has the type of the one it replaces.

    Raises:
      FileNotFoundError: naming the configs that there are.
      ValueError: for an unknown key (the nearest is named) or a value of another type.
    """
    name, _, word = os.fspath(path).partition(":")
    file = _find(name)
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        config = from_values(module.get_config(word) if word else module.get_config())
    except (AttributeError, TypeError, SyntaxError) as error:
        missing = re.search(r'Key "(\w+)" does not exist', str(error))
        wrong = _unknown(missing[1]) if missing else error
        raise ValueError(f"{file}: {wrong}") from error
    for text in overrides:
        _override(config, text)
    return config


def _find(name: str) -> pathlib.Path:
    # here, in a checkout beside the package, in an installed package inside it
    package = pathlib.Path(__file__).parents[1]
    near = [pathlib.Path("configs"), package.parent / "configs", package / "configs"]
    places = [pathlib.Path(name), *(folder / f"{name}.py" for folder in near)]
    for place in places:
        if place.is_file():
            return place
    known = sorted({file.stem for folder in near for file in folder.glob("[!_]*.py")})
    raise FileNotFoundError(
        f"config {name!r}: there is no such file, and no config of that name; there are: "
        f"{', '.join(known) or 'none'}"
    )


def _override(config: ConfigDict, text: str) -> None:
    key, equals, value = text.removeprefix("--").removeprefix("config.").partition("=")
    if not equals or not text.startswith("--config."):
        raise ValueError(f"{text!r} is not --config.key=value, e.g. --config.optimizer.lr=0.001")
    old = dict(flat(config)).get(key)
    parsed: Any = value
    if not isinstance(old, str):
        spelled = {"true": "True", "false": "False"}.get(value, value)
        try:
            parsed = ast.literal_eval(spelled)
        except (ValueError, SyntaxError):
            parsed = value
    put(config, key, parsed)
