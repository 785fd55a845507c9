"""The losses of the papers: each names a process, a wiring, a law, a space and a weight.

All share one signature, `loss(params, key, batch, *, apply, ...) -> (scalar, metrics)`; bind what
is fixed with `functools.partial` and hand the rest to a training step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from jaxdiff import process as pr
from jaxdiff.losses.kernel import Metrics, denoising_loss
from jaxdiff.process import Process, Wiring, diffusion2, log_snr
from jaxdiff.types import Batch, PyTree, Scalar, number


def _min_snr(gamma: Array, process: Process, t: Array) -> Array:
    return jnp.minimum(jnp.exp(log_snr(process, t)), gamma)


def _p2(gamma: Array, k: Array, process: Process, t: Array) -> Array:
    return (k + jnp.exp(log_snr(process, t))) ** -gamma


def _half_g2(process: Process, t: Array) -> Array:
    return diffusion2(process, t) / 2


def _sigmoid(bias: Array, process: Process, t: Array) -> Array:
    # -dlambda/dt = g^2 / sigma^2
    rate = diffusion2(process, t) / process.sigma(t) ** 2
    return rate * jax.nn.sigmoid(bias - log_snr(process, t)) / 2


def ddpm_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """DDPM's simple loss: E ||eps - eps_net||^2 / d at integer times of a table.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: the linear table of 1000 betas by default.
      wiring: predicts eps and reads t by default; the error is of eps whatever it predicts.

    Ho et al. 2020, arXiv:2006.11239, eq. (14).
    """
    table = process or pr.from_betas(pr.linear_betas())
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=table,
        wiring=wiring or pr.wiring(pr.eps),
        law=pr.integer_law,
        space=pr.eps,
        null=null,
        drop=drop,
    )


def x0_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """E ||x_0 - x_net||^2 / d.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: `vp_cosine` by default.
      wiring: predicts x_0 and reads 1000 t by default.

    Ramesh et al. 2022, arXiv:2204.06125, section 2.2.
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.vp_cosine(),
        wiring=wiring or pr.wiring(pr.x0, clock=pr.thousand),
        space=pr.x0,
        null=null,
        drop=drop,
    )


def v_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """E ||v - v_net||^2 / d with v = alpha eps - sigma x_0.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: `vp_cosine` by default.
      wiring: predicts v and reads 1000 t by default.

    Salimans & Ho 2022, arXiv:2202.00512, section 4.
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.vp_cosine(),
        wiring=wiring or pr.wiring(pr.v, clock=pr.thousand),
        space=pr.v,
        null=null,
        drop=drop,
    )


def edm_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    mean: Scalar = -1.2,
    std: Scalar = 1.2,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """EDM: unit weight on F, log sigma ~ N(mean, std^2).

    In x_0 the weight is (sigma^2 + sigma_data^2)/(sigma sigma_data)^2.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: `edm` by default.
      wiring: `edm_wiring(0.5)` by default; give the data's own sigma_data and center.
      mean, std: P_mean, P_std.

    Karras et al. 2022, arXiv:2206.00364, eq. (8) and table 1.
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.edm(),
        wiring=wiring or pr.edm_wiring(),
        law=pr.log_normal(mean, std),
        null=null,
        drop=drop,
    )


def flow_matching_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    law: Callable[[Process, Array], Array] = pr.uniform_law,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Flow matching: E ||(eps - x_0) - u_net||^2 / d on straight paths.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: `rectified_flow` by default.
      wiring: predicts the velocity and reads 1000 t by default.
      law: of the times: uniform by default; `logit_normal()` as in Stable Diffusion 3.

    Lipman et al. 2023, arXiv:2210.02747, eq. (23); Esser et al. 2024, arXiv:2403.03206.
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.rectified_flow(),
        wiring=wiring or pr.wiring(pr.velocity, clock=pr.thousand),
        law=law,
        space=pr.velocity,
        null=null,
        drop=drop,
    )


def min_snr_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    gamma: Scalar = 5.0,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Min-SNR-gamma: E min(SNR, gamma) ||x_0 - x_net||^2 / d, whatever is predicted.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: the linear table of 1000 betas by default.
      wiring: predicts eps by default.
      gamma: where the weight stops to grow.

    Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.from_betas(pr.linear_betas()),
        wiring=wiring or pr.wiring(pr.eps),
        law=pr.integer_law,
        space=pr.x0,
        weight=Partial(_min_snr, number(gamma)),
        null=null,
        drop=drop,
    )


def p2_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    gamma: Scalar = 1.0,
    k: Scalar = 1.0,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """P2 weighting: E (k + SNR)^-gamma ||eps - eps_net||^2 / d.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: the linear table of 1000 betas by default.
      wiring: predicts eps by default.
      gamma, k: the weight.

    Choi et al. 2022, arXiv:2204.00227, eq. (8).
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.from_betas(pr.linear_betas()),
        wiring=wiring or pr.wiring(pr.eps),
        law=pr.integer_law,
        space=pr.eps,
        weight=Partial(_p2, number(gamma), number(k)),
        null=null,
        drop=drop,
    )


def sigmoid_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    bias: Scalar = 0.0,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Sigmoid weighting: 1/2 E_t (-dlambda/dt) sigmoid(bias - lambda) ||eps - eps_net||^2 / d.

    A monotone weight of the evidence bound, so the loss is one of augmented data.

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: `vp_cosine` by default; t uniform on [t_min, t_max].
      wiring: predicts v by default.
      bias: shifts the weight in log-SNR.

    Kingma & Gao 2023, arXiv:2303.00848, table 1; Hoogeboom et al. 2024, arXiv:2410.19324, eq. (5).
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.vp_cosine(),
        wiring=wiring or pr.wiring(pr.v, clock=pr.thousand),
        space=pr.eps,
        weight=Partial(_sigmoid, number(bias)),
        null=null,
        drop=drop,
    )


def likelihood_loss(
    params: PyTree,
    key: Key[Array, ""],
    batch: Batch,
    *,
    apply: Callable[..., Any],
    process: Process | None = None,
    wiring: Wiring | None = None,
    null: PyTree = None,
    drop: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Likelihood weighting: 1/2 E_t g^2 ||score - score_net||^2 / d, t uniform on [t_min, t_max].

    Args:
      params, key, batch, apply, null, drop: see `denoising_loss`.
      process: `vp_linear` by default.
      wiring: predicts eps and reads 1000 t by default.

    Song et al. 2021, arXiv:2101.09258, theorem 1.
    """
    return denoising_loss(
        params,
        key,
        batch,
        apply=apply,
        process=process or pr.vp_linear(),
        wiring=wiring or pr.wiring(pr.eps, clock=pr.thousand),
        space=pr.score,
        weight=Partial(_half_g2),
        null=null,
        drop=drop,
    )
