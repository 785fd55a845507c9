"""Our samplers walk as k-diffusion, diffusers and azula do: the runs of the sampler_convergence
experiment, a few by default, all 832 among the slow tests.
"""

import importlib

import numpy as np
import pytest

from experiments.sampler_convergence import parity
from experiments.sampler_convergence.peers import load, matching

FEW = (
    "k-diffusion/euler_churn/karras/10",
    "k-diffusion/dpmpp_sde/exponential/5",
    "diffusers/unipc2_bh2_karras/10",
    "diffusers/pndm_plms_leading/10",
    "diffusers/tcd_eta0.3/5",
    "diffusers/dpmpp_2s_karras/10",
    "azula/ito_eta1/rectified/10",
    "azula/pc/vp/10",
)


def recipes(names):
    """(module, name, recipe, fault) of the runs."""
    for module in parity.MODULES:
        part = importlib.import_module(f"experiments.sampler_convergence.peers.{module}")
        faults = dict(matching(getattr(part, "FAULTS", {}), names))
        for name, recipe in matching(part.RECIPES, names):
            yield module, name, recipe, faults.get(name)


def test_every_run_has_one_recipe():
    names = list(load())
    found = [name for _, name, _, _ in recipes(names)]
    assert len(names) == 832 and sorted(found) == sorted(names)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FEW)
def test_a_run(name):
    ((_, _, recipe, fault),) = recipes([name])
    assert fault is None
    np.testing.assert_allclose(recipe(load()[name]), load()[name].out, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("module", parity.MODULES)
def test_all_runs(module):
    """1e-9, or a fault of the peer that is named; what we make of those is finite."""
    cases = load()
    for part, name, recipe, fault in recipes(list(cases)):
        if part == module:
            found = np.asarray(recipe(cases[name]))
            assert np.isfinite(found).all(), name
            if fault is None:
                np.testing.assert_allclose(found, cases[name].out, rtol=0, atol=1e-9, err_msg=name)
