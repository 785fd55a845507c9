"""`load`: a checkpoint by name or path, ready to be asked.

A folder with model_index.json is a pipeline: a network that predicts, its scheduler, text encoders
with their tokenisers, an autoencoder. A folder with config.json is one network; with a
scheduler_config.json beside it, it becomes a model as well.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdiff import process as pr
from jaxdiff.pipelines.parts import Part, Pretrained
from jaxdiff.pretrained.hub import locate
from jaxdiff.pretrained.part import load_part
from jaxdiff.pretrained.schedulers import schedule
from jaxdiff.pretrained.tokens import read_words

_PREDICTS = ("unet", "transformer")
_OWN_CLOCK = ("FluxTransformer2DModel",)
"""Networks that take a flow's time in [0, 1] and multiply it by 1000 themselves."""
_SKIPPED = ("safety_checker", "feature_extractor", "image_encoder", "watermark", "scheduler")


def load(
    name: str | pathlib.Path,
    *,
    variant: str | None = None,
    dtype: Any = None,
    revision: str | None = None,
    offline: bool = False,
    without: Sequence[str] = (),
    scheduler: Mapping[str, Any] | None = None,
    compute: DTypeLike = jnp.float32,
    remat: bool = False,
    scan: bool = False,
) -> Pretrained:
    """Load a checkpoint in the layout of diffusers.

    Args:
      name: a folder, or "owner/name" on the hub.
      variant: of the weights: None, "fp16", "bf16".
      dtype: of the parameters; by default float32.
      revision: a branch, tag or commit of the hub.
      offline: take what was kept of the hub and ask nobody.
      without: parts to leave out, such as "text_encoder_3".
      scheduler: a scheduler config instead of the checkpoint's own.
      compute: of the arithmetic of networks and text encoders, such as bfloat16 on accelerators;
        autoencoders compute in float32.
      remat: see `load_part`; for the network that predicts.
      scan: see `load_part`; for the network that predicts.

    Returns:
      `Pretrained`: net, params, process, prediction, wiring, schedule, config, whole, parts, words.

    Raises:
      ValueError: no checkpoint there (with what is missing), an unknown class or knob, weights that
        do not fit, no network and no cache.
    """
    folder = locate(name, variant=variant, revision=revision, offline=offline)
    index = _index(folder)
    if index is None:
        part = load_part(
            folder, variant=variant, dtype=dtype, compute=compute, remat=remat, scan=scan
        )
        return assembled(part, scheduler or _scheduler(folder), {}, {}, {})
    present = [part for part in index if _is_network(index, part) and part not in without]
    parts = {}
    for part in present:
        predicts = part in _PREDICTS
        parts[part] = load_part(
            folder / part,
            variant=variant,
            dtype=dtype,
            compute=jnp.float32 if part == "vae" else compute,
            remat=remat and predicts,
            scan=scan and predicts,
        )
    main = next((p for p in _PREDICTS if p in parts), None)
    if main is None:
        raise ValueError(f"{folder} holds no network that predicts: none of {', '.join(_PREDICTS)}")
    words = {
        part: read_words(folder / part)
        for part in index
        if part.startswith("tokenizer") and _is_there(index, part) and part not in without
    }
    values = scheduler or _scheduler(folder / "scheduler")
    whole = {key: value for key, value in index.items() if not isinstance(value, list)}
    return assembled(parts.pop(main), values, whole, parts, words)


def assembled(
    part: Part, values: Mapping[str, Any], whole: Mapping[str, Any], parts: Any, words: Any
) -> Pretrained:
    """A checkpoint of its parts: the network that predicts, and a scheduler config."""
    found = schedule(values)
    if part.config["_class_name"] in _OWN_CLOCK:
        found = found._replace(wiring=pr.wiring(found.wiring.prediction))
    return Pretrained(
        part.net,
        part.params,
        found.process,
        found.wiring.prediction,
        found.wiring,
        found,
        part.config,
        whole,
        parts,
        words,
    )


def _index(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / "model_index.json"
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no JSON object ({error}): fetch it again") from error


def _is_there(index: Mapping[str, Any], part: str) -> bool:
    entry = index[part]
    return isinstance(entry, list) and len(entry) == 2 and entry[0] is not None


def _is_network(index: Mapping[str, Any], part: str) -> bool:
    skipped = part.startswith(_SKIPPED) or part.startswith("tokenizer") or "scheduler" in part
    return _is_there(index, part) and not skipped


def _scheduler(folder: pathlib.Path) -> Mapping[str, Any]:
    path = folder / "scheduler_config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no scheduler_config.json, so it is not known what noise did to the data "
            "of this network: give scheduler={'_class_name': 'DDPMScheduler', ...}"
        )
    return json.loads(path.read_text())
