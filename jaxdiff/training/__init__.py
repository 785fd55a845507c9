"""How weights move: state, step, average, sharding, checkpoints, the loop.

This folder knows a loss as `loss(params, key, batch) -> (scalar, metrics)` and nothing of networks
or noise. Read `step.py` first; everything else places it (`sharding`, `compile`), keeps what it
returns (`checkpoint`, `metrics`) or calls it again and again (`loop`).
"""

import importlib
import typing

from jaxdiff.training.compile import compile_create as compile_create
from jaxdiff.training.compile import compile_step as compile_step
from jaxdiff.training.compile import pmap_step as pmap_step
from jaxdiff.training.compile import shard_map_step as shard_map_step
from jaxdiff.training.ema import constant_ema as constant_ema
from jaxdiff.training.ema import power_ema as power_ema
from jaxdiff.training.optimizers import adam as adam
from jaxdiff.training.optimizers import muon as muon
from jaxdiff.training.optimizers import schedule as schedule
from jaxdiff.training.preflight import describe as describe
from jaxdiff.training.preflight import preflight as preflight
from jaxdiff.training.sharding import fsdp_shardings as fsdp_shardings
from jaxdiff.training.sharding import mesh as mesh
from jaxdiff.training.sharding import place_batch as place_batch
from jaxdiff.training.sharding import place_state as place_state
from jaxdiff.training.sharding import replicated as replicated
from jaxdiff.training.sharding import state_shardings as state_shardings
from jaxdiff.training.state import TrainState as TrainState
from jaxdiff.training.state import create as create
from jaxdiff.training.state import parameter_count as parameter_count
from jaxdiff.training.step import number as number
from jaxdiff.training.step import step as step

if typing.TYPE_CHECKING:
    from jaxdiff.training.checkpoint import latest as latest
    from jaxdiff.training.checkpoint import open_checkpoints as open_checkpoints
    from jaxdiff.training.checkpoint import restore as restore
    from jaxdiff.training.checkpoint import save as save
    from jaxdiff.training.loop import fit as fit
    from jaxdiff.training.metrics import jsonl as jsonl
    from jaxdiff.training.metrics import tensorboard as tensorboard

# Imported when first read: Orbax alone takes longer to import than jax.
_LATER = {
    "fit": "loop",
    "jsonl": "metrics",
    "latest": "checkpoint",
    "open_checkpoints": "checkpoint",
    "restore": "checkpoint",
    "save": "checkpoint",
    "tensorboard": "metrics",
}


def __getattr__(name: str) -> typing.Any:
    """Import what `name` stands for, when it is first read."""
    if name in _LATER:
        return getattr(importlib.import_module(f"jaxdiff.training.{_LATER[name]}"), name)
    raise AttributeError(f"module 'jaxdiff.training' has no attribute {name!r}")
