"""The solvers of diffusers' schedulers, as their configs set them up.

Each takes the config and answers a sampler. Options that only a stochastic or a broken variant has
are refused by name.
"""

from collections.abc import Callable

from jaxdiff import samplers
from jaxdiff.pretrained.config import Config
from jaxdiff.types import Sampler

Solver = Callable[[Config], Sampler]


def ddim(config: Config) -> Sampler:
    """DDIM; the noise eta is an argument of the pipelines, not of the config."""
    return samplers.ddim()


def ddpm(config: Config) -> Sampler:
    """DDPM by its variance: small, large, or learned (read from `Estimate.aux`)."""
    kind = config.only(
        "variance_type", "fixed_small", "fixed_small_log", "fixed_large", "learned_range"
    )
    laws = {"fixed_large": samplers.fixed_large, "learned_range": samplers.learned_range}
    return samplers.ddpm(laws[kind]) if kind in laws else samplers.ddpm()


def pndm(config: Config) -> Sampler:
    """PNDM, with or without its Runge-Kutta steps."""
    return samplers.plms() if config("skip_prk_steps", False) else samplers.pndm()


def dpm(config: Config) -> Sampler:
    """DPM-Solver and DPM-Solver++ in several steps, deterministic or not."""
    kind = config.only(
        "algorithm_type", "dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"
    )
    order, eta = config.only("solver_order", 2, 1, 3), 1.0 if kind.startswith("sde") else 0.0
    midpoint = config.only("solver_type", "midpoint", "heun") == "midpoint"
    final = bool(config("euler_at_final", False))
    taper = 15 if config("lower_order_final", True) else 0
    if not kind.endswith("++"):
        return samplers.dpm_solver_m(
            order, eta, midpoint=midpoint, published=True, taper=taper, euler_final=final
        )
    if order == 1:
        return samplers.euler() if eta == 0 else samplers.dpm_solver_m(1, eta)
    if order == 3:
        return samplers.dpmpp_3m(eta, published=True, midpoint=True, taper=taper, euler_final=final)
    return samplers.dpmpp_2m(eta, midpoint=midpoint, taper=taper, euler_final=final)


def unipc(config: Config) -> Sampler:
    """UniPC, by x_0 or by noise."""
    config.only("disable_corrector", [], ())
    return samplers.unipc(
        config.only("solver_order", 2, 1, 3),
        bh1=config.only("solver_type", "bh2", "bh1") == "bh1",
        by_noise=not config("predict_x0", True),
    )


def deis(config: Config) -> Sampler:
    """DEIS in log rho."""
    config.only("solver_type", "logrho")
    config.only("algorithm_type", "deis")
    return samplers.deis(config.only("solver_order", 2, 1, 3))


SOLVERS: dict[str, Solver] = {
    "DDIMScheduler": ddim,
    "DDPMScheduler": ddpm,
    "PNDMScheduler": pndm,
    "DPMSolverMultistepScheduler": dpm,
    "UniPCMultistepScheduler": unipc,
    "DEISMultistepScheduler": deis,
    "EulerDiscreteScheduler": lambda config: samplers.euler(),
    "EulerAncestralDiscreteScheduler": lambda config: samplers.ddim(1.0),
    "LMSDiscreteScheduler": lambda config: samplers.adams(4, c=0.0),
    "HeunDiscreteScheduler": lambda config: samplers.heun(0.0),
    "FlowMatchEulerDiscreteScheduler": lambda config: samplers.euler(),
    "EDMEulerScheduler": lambda config: samplers.euler(),
    "EDMDPMSolverMultistepScheduler": dpm,
}
