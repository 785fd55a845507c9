"""In continuous time, by Diffrax: from noise to data, back, and what a sample is worth in nats."""

from jaxdiff.samplers.continuous.coding import ddib, encode
from jaxdiff.samplers.continuous.family import integrate
from jaxdiff.samplers.continuous.likelihood import log_likelihood

__all__ = ["ddib", "encode", "integrate", "log_likelihood"]
