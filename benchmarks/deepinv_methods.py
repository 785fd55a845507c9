"""deepinv's DPS, PiGDM, DiffPIR and DDRM on one denoiser, as many steps as ours."""

import deepinv
import numpy as np
import torch


def methods(denoiser, steps, noise):
    """name -> sampler(y, physics); `noise` on [0, 1]. Other settings as they come."""
    sampling, f32 = deepinv.sampling, torch.float32
    pigdm = sampling.PosteriorDiffusion(
        data_fidelity=sampling.PiGDMDataFidelity(denoiser=denoiser),
        denoiser=denoiser,
        sde=sampling.VariancePreservingDiffusion(dtype=f32),
        solver=sampling.DDPMSolver(timesteps=torch.linspace(1, 0, steps + 1, dtype=f32)),
        dtype=f32,
    )
    fidelity = deepinv.optim.L2()
    return {
        "DPS": sampling.DPS(denoiser, num_steps=steps + 1, dtype=f32),
        "DPS, a rate": sampling.DPS(denoiser, num_steps=steps + 1, guidance="annealed", dtype=f32),
        "PiGDM": pigdm,
        "DiffPIR": sampling.DiffPIR(denoiser, fidelity, sigma=noise, max_iter=steps),
        "DDRM": sampling.DDRM(denoiser, sigmas=np.geomspace(20.0, 0.015, steps)),
    }
