"""`schedule`: a scheduler config becomes a process, a wiring, a sampler and a grid.

Three worlds: tables of betas (Stable Diffusion, DiT, PixArt), rectified flows (SD3, FLUX) and EDM.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff import process as pr
from jaxdiff.pipelines.schedule import Schedule
from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.schedulers import grids
from jaxdiff.pretrained.schedulers.solvers import SOLVERS
from jaxdiff.process import Prediction, Process

_MULTISTEP = {"DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"}
_EULER = {
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
}
_LEADING = {"DDIMScheduler", "DDPMScheduler", "PNDMScheduler"}
_CLIPS = {"DDIMScheduler", "DDPMScheduler"}
_PREDICTIONS = {"epsilon": pr.eps, "v_prediction": pr.v, "sample": pr.x0, "flow_prediction": None}
_BETAS = {
    "linear": pr.linear_betas,
    "scaled_linear": pr.scaled_linear_betas,
    "squaredcos_cap_v2": pr.cosine_betas,
    "sigmoid": pr.sigmoid_betas,
}


def schedule(values: Mapping[str, Any]) -> Schedule:
    """Read a scheduler config.

    Args:
      values: the content of scheduler_config.json.

    Returns:
      A `Schedule`; its sampler on its times takes the steps that diffusers takes.

    Raises:
      ValueError: a class, a schedule or an option that is not known, by name.

    >>> found = schedule({"_class_name": "DDIMScheduler", "clip_sample": False})
    >>> found.times(4, None).tolist()
    [750.0, 500.0, 250.0, 0.0, -1.0]
    """
    name = str(values.get("_class_name"))
    if name not in SOLVERS:
        near = difflib.get_close_matches(name, SOLVERS, 1, 0.0)[0]
        raise ValueError(
            f"the scheduler is a {name!r}, which jaxdiff does not have; the nearest is {near!r}"
        )
    config = Config(values, name)
    if name.startswith("FlowMatch"):
        return _flow(name, config)
    return _edm(name, config) if name.startswith("EDM") else _table(name, config)


def _flow(name: str, config: Config) -> Schedule:
    for key in (*grids.BY_NOISE, "stochastic_sampling", "invert_sigmas", "shift_terminal"):
        config.only(key, False, None)
    wiring = pr.wiring(pr.velocity, clock=pr.thousand)
    config.ignore("base_shift", "max_shift")
    return Schedule(
        pr.rectified_flow(), wiring, SOLVERS[name](config), grids.flow(config), True, 0.0
    )


def _edm(name: str, config: Config) -> Schedule:
    low, high = config("sigma_min", 0.002), config("sigma_max", 80.0)
    process = pr.edm(low, high)
    rho = config("rho", 7.0)
    kind = config.only("sigma_schedule", "karras", "exponential")
    config.only("prediction_type", "epsilon")
    config.only("final_sigmas_type", "zero")

    def times(n: int, tokens: int | None) -> Array:
        return pr.karras(process, n, rho) if kind == "karras" else pr.uniform_lambda(process, n)

    wiring = pr.edm_wiring(config("sigma_data", 0.5))
    return Schedule(process, wiring, SOLVERS[name](config), times, True, 0.0)


def _table(name: str, config: Config) -> Schedule:
    grid = grids.by_noise(config)
    betas = _betas(config)
    process = pr.from_betas(betas, pr.by_ratio if grid is None else pr.by_log_ratio)
    multistep, whole = name in _MULTISTEP, name not in _EULER
    spacing = config.only(
        "timestep_spacing", *_first("leading" if name in _LEADING else "linspace")
    )
    if grid is None:
        offset = int(config("steps_offset", 0))
        grid = grids.spaced(spacing, offset, multistep=multistep, rounded=name not in _EULER)
        whole = whole or spacing == "leading"
    if not _ends_clean(name, config):
        grid = grids.ending(grid, 0.0)

    def times(n: int, tokens: int | None) -> Array:
        return grid(process, n)

    prediction = _prediction(config, name)
    clock = Partial(_whole_time) if multistep else pr.own_time
    return Schedule(
        process,
        pr.wiring(prediction, clock=clock),
        SOLVERS[name](config),
        times,
        whole,
        _clip(name, config),
    )


def _first(word: str) -> list[str]:
    return sorted(("leading", "linspace", "trailing"), key=lambda other: other != word)


def _whole_time(process: Process, t: Array) -> Array:
    """Multistep solvers of diffusers tell the network whole steps."""
    return jnp.round(t)


def _betas(config: Config) -> np.ndarray:
    trained = config("trained_betas")
    if trained is not None:
        betas = np.asarray(trained, np.float64)
    else:
        kind = config.only("beta_schedule", *_BETAS)
        n = int(config("num_train_timesteps", 1000))
        low, high = config("beta_start", 0.0001), config("beta_end", 0.02)
        betas = _BETAS[kind](n, low, high) if kind != "squaredcos_cap_v2" else _BETAS[kind](n)
    return pr.zero_snr(betas) if config("rescale_betas_zero_snr", False) else betas


def _ends_clean(name: str, config: Config) -> bool:
    if name == "DEISMultistepScheduler":  # whatever final_sigmas_type says: its first beta
        config.ignore("final_sigmas_type")
        return False
    if name == "DDIMScheduler":
        return bool(config("set_alpha_to_one", True))
    if name == "PNDMScheduler":
        return bool(config("set_alpha_to_one", False))
    return config.only("final_sigmas_type", "zero", "sigma_min") == "zero"


def _prediction(config: Config, name: str) -> Prediction:
    kind = config.only("prediction_type", *_PREDICTIONS)
    found = _PREDICTIONS[kind]
    if found is None:
        raise ValueError(f"{name}: prediction_type is {kind!r} on a table of betas")
    return found


def _clip(name: str, config: Config) -> float:
    if config("thresholding", False):
        raise ValueError(
            f"{name}: thresholding is on; load with another scheduler config and guide by "
            "guidance.dynamic_threshold"
        )
    clips = config("clip_sample", name in _CLIPS)
    return float(config("clip_sample_range", 1.0)) if clips else 0.0
