"""Samples of a model as a config says: what the pictures of a run are made with."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from jaxdiff import samplers
from jaxdiff.denoise import Model, bind, cfg
from jaxdiff.experiment.objects import Experiment, grid_of, sampler_of
from jaxdiff.guidance import interval
from jaxdiff.training.sharding import mesh, replicated
from jaxdiff.types import Sampler


def _drawn(
    key: Array,
    model: Model,
    labels: Array | None,
    ids: Array,
    scale: Any,
    times: Array,
    *,
    null: int | None,
    sampler: Sampler,
    acting: Callable[[Any], Any],
    shape: tuple[int, ...],
) -> Array:
    denoise = bind(model, labels) if scale is None else cfg(model, labels, null, acting(scale))
    return samplers.sample(
        key, denoise, sampler, shape=(len(ids), *shape), steps=len(times) - 1, times=times, ids=ids
    )


def _acting(below: float) -> Callable[[Any], Any]:
    """What makes a scale act at the noise levels that the config says."""
    return lambda scale: interval(scale, high=below) if below else scale


def drawn(config: ConfigDict, experiment: Experiment) -> Any:
    """A compiled function (key, model, labels, ids, scale) -> samples, as config.sample says.

    `labels` [b] or None, `ids` [b] the numbers of the samples, `scale` None for no guidance.
    """
    fn = functools.partial(
        _drawn,
        null=experiment.null,
        sampler=sampler_of(config),
        acting=_acting(config.sample.guide_below),
        shape=experiment.info.shape,
    )
    times, run = grid_of(config, experiment.process), jax.jit(fn)
    return lambda key, model, labels, ids, scale: run(key, model, labels, ids, scale, times)


def spread(model: Model) -> Model:
    """The model on all local devices; `draw` then splits its samples over them."""
    return jax.device_put(model, replicated(mesh(jax.local_devices())))


def draw(
    config: ConfigDict,
    experiment: Experiment,
    model: Model,
    key: Key[Array, ""],
    n: int,
    *,
    labels: Int[Array, " n"] | None = None,
    scale: float | None = None,
    start: int = 0,
    run: Any = None,
) -> Float[Array, "n ..."]:
    """n samples: with classifier-free guidance where the model has classes.

    Args:
      config: `sample` is read.
      experiment: what the config stands for.
      model: with its parameters; the samples are split over the devices that those are on.
      key: one key; sample i is made from fold_in(key, start + i).
      n: how many.
      labels: [n]; by default all classes in turn.
      scale: of the guidance; by default config.sample.scale, 1 is none.
      start: number of the first sample.
      run: what `drawn` returned, to compile once for several calls.

    Raises:
      ValueError: for n < 1, steps < 1, or times that do not decrease.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one sample")
    guide = scale = config.sample.scale if scale is None else scale
    place = _place_of(model)
    ids = start + jnp.arange(n if place is None else -(-n // place.mesh.size) * place.mesh.size)
    if experiment.null is None:
        labels = guide = None
    elif labels is None:
        labels = ids % experiment.info.classes
    else:
        labels = labels[jnp.minimum(ids - start, n - 1)]
    if place is not None:
        ids, labels = jax.device_put((ids, labels), place)
    run = drawn(config, experiment) if run is None else run
    return run(key, model, labels, ids, None if guide == 1 else guide)[:n]


def _place_of(model: Model) -> NamedSharding | None:
    """How a batch is split over the devices of a model; None if there is only one."""
    where = getattr(jax.tree.leaves(model)[0], "sharding", None)
    if not isinstance(where, NamedSharding) or where.mesh.size == 1:
        return None
    return NamedSharding(where.mesh, PartitionSpec(where.mesh.axis_names))
