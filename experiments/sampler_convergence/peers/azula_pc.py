"""azula's predictor-corrector sampler: `renewal` before each step of DDIM, at azula's levels."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.sampler_convergence.peers import Case, walk
from jaxdiff import process, samplers


def _between(values: Any, t: Any) -> Any:
    return jnp.interp(t, jnp.arange(values.shape[0]), values)


def levels(case: Case) -> np.ndarray:
    """[n + 1, 2]: alpha and sigma of every level, once, from noise to the end."""
    asked = case.levels[:, 1:]
    new = np.append(True, np.any(np.diff(asked, axis=0) != 0, axis=1))
    return np.vstack([asked[new], case.facts["end_alpha_sigma"]])


def predictor_corrector(case: Case) -> Any:
    alpha, sigma = jnp.asarray(levels(case)[::-1].T)
    n = len(alpha) - 1
    proc = process.from_scales(Partial(_between, alpha), Partial(_between, sigma), 0.0, n)
    pc = samplers.corrected(samplers.renewal(0.01))(samplers.ddim(0.0))
    noise = samplers.tape(churn=jnp.asarray(case.tape[:n])[:, None])
    start = case.z * levels(case)[0, 1]
    return walk(proc, pc, np.arange(n, -1.0, -1.0), start, noise)


RECIPES = {"azula/pc/*": predictor_corrector}
