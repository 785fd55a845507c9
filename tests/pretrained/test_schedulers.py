"""Scheduler configs of checkpoints walk as diffusers walks them: equal ends from equal noise."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import samplers
from jaxdiff.denoise import bind, model
from jaxdiff.pretrained.schedulers import schedule
from tests.pretrained.parity import ROOT, gap

CONFIGS = json.loads((ROOT / "schedulers" / "configs.json").read_text())
WALKS = dict(np.load(ROOT / "schedulers" / "walks.npz", allow_pickle=False))
TOKENS = 1024
KNOWN = ("sd15_pndm", "sd15_ddim", "sdxl_euler", "pixart_dpm", "sd3_flow", "flux_flow", "zero_snr")


def _apply(params, x, time, cond):
    """The network of one line that diffusers was given (there NCHW)."""
    place = (jnp.arange(16.0).reshape(4, 4) / 16)[None, :, :, None]
    return 0.6 * x + 0.2 * jnp.sin(time[:, None, None, None] / 150 + place)


def _walk(name: str, steps: int) -> np.ndarray:
    found = schedule(CONFIGS[name])
    denoise = bind(model(_apply, {}, found.process, found.wiring, span=None))
    noise = jnp.asarray(WALKS["noise"].transpose(0, 2, 3, 1), float)
    ts = found.checked(steps, TOKENS)
    x = samplers.sample(
        jax.random.key(0),
        denoise,
        found.sampler,
        start=found.begin(noise, steps, TOKENS),
        times=ts,
    )
    return np.asarray(x).transpose(0, 3, 1, 2)


def _compare(name: str, steps: int) -> None:
    theirs = WALKS[f"{name}/{steps}"]
    assert gap(_walk(name, steps), theirs) < 2e-5 * max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize("name", KNOWN)
def test_walks_of_known_checkpoints(name):
    _compare(name, 5)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("name", CONFIGS)
def test_walks_end_where_diffusers_ends(name, steps):
    _compare(name, steps)


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(ValueError, match=r"'DDIMSheduler'.* nearest is 'DDIMScheduler'"):
        schedule({"_class_name": "DDIMSheduler"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timestep_spacing", "quadratic"),
        ("beta_schedule", "wavy"),
        ("prediction_type", "flow_prediction"),
        ("thresholding", True),
    ],
)
def test_what_is_not_known_is_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key} is|{key} on"):
        schedule({"_class_name": "DDIMScheduler", key: value})


def test_noise_is_not_decoded_where_there_is_no_signal():
    found = schedule({"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"})
    with pytest.raises(ValueError, match="prediction eps at t=999"):
        model(_apply, {}, found.process, found.wiring)


def test_a_dynamic_shift_needs_the_size():
    found = schedule(
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    )
    with pytest.raises(ValueError, match="tokens is None"):
        found.checked(4)
