"""The alias table: every name that people type is known, and means what it means elsewhere."""

import jax
import numpy as np
import pytest

from jaxdiff import process, samplers
from jaxdiff.samplers.names import INSTEAD, SAMPLERS, SCHEDULES, _grids, _key, _rows, _spellings
from jaxdiff.types import Sampler
from tests.problems import tree_denoiser, vector

TYPED = """
    Euler a|Euler|LMS|Heun|DPM2|DPM2 a|DPM++ 2S a|DPM++ 2M|DPM++ SDE|DPM++ 2M SDE|DPM++ 2M SDE Heun
    DPM++ 3M SDE|DPM++ 2M Karras|DPM++ SDE Karras|DPM++ 2M SDE Exponential|LMS Karras|DDIM|PLMS
    UniPC|DPM2 a Karras|DPM++ 2M SDE Heun Karras|DPM++ 3M SDE Exponential|DPM++ 2M SGM Uniform
    Euler Align Your Steps|Euler AYS SDXL|DPM++ 2M KL Optimal|DPM++ 2M Beta|Euler Simple
    Euler Normal|Euler Uniform|Euler DDIM|DPM++ 2M Polyexponential|k_euler_a|k_dpmpp_2m|k_lms
    euler|euler_ancestral|heun|dpm_2|dpm_2_ancestral|lms|dpmpp_2s_ancestral|dpmpp_sde|dpmpp_sde_gpu
    dpmpp_2m|dpmpp_2m_sde|dpmpp_2m_sde_gpu|dpmpp_2m_sde_heun_gpu|dpmpp_3m_sde_gpu|ddpm|lcm|ipndm|deis
    er_sde|sa_solver|ddim|uni_pc|uni_pc_bh2|euler simple|dpmpp_2m_sde karras|euler ddim_uniform
    sample_euler|sample_heun|sample_lms|sample_dpm_2|sample_dpm_2_ancestral|sample_dpmpp_2m
    sample_dpmpp_2m_sde|sample_dpmpp_3m_sde|sample_dpmpp_2s_ancestral|sample_dpmpp_sde
    DDPMScheduler|DDIMScheduler|PNDMScheduler|LMSDiscreteScheduler|EulerDiscreteScheduler
    EulerAncestralDiscreteScheduler|HeunDiscreteScheduler|DPMSolverMultistepScheduler
    KDPM2DiscreteScheduler|KDPM2AncestralDiscreteScheduler|DPMSolverSDEScheduler|IPNDMScheduler
    DEISMultistepScheduler|UniPCMultistepScheduler|SASolverScheduler|EDMEulerScheduler
    EDMDPMSolverMultistepScheduler|FlowMatchEulerDiscreteScheduler|FlowMatchHeunDiscreteScheduler
    LCMScheduler|TCDScheduler|SA-Solver|ER-SDE|iPNDM|flow Euler|flow Heun|EDM stochastic
    dpm++ 2m karras|DPM++2M-Karras|DPMPP_2M_KARRAS| Euler  A |DDIM trailing|DDIM leading|Heun Lu
"""
NAMES = [name for line in TYPED.strip().splitlines() for name in line.strip().split("|")]


@pytest.mark.parametrize("row", SAMPLERS, ids=lambda row: row.names)
def test_every_row_makes_a_sampler(row):
    assert isinstance(row.make(samplers), Sampler)
    assert _key(row.schedule) in _grids()


@pytest.mark.parametrize("name", NAMES)
def test_what_people_type_is_known(name):
    key = _key(name)
    found = [a for a in _rows() if key.startswith(a) and key[len(a) :] in {"", *_grids()}]
    assert found
    sampler, times = samplers.named(name)
    assert isinstance(sampler, Sampler) and callable(times)


def test_no_two_rows_share_a_spelling():
    for table in ([row.names for row in SAMPLERS], SCHEDULES):
        spelled = [key for names in table for key in {_key(name) for name in _spellings(names)}]
        assert len(spelled) == len(set(spelled))


def test_no_name_can_be_read_in_two_ways():
    """No sampler's name is another's followed by that of a schedule."""
    for alias in _rows():
        split = [a for a in _rows() if alias.startswith(a) and alias[len(a) :] in _grids()]
        assert split == []


TABLE = process.from_betas(process.scaled_linear_betas())
SHORT = process.discard_penultimate


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("DPM++ 2M", process.karras),
        ("DPM++ 2M Karras", process.karras),
        ("dpmpp_2m_sde", process.uniform_lambda),
        ("dpmpp_2m_sde_gpu karras", process.karras),
        ("DPM2", SHORT(process.karras)),
        ("DPM2 a Exponential", SHORT(process.uniform_lambda)),
        ("KDPM2DiscreteScheduler", process.linspace),
        ("Euler a", process.linspace),
        ("Euler SGM uniform", SHORT(process.linspace)),
        ("Euler simple", process.simple),
        ("DDIM", process.trailing),
        ("DDIM leading", process.leading),
        ("DDIM DDIM uniform", lambda p, n: process.leading(p, n, 1)),
        ("Heun Beta", process.beta),
    ],
)
def test_the_schedule_of_a_name(name, grid):
    same(samplers.named(name)[1], grid)
    base, _, word = name.partition(" ")
    if word and _key(word) in _grids():
        same(samplers.named(base, word)[1], grid)


def same(one, two):
    """The same function, or else the same times."""
    parts = [getattr(grid, "args", grid) for grid in (one, two)]
    if parts[0] != parts[1]:
        np.testing.assert_array_equal(one(TABLE, 5), two(TABLE, 5))


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("DPM++ 2M SDE", samplers.dpmpp_2m(1.0)),
        ("DPM++ 2M SDE Heun", samplers.dpmpp_2m(1.0, midpoint=False)),
        ("Euler a", samplers.ddim(1.0)),
        ("DPM2", samplers.dpm_2()),
    ],
)
def test_the_sampler_of_a_name(name, sampler):
    """The same samples as from the function itself."""
    flow = process.rectified_flow()
    denoise, key, ts = tree_denoiser(flow), jax.random.key(0), process.linspace(flow, 3)

    @jax.jit
    def both(x):
        found, _ = samplers.named(name)
        return [samplers.sample(key, denoise, s, start=x, times=ts) for s in (found, sampler)]

    one, two = both(vector(0, 2, 3))
    np.testing.assert_array_equal(one, two)


def test_names_work_on_processes_without_a_table():
    grids = [samplers.named(n)[1] for n in ("DDIM", "Euler simple", "Euler", "DPM2 Karras")]
    for proc in (process.edm(), process.rectified_flow(), TABLE):
        for ts in jax.jit(lambda proc: [times(proc, 5) for times in grids])(proc):
            process.check_grid(ts, proc)


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_no_sampler_on_a_grid_says_what_to_call(name):
    for typed in (name, name.lower().replace(" ", "_"), f"{name} Karras", f"Euler {name}"):
        with pytest.raises(ValueError, match="is not given by name: it"):
            samplers.named(typed)


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("DPM++ 2M Karas", "DPM\\+\\+ 2M Karras"),
        ("eulr a", "Euler a"),
        ("UniPCMultistpScheduler", "UniPCMultistepScheduler"),
        ("dpmpp_2m_sde_hun", "DPM\\+\\+ 2M SDE Heun"),
        ("Euler Karras Beta", "Euler"),
        ("", ""),
    ],
)
def test_unknown_names_are_met_with_the_nearest(typed, near):
    with pytest.raises(ValueError, match=f"names no sampler; near it: .*{near}"):
        samplers.named(typed)
