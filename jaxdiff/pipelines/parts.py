"""A checkpoint in memory: a network that predicts, how it is spoken to, and what surrounds it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Model, model
from jaxdiff.pipelines.schedule import Schedule
from jaxdiff.process import Prediction, Process, Wiring
from jaxdiff.types import PyTree, Sampler


class Part(NamedTuple):
    """A network of a checkpoint: `net` (a NamedTuple of functions), `params`, and its `config`."""

    net: Any
    params: PyTree
    config: Mapping[str, Any]


class Pretrained(NamedTuple):
    """A checkpoint: the network that predicts with its `params`, and what it was trained with.

    `process`, `prediction` and `wiring` are what noise did and how the network is spoken to;
    `schedule` walks as the checkpoint's scheduler does; `config` is that of the network, `whole`
    that of the pipeline; `parts` the other networks by name (vae, text_encoder, ...), `words` the
    tokenisers (tokenizer, ...).
    """

    net: Any
    params: PyTree
    process: Process
    prediction: Prediction
    wiring: Wiring
    schedule: Schedule
    config: Mapping[str, Any]
    whole: Mapping[str, Any]
    parts: Mapping[str, Part]
    words: Mapping[str, Callable[..., Any]]

    @property
    def kind(self) -> str:
        """The class of the network, as its config names it."""
        return str(self.config["_class_name"])

    def model(self, *, span: tuple[float, float] | None = None) -> Model:
        """The network as a model: `jd.cfg(loaded.model(), cond, null, 7.5)` and so on.

        A network that also answers a variance is asked for its prediction only.

        Args:
          span: the value range of the data, for networks of pixels; latents have none.
        """
        apply = Partial(_prediction_only, Partial(self.net.apply))
        return model(apply, self.params, self.process, self.wiring, span=span)

    def part(self, name: str) -> Part:
        """The part of this name.

        Raises:
          ValueError: if the checkpoint has none.
        """
        if name not in self.parts:
            raise ValueError(
                f"the checkpoint has no {name!r}; it has {', '.join(self.parts) or 'nothing else'}"
            )
        return self.parts[name]


def walked_by(
    loaded: Pretrained, sampler: Sampler, times: Callable[[Process, int], Array]
) -> Pretrained:
    """The same checkpoint with another sampler and grid than its scheduler's.

    Args:
      loaded: the checkpoint.
      sampler: the solver.
      times: the grid, (process, n) -> [n + 1].

    >>> from jaxdiff import samplers
    >>> change = lambda loaded: walked_by(loaded, *samplers.named("DPM++ 2M Karras"))
    """
    schedule = loaded.schedule._replace(
        sampler=sampler, times=lambda n, tokens: times(loaded.process, n), whole=True
    )
    return loaded._replace(schedule=schedule)


def _prediction_only(apply: Any, params: PyTree, x: Array, time: Array, cond: PyTree) -> Array:
    answer = apply(params, x, time, cond)
    channels = x.shape[-1]
    return answer[..., :channels] if answer.shape[-1] == 2 * channels else jnp.asarray(answer)
