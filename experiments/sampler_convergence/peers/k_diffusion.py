"""k-diffusion: variance exploding, t = sigma."""

from typing import Any

import jax.numpy as jnp

from experiments.sampler_convergence.peers import Case, walk
from jaxdiff import process, samplers
from jaxdiff.types import Sampler


def _on_grid(sampler: Sampler, case: Case, **roles: Any) -> Any:
    rows = len(case.sigmas) - 1
    noise = {who: _padded(case.tape[draws], rows) for who, draws in roles.items()}
    start = case.z * case.sigmas[0]
    return walk(process.edm(), sampler, case.sigmas, start, samplers.tape(**noise))


def _padded(drawn: Any, rows: int) -> Any:
    """Noise for every row; what a last step to clean data would draw counts for nothing."""
    missing = jnp.zeros((max(rows - len(drawn), 0), *drawn.shape[1:]))
    return jnp.concatenate([jnp.asarray(drawn)[:rows], missing])


def euler_ancestral(case: Case) -> Any:
    return _on_grid(samplers.ddim(1.0), case, solver=slice(None))


RECIPES = {"k-diffusion/euler_ancestral/*": euler_ancestral}
