"""DDIM inversion: from data up to the noise that DDIM makes it from.

In a straight frame y = x / (alpha + c sigma), tau = sigma / (alpha + c sigma) (see `heun`), DDIM's
step down from t to s is y_s = y_t + (tau_s - tau_t) d(x_t, t), d = eps - c x_0. So upwards

    y_t = y_s + (tau_t - tau_s) d(x_t, t),

with x_t on both sides. Plain inversion puts y_s for y_t on the right: of first order in the step.
Repeated with the last x_t, the iteration comes to rest at the exact inverse of DDIM on this grid;
each round leaves about the share (1 - (sigma_s alpha_t)/(sigma_t alpha_s)) sigma_t^2 / Var[x_t] of
the error (c = 0), little where the steps are short or the noise is small against the data.

Dhariwal & Nichol 2021, arXiv:2105.05233, appendix F; Song et al. 2020, arXiv:2010.02502, section
4.3; fixed points: Pan et al. 2023, arXiv:2309.04907 (AIDI), Garibi et al. 2024, arXiv:2403.14602.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Num

from jaxdiff import trees
from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.process import check_grid
from jaxdiff.samplers.ddim import noise_of
from jaxdiff.samplers.heun import frame_at, frame_of
from jaxdiff.samplers.loop import Look, run
from jaxdiff.trees import combine, keys_for
from jaxdiff.types import Estimate, Now, PyTree, Rows, Sampler, Scalar, State, number


def invert(
    denoise: Denoiser,
    x: PyTree,
    ts: Num[Array, "m *b"],
    *,
    rounds: int = 1,
    c: Scalar | None = None,
    keys: Key[Array, " b"] | None = None,
    look: Look | None = None,
) -> Any:
    """Walk a grid upwards: x_T from x_0, so that `ddim(0)` on the same grid gives x_0 back.

    y_t = y_s + (tau_t - tau_s) d(x_t, t), solved by `rounds` fixed-point iterations. The way back
    ends at sigma = 0 on an estimate x_0(x_t): x_0 comes back exactly if it is one.

    Args:
      denoise: the denoiser; its guides and conditions see the steps of the way back.
      x: samples at the last time of the grid, [b, ...].
      ts: the grid of the way back, [n + 1] or [n + 1, b] decreasing times.
      rounds: evaluations a step; 1 is plain DDIM inversion, many the exact inverse of DDIM.
      c: the frame, >= 0. None takes EDM's (0), or the flow's (1) where alpha(t_max) = 0.
      keys: [b], for guides that draw.
      look: see `run`; its steps go from s to t.

    Returns:
      x at the first time of the grid; with `look`, also what it kept.

    Raises:
      ValueError: if rounds < 1, or the grid does not decrease.

    >>> from jaxdiff import exact, process, samplers
    >>> d = exact.denoiser(exact.gaussian(jnp.zeros(1), jnp.eye(1)), process.edm())
    >>> x, ts = jnp.ones((1, 1)), process.karras(process.edm(), 8)
    >>> up = invert(d, x, ts, rounds=100)
    >>> keys = keys_for(jax.random.key(0), jnp.arange(1))
    >>> down = samplers.run(keys, d, samplers.ddim(), samplers.grid(ts), up)
    >>> round(float(down[0, 0]), 3)
    1.0
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: a step takes at least 1 evaluation")
    check_grid(ts)
    i = jnp.arange(ts.shape[0] - 1)[::-1]
    rows = Rows(ts[1:][::-1], ts[:-1][::-1], None, i, i[::-1])
    if keys is None:
        keys = keys_for(jax.random.key(0), jnp.arange(trees.size(x)))
    return run(keys, denoise, _upwards(rounds, c), rows, x, look=look)


def _upwards(rounds: int, c: Scalar | None) -> Sampler:
    def step(now: Now, denoise: Denoiser, state: State) -> tuple[State, Estimate]:
        frame = frame_of(denoise.process) if c is None else number(c)
        scale, tau = frame_at(denoise.process, frame, now.s)
        scale_s, tau_s = frame_at(denoise.process, frame, now.t)
        back = now._replace(t=now.s, s=now.t)  # the step that is undone, from now.s down to now.t

        def again(x: PyTree) -> tuple[PyTree, Estimate]:
            est = denoise(x, back.t, back)
            eps, rise = noise_of(denoise, x, back.t, est.x0), scale * (tau - tau_s)
            terms = (scale / scale_s, state.x), (rise, eps), (-rise * frame, est.x0)
            return combine(*terms), est

        x, first = again(combine((scale / scale_s, state.x)))
        if rounds > 1:
            x, _ = scan(lambda x, _: (again(x)[0], None), x, length=rounds - 1)
        return State(x), first

    return Sampler(State, step)
