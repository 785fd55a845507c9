"""How networks are spoken to: Karras' table 1 and the clocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import process as pr
from tests.process.cases import PROCESSES, SIGNAL_ENDS, span_of


def test_edm_wiring_is_the_table():
    process, w = pr.edm(), pr.edm_wiring(0.5)
    sigma = jnp.array([0.002, 0.5, 80.0])
    np.testing.assert_allclose(w.scale_in(process, sigma), 1 / np.sqrt(sigma**2 + 0.25), rtol=1e-6)
    np.testing.assert_allclose(w.clock(process, sigma), np.log(sigma) / 4, rtol=1e-6)
    assert w.prediction.name == "F" and float(w.center) == 0.0


@pytest.mark.parametrize("name", PROCESSES)
def test_edm_input_has_unit_variance_on_every_process(name):
    """Var(c_in x_t) = c_in^2 (alpha^2 sigma_data^2 + sigma^2) = 1, and the clock is finite."""
    process, w = PROCESSES[name](), pr.edm_wiring(0.7)
    t = jnp.linspace(*span_of(process), 33)[1:]
    alpha, sigma = pr.scales(process, t)
    scale = w.scale_in(process, t)
    np.testing.assert_allclose(scale**2 * (alpha**2 * 0.49 + sigma**2), 1.0, rtol=1e-5)
    clock = np.asarray(w.clock(process, t))
    assert np.all(np.isfinite(clock)) and np.all(np.diff(clock) > 0)
    if name in SIGNAL_ENDS:
        assert clock[-1] == pytest.approx(np.log(1e4) / 4, rel=1e-6)


def test_clocks_and_inputs_by_name():
    process, t = pr.vp_linear(), jnp.array([0.25, 1.0])
    w = pr.wiring(pr.eps)
    assert w.scale_in(process, t).tolist() == [1.0, 1.0]
    assert w.clock(process, t).tolist() == [0.25, 1.0]
    assert pr.wiring(pr.v, clock=pr.thousand).clock(process, t).tolist() == [250.0, 1000.0]
    assert pr.unit(process, t).tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(pr.own_time(process, t), t)


def _half(process, t):
    return t / 2


def test_plain_functions_may_be_given_and_the_wiring_is_an_argument():
    traces = []

    @jax.jit
    def clock(wiring):
        traces.append(1)
        return wiring.clock(pr.edm(), jnp.float32(4.0)) + wiring.center

    assert float(clock(pr.wiring(pr.eps, clock=_half, center=1))) == 3.0
    assert float(clock(pr.wiring(pr.eps, clock=_half, center=2.5))) == 4.5
    assert len(traces) == 1


def test_sigma_data_does_not_retrace():
    traces = []

    @jax.jit
    def rows(wiring):
        traces.append(1)
        return wiring.prediction(pr.edm(), 1.0)

    for data in (0.5, 1, 2.0):
        a, b = rows(pr.edm_wiring(data))
        np.testing.assert_allclose(float(a) ** 2 * data**2 + float(b) ** 2, 1.0, rtol=1e-6)
    assert len(traces) == 1
