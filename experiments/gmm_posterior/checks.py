"""What is exact, and has to be so to rounding: asserted by `run.py --check`."""

import jax
import jax.numpy as jnp
import numpy as np
from problems import denoiser, draw, make, ve

from jaxdiff import exact, inverse, process, samplers
from jaxdiff.guidance import chain
from jaxdiff.trees import keys_for

D, ROWS, NOISE = 6, 3, 0.3


def _gaussian() -> tuple[exact.Mixture, jax.Array, jax.Array]:
    """A dense Gaussian prior, a dense A and y for a batch of one."""
    keys = jax.random.split(jax.random.key(1), 4)
    root = jax.random.normal(keys[0], (D, D)) / D**0.5
    prior = exact.gaussian(jax.random.normal(keys[1], (D,)), root @ root.T + 0.2 * jnp.eye(D))
    a = jax.random.normal(keys[2], (ROWS, D))
    return prior, a, jax.random.normal(keys[3], (1, ROWS))


def gaussian_priors() -> None:
    """In double precision: MMPS is the exact posterior, and so is nested, and stacked."""
    with jax.enable_x64(True):
        prior, a, y = _gaussian()
        for proc in (process.edm(), process.rectified_flow(), process.vp_linear()):
            base = exact.denoiser(prior, proc)
            truth = exact.denoiser(exact.condition(prior, a, y[0], NOISE), proc)
            parts = [(inverse.matrix(a[i : i + 1]), y[:, i : i + 1]) for i in range(ROWS)]
            stacked = inverse.stack(*(p[0] for p in parts)), tuple(p[1] for p in parts)
            guides = {
                "one operator": inverse.mmps(inverse.matrix(a), y, noise=NOISE, steps=ROWS),
                "stacked": inverse.mmps(*stacked, noise=NOISE, steps=ROWS),
                "nested": chain(*(inverse.mmps(*p, noise=NOISE, steps=1) for p in parts)),
            }
            for lam in (4.0, 0.0, -4.0):
                t = process.time_of(proc, lam)
                alpha, sigma = process.scales(proc, t)
                x = alpha * 0.4 + sigma * jax.random.normal(jax.random.key(2), (1, D))
                for name, guide in guides.items():
                    gap = jnp.max(jnp.abs(jax.jit(guide(base))(x, t).x0 - truth(x, t).x0))
                    assert gap < 1e-10, (name, lam, gap)
    print("MMPS, stacked and nested: exact on Gaussian priors to 1e-10")


def batches() -> None:
    """A batch of 3 is three runs of 1."""
    p, proc = make(0, 8, 2), ve(8)
    ts = process.karras(proc, 20)
    y = jnp.stack([p.y, 2 * p.y, -p.y])
    x = proc.t_max * jax.random.normal(jax.random.key(3), (3, 8))
    keys = keys_for(jax.random.key(4), jnp.arange(3))

    @jax.jit
    def go(keys, y, x):
        guide = inverse.pigdm(inverse.matrix(p.matrix), y, noise=p.noise)
        denoise = guide(denoiser(p.prior, proc))
        return samplers.run(keys, denoise, samplers.ddpm(), samplers.grid(ts), x)

    whole = go(keys, y, x)
    for i in range(3):
        gap = jnp.max(jnp.abs(go(keys[i : i + 1], y[i : i + 1], x[i : i + 1]) - whole[i][None]))
        assert gap < 1e-5 * jnp.max(jnp.abs(whole)), gap
    print("a batch is its samples to 1e-5")


def diffrax() -> None:
    """The flow of a guided denoiser by Diffrax and by the loop."""
    with jax.enable_x64(True):
        prior, a, y = _gaussian()
        proc = process.edm(0.01, 20.0)
        y = jnp.broadcast_to(y, (4, ROWS))
        denoise = inverse.pigdm(inverse.matrix(a), y, noise=NOISE)(exact.denoiser(prior, proc))
        x = proc.t_max * jax.random.normal(jax.random.key(5), (4, D))
        keys = keys_for(jax.random.key(6), jnp.arange(4))
        rows = samplers.grid(process.karras(proc, 400))
        ours = jax.jit(lambda x: samplers.run(keys, denoise, samplers.heun(), rows, x))(x)
        theirs = jax.jit(lambda x: samplers.integrate(denoise, x))(x)
        gap = np.max(np.abs(ours - theirs))
        assert gap < 1e-3, gap
    print("Diffrax and the grid agree to 1e-3")


def closed_forms() -> None:
    """The cheap denoisers and draws of this experiment are those of the library's exact module."""
    with jax.enable_x64(True):
        p, proc = make(0, 8, 2), ve(8)
        means, weights = p.prior.means, jnp.exp(p.prior.logits)
        prior = exact.mixture(weights, means, jnp.broadcast_to(jnp.eye(8), (25, 8, 8)))
        posterior = exact.condition(prior, p.matrix[:2], p.y[:2], p.noise)
        for t in (0.05, 1.0, 8.0, 100.0):
            x = draw(jax.random.key(7), p.posterior, 20)
            x = x + t * jax.random.normal(jax.random.key(8), x.shape)
            for modes, dist in ((p.prior, prior), (p.posterior, posterior)):
                found = denoiser(modes, proc)(x, t).x0, exact.denoiser(dist, proc)(x, t).x0
                assert jnp.max(jnp.abs(found[0] - found[1])) < 1e-8
        many = draw(jax.random.key(9), p.posterior, 200_000)
        assert jnp.max(jnp.abs(many.mean(0) - exact.mean(posterior))) < 0.15
        assert jnp.max(jnp.abs(jnp.cov(many.T) - exact.covariance(posterior))) < 0.8
    print("the posterior of the experiment is that of jaxdiff.exact")


def run() -> None:
    """All of them."""
    closed_forms()
    gaussian_priors()
    batches()
    diffrax()
