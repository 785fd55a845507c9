"""The variational bound of a chain of Gaussian steps t_0 > t_1 > ... > t_n = clean, in nats:

    -log p(x) <= L_T + sum_i L_i + L_0,
    L_T = KL(q(x_{t_0} | x) || N(0, sigma_{t_0}^2)) = alpha^2 |x|^2 / (2 sigma^2),
    L_i = KL(q(x_s | x_t, x) || p(x_s | x_t)),         t = t_i, s = t_{i+1},
    L_0 = -log p(x | x_t) at the last step, a Gaussian on whole levels (`discretised_gaussian`).

p(x_s | x_t) has the mean of the posterior with x_0 in the place of x, and a variance between the
posterior's ("small") and the forward kernel's ("large"), whose logs differ in every process by
2 log(sigma_t/sigma_s):

    log var = log small + D,    D = (1 + v)/2 log(large/small),    v = -1 small, v = 1 large,
    KL of an entry = 1/2 [D + e^-D - 1 + e^-D (SNR_s - SNR_t) (x - x_0)^2].

The posterior of the last step has no variance; its small one is that of the step before. This suits
tables of betas; on a grid that is fine in log-SNR to its end it is too small: take v = 1 there, or
learn it. In the limit of many steps sum_i L_i / d is `likelihood_loss` times t_max - t_min.

Ho et al. 2020, arXiv:2006.11239, eq. (5); Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15);
Kingma et al. 2021, arXiv:2107.00630, eq. (13).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxdiff.canonical import scan
from jaxdiff.denoise import Denoiser
from jaxdiff.losses.decoder import check_levels, decoder_nats
from jaxdiff.process import Process, check_grid, perturb, posterior, scales, transition
from jaxdiff.trees import dots, fit, fold, normal
from jaxdiff.types import SOLVER, PyTree, Scalar, number


class Bound(NamedTuple):
    """`prior` L_T [b], `steps` L_i [b, n - 1] from the noisiest on, `decoder` L_0 [b], all in nats.

    `nats` [b] is their sum, `bits` [b] the same in bits per dimension.
    """

    prior: Array
    steps: Array
    decoder: Array
    nats: Array
    bits: Array


class Links(NamedTuple):
    """What the steps of a chain are, each [n]: times, weight on (x - x_0)^2, small, log spread."""

    t: Array
    s: Array
    gain: Array
    small: Array
    spread: Array


def step_variances(process: Process, ts: Float[Array, " m"]) -> tuple[Array, Array]:
    """The variances (small, large) [n] between which a reverse step t_i -> t_{i+1} may choose.

    small is the posterior's, large the forward kernel's. At the last step, to clean data, the
    posterior has none: small is that of the step before it (or large, where there is none).

    Args:
      process: what noise does.
      ts: [n + 1] decreasing times, the last t_clean.

    Ho et al. 2020, arXiv:2006.11239, section 3.2; Nichol & Dhariwal 2021, arXiv:2102.09672.

    >>> from jaxdiff.process import edm
    >>> [v.tolist() for v in step_variances(edm(), jnp.array([4.0, 2.0, 0.0]))]
    [[3.0, 3.0], [12.0, 4.0]]
    """
    t, s = ts[:-1], ts[1:]
    large = transition(process, s, t).var
    small = posterior(process, s, t).var
    before = small[-2] if len(small) > 1 else large[-1]
    return small.at[-1].set(before), large


def links(process: Process, ts: Float[Array, " m"]) -> Links:
    """The steps of a chain over the times ts [n + 1]."""
    small, large = step_variances(process, ts)
    on_x0 = posterior(process, ts[1:], ts[:-1]).on_x0
    return Links(ts[:-1], ts[1:], on_x0**2 / small, small, jnp.log(large) - jnp.log(small))


def check_chain(process: Process, ts: Array | np.ndarray) -> None:
    """Refuse times that do not decrease or do not end at clean data; traced ones pass.

    Raises:
      ValueError: naming the times.
    """
    if ts.ndim != 1:
        raise ValueError(f"ts of shape {ts.shape}: the times of a chain are a vector [n + 1]")
    check_grid(ts)
    sigma = scales(process, ts[-1])[1]
    if not isinstance(sigma, Tracer) and float(sigma) != 0:
        raise ValueError(
            f"ts ends at {float(ts[-1])}, where sigma={float(sigma)}: a chain ends at clean data, "
            f"t={float(process.t_clean)}"
        )


def step_nats(link: Links, x: PyTree, x0: PyTree, v: PyTree) -> Float[Array, " b"]:
    """KL of one step, [b]; the entries of `link` are () or [b], v is a number or like x."""
    return _summed(functools.partial(_step_entry, link), x, x0, v)


def _step_entry(link: Links, x: Array, x0: Array, v: Array) -> Array:
    gain, wider = fit(link.gain, x), (1 + v) / 2 * fit(link.spread, x)
    return (wider + jnp.expm1(-wider) + jnp.exp(-wider) * gain * (x - x0) ** 2) / 2


def last_nats(
    link: Links, x: PyTree, x0: PyTree, v: PyTree, levels: int | None
) -> Float[Array, " b"]:
    """-log p(x | x_t) of the last step, of whole levels or (None) real numbers."""
    return _summed(functools.partial(_last_entry, link, levels), x, x0, v)


def _last_entry(link: Links, levels: int | None, x: Array, x0: Array, v: Array) -> Array:
    log_var = jnp.log(fit(link.small, x)) + (1 + v) / 2 * fit(link.spread, x)
    return decoder_nats(x, x0, log_var / 2, levels)


def _summed(entry: Any, x: PyTree, x0: PyTree, v: PyTree) -> Array:
    """Sum of entry(x, x_0, v) over all entries of a sample, [b]."""
    if not isinstance(v, int | float) and jax.tree.structure(v) == jax.tree.structure(x):
        full = v
    else:
        full = jax.tree.map(lambda leaf: number(v), x)
    nats = jax.tree.map(entry, x, x0, full)
    return dots(nats, jax.tree.map(jnp.ones_like, nats))


def prior_nats(process: Process, t: Array, x: PyTree) -> Float[Array, " b"]:
    """KL(q(x_t | x) || N(0, sigma_t^2)) = alpha^2 |x|^2 / (2 sigma^2), [b]."""
    alpha, sigma = scales(process, t)
    return (alpha / sigma) ** 2 * dots(x, x) / 2


def entries(x: PyTree) -> int:
    """The number d of entries of a sample."""
    return sum(leaf[0].size for leaf in jax.tree.leaves(x))


def variational_bound(
    keys: Any,
    denoise: Denoiser,
    x: PyTree,
    ts: Array | np.ndarray,
    *,
    v: Scalar | None = None,
    levels: int | None = 256,
) -> Bound:
    """Every term of the bound on -log p(x), each step asked once: an unbiased estimate of each.

    Args:
      keys: [b] one per sample, or a `tape` whose solver noise has n rows [n, b, ...].
      denoise: E[x_0 | x_t] with its condition bound, unguided.
      x: data [b, ...], or a tree of them, on the levels -1 + 2 k/(levels - 1).
      ts: [n + 1] decreasing times, the last t_clean; DDPM's are `uniform(process, 1000)`.
      v: -1 the small variance, 1 the large one; None is the denoiser's `aux["v"]`, -1 if it has
        none.
      levels: 256 for bytes; None for data that are real numbers, whose decoder is a density.

    Returns:
      Bound; `bits` is bits per dimension.

    Raises:
      ValueError: if ts does not decrease or end at clean data, or x is not on the levels.

    Ho et al. 2020, arXiv:2006.11239, eq. (5), (13); Nichol & Dhariwal 2021, arXiv:2102.09672.

    >>> from jaxdiff import exact
    >>> from jaxdiff.process import edm
    >>> d = exact.denoiser(exact.points(jnp.ones((1, 2))), edm())   # it knows that x is (1, 1)
    >>> keys, ts = jax.random.split(jax.random.key(0), 1), jnp.array([80.0, 1e-2, 1e-3, 0.0])
    >>> round(float(variational_bound(keys, d, jnp.ones((1, 2)), ts).bits[0]), 3)
    0.0
    """
    check_chain(denoise.process, ts)
    ts = number(ts)
    if levels is not None:
        check_levels(x, levels)
    chain = links(denoise.process, ts)
    n = len(chain.t)

    def asked(i: Any, t: Array) -> tuple[PyTree, PyTree]:
        eps = normal(fold(fold(keys, i), SOLVER), x)
        est = denoise(perturb(denoise.process, t, x, eps), t)
        return est.x0, est.aux.get("v", -1.0) if v is None else v

    def body(_: tuple[()], row: tuple[Array, Links]) -> tuple[tuple[()], Array]:
        i, link = row
        return (), step_nats(link, x, *asked(i, link.t))

    head, last = (jax.tree.map(lambda a, c=c: a[c], chain) for c in (slice(-1), -1))
    _, steps = scan(body, (), (jnp.arange(n - 1), head))
    prior = prior_nats(denoise.process, ts[0], x)
    decoder = last_nats(last, x, *asked(n - 1, last.t), levels)
    nats = prior + jnp.sum(steps, axis=0) + decoder
    return Bound(prior, steps.T, decoder, nats, nats / (entries(x) * np.log(2.0)))
