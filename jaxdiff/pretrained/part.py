"""One part of a checkpoint: a folder with config.json and weights, as a network and parameters."""

import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff.nets.functional import shapes
from jaxdiff.pipelines.parts import Part
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.families import FAMILIES
from jaxdiff.pretrained.files import read_folder, write_tensors
from jaxdiff.pretrained.names import fill, rename, tensors_of


def load_part(
    folder: str | pathlib.Path,
    *,
    variant: str | None = None,
    dtype: Any = None,
    compute: DTypeLike = jnp.float32,
    remat: bool = False,
    scan: bool = False,
) -> Part:
    """Load a network from a folder in the layout of diffusers or transformers.

    Args:
      folder: with config.json and safetensors.
      variant: of the weights: None, "fp16", "bf16".
      dtype: of the parameters; by default float32.
      compute: of the arithmetic; norms and softmax stay in float32.
      remat: recompute blocks in the backward pass instead of keeping what is inside.
      scan: walk equal blocks of a transformer in one loop, compiled once.

    Raises:
      ValueError: the folder is no checkpoint, its class is unknown (the nearest known is named), a
        knob is unknown, or the weights do not fit (missing and unused ones are named).
    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    tensors = read_folder(folder, variant=variant)
    return assemble(config, tensors, dtype=dtype, compute=compute, remat=remat, scan=scan)


def assemble(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: Any = None,
    compute: DTypeLike = jnp.float32,
    remat: bool = False,
    scan: bool = False,
) -> Part:
    """The part that `config` describes, filled with `tensors` in any layout of its family."""
    family = FAMILIES[class_of(config)]
    net = make_net(config, compute=compute, remat=remat, scan=scan)
    expected = shapes(net.init)
    renamed = rename(tensors, family.rules, family.ignored)
    # on the device once, instead of at every call
    return Part(net, jax.tree.map(jnp.asarray, fill(expected, renamed, dtype=dtype)), config)


def make_net(
    config: Mapping[str, Any],
    *,
    compute: DTypeLike = jnp.float32,
    remat: bool = False,
    scan: bool = False,
) -> Any:
    """The network that `config` describes, without weights; how it computes as for `load_part`."""
    reader = Config(config, class_of(config), dtype=compute, remat=remat, scan=scan)
    net = FAMILIES[class_of(config)].build(reader)
    reader.finish()
    return net


def save_part(folder: str | pathlib.Path, part: Part) -> None:
    """Write a part as diffusers and transformers read it: config.json and one safetensors file."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = "diffusion_pytorch_model" if "_class_name" in part.config else "model"
    write_tensors(folder / f"{stem}.safetensors", tensors_of(part.params))
    text = json.dumps(dict(part.config), indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n")


def read_config(folder: str | pathlib.Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
      ValueError: if there is none, or if it is no JSON object.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.is_file():
        held = sorted(p.name for p in path.parent.glob("*"))[:8] if path.parent.is_dir() else []
        raise ValueError(
            f"{path.parent} is no checkpoint: it has no config.json"
            + (f"; it holds {', '.join(held)}" if held else "")
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not an object with keys")
    return config


def class_of(config: Mapping[str, Any]) -> str:
    """The class that a config names, which has to be a known one.

    Raises:
      ValueError: if it names none, or one that is unknown.
    """
    name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if name is None:
        raise ValueError("the config names no class: it needs _class_name or architectures")
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, 1, 0.0)
        raise ValueError(
            f"the config is of the class {name!r}, which jaxdiff does not have; the nearest is "
            f"{near[0]!r}"
            if near
            else f"the config is of the class {name!r}, which jaxdiff does not have"
        )
    return name
