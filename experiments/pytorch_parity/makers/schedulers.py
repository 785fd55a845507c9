"""Walks of diffusers' schedulers with a network that is one line, for the configs of checkpoints.

The "network" answers p = 0.6 x + 0.2 sin(t / 150 + place), which depends on x, on the time that it
is told, and on the pixel. Noise and the end of the walk are stored for every config and budget.
"""

import json
import pathlib
from typing import Any

import numpy as np

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD15 = SD | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
MULTI = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"]
EULER = ["EulerDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"]


def _case(name: str, **options: Any) -> dict[str, Any]:
    return {"_class_name": name, **options}


CASES: dict[str, dict[str, Any]] = {
    "sd15_pndm": _case("PNDMScheduler", **SD, skip_prk_steps=True, steps_offset=1),
    "sd15_ddim": _case("DDIMScheduler", **SD15),
    "sd21_ddim_v": _case("DDIMScheduler", **SD15, prediction_type="v_prediction"),
    "dit_ddim": _case("DDIMScheduler", clip_sample=False),
    "zero_snr": _case(
        "DDIMScheduler",
        **SD,
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    ),
    "sdxl_euler": _case("EulerDiscreteScheduler", **SD, timestep_spacing="leading", steps_offset=1),
    "turbo_euler": _case("EulerDiscreteScheduler", **SD, timestep_spacing="trailing"),
    "playground_karras": _case("EulerDiscreteScheduler", **SD, use_karras_sigmas=True),
    "pixart_dpm": _case("DPMSolverMultistepScheduler"),
    "pixart_sigma_dpm": _case("DPMSolverMultistepScheduler", lower_order_final=False),
    "cosine_dpm": _case(
        "DPMSolverMultistepScheduler",
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
    ),
    "karras_dpm": _case("DPMSolverMultistepScheduler", **SD, use_karras_sigmas=True),
    "first_order_dpm": _case("DPMSolverMultistepScheduler", **SD, solver_order=1),
    "third_order_dpm": _case("DPMSolverMultistepScheduler", **SD, solver_order=3),
    "noise_dpm": _case(
        "DPMSolverMultistepScheduler",
        **SD,
        algorithm_type="dpmsolver",
        solver_type="heun",
        final_sigmas_type="sigma_min",
    ),
    "euler_final_dpm": _case("DPMSolverMultistepScheduler", **SD, euler_at_final=True),
    "sd3_flow": _case("FlowMatchEulerDiscreteScheduler", shift=3.0),
    "sana_flow": _case("FlowMatchEulerDiscreteScheduler"),
    "flux_flow": _case("FlowMatchEulerDiscreteScheduler", shift=3.0, use_dynamic_shifting=True),
    "edm_euler": _case("EDMEulerScheduler", sigma_data=0.5),
    "edm_dpm": _case("EDMDPMSolverMultistepScheduler", sigma_data=0.5),
} | {
    f"{name}_{spacing}": _case(name, **SD, timestep_spacing=spacing)
    for name in [*MULTI, *EULER]
    for spacing in ("leading", "linspace", "trailing")
}
STEPS = (5, 20)
TOKENS = 1024


def answer(x: Any, t: float, sin: Any, place: Any) -> Any:
    """The network of one line, for numpy, torch and jax alike."""
    return 0.6 * x + 0.2 * sin(t / 150.0 + place)


def make(root: pathlib.Path, seed: int = 0) -> None:
    """Write schedulers.json and schedulers.npz."""
    noise = np.random.default_rng(seed).normal(size=(2, 3, 4, 4)).astype(np.float32)
    ends = {
        f"{name}/{steps}": _walk(config, steps, noise)
        for name, config in CASES.items()
        for steps in STEPS
    }
    folder = root / "schedulers"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "walks.npz", allow_pickle=False, noise=noise, **ends)
    (folder / "configs.json").write_text(json.dumps(CASES, indent=1) + "\n")


def _walk(config: dict[str, Any], steps: int, noise: np.ndarray) -> np.ndarray:
    import diffusers
    import torch

    options = {key: value for key, value in config.items() if key != "_class_name"}
    scheduler = getattr(diffusers, config["_class_name"])(**options)
    _set(scheduler, options, steps)
    x = torch.tensor(noise, dtype=torch.float64) * float(getattr(scheduler, "init_noise_sigma", 1))
    place = torch.arange(16.0, dtype=torch.float64).reshape(4, 4) / 16
    for t in scheduler.timesteps:
        asked = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(answer(asked, float(t), torch.sin, place), t, x).prev_sample
        x = x.double()
    return x.numpy()


def _set(scheduler: Any, options: dict[str, Any], steps: int) -> None:
    if not options.get("use_dynamic_shifting"):
        return scheduler.set_timesteps(steps)
    c = scheduler.config
    share = (TOKENS - c.base_image_seq_len) / (c.max_image_seq_len - c.base_image_seq_len)
    mu = c.base_shift + share * (c.max_shift - c.base_shift)
    return scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
