"""Taps: what a network computes on the way, read out through its control.

A tap is a control that changes nothing: `tap(site)` answers None, or a function of the value there
whose result is kept. Reduce at the site: what is kept lives as long as the estimate.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.image
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxdiff.denoise import Model, joined, parted
from jaxdiff.guidance.kernel import as_partial
from jaxdiff.types import Control, Estimate, PyTree, Site

Tap = Callable[[Site], Callable[[Any], Any] | None]


def controlled(cond: PyTree, control: Control | None) -> PyTree:
    """A condition with a control in it; labels and None become the dict that says the same.

    >>> sorted(controlled({"label": 3}, print))
    ['control', 'label']
    """
    control = control if control is None else as_partial(control)
    if callable(cond):
        return Partial(_controlled_now, cond, control)
    named = {} if cond is None else cond if isinstance(cond, Mapping) else {"label": cond}
    return {**named, "control": control}


def _controlled_now(cond: Any, control: Any, now: Any) -> PyTree:
    return controlled(cond(now), control)


class _Listener:
    """The control that was there, then the tap. It lives within one trace of the network."""

    def __init__(self, control: Any, tap: Tap) -> None:
        self.control, self.tap = control, tap
        self.kept: dict[str, Any] = {}

    def __call__(self, site: Site) -> Callable[[Any], Any] | None:
        change = None if self.control is None else self.control(site)
        keep = self.tap(site)
        if keep is None:
            return change
        name = f"{site.path}:{site.port}"

        def listen(value: Any) -> Any:
            value = value if change is None else change(value)
            self.kept[name] = keep(value)
            return value

        return listen


def _tapped(fn: Any, tap: Any, x: Any, t: Any, cond: Any, now: Any) -> Estimate:
    plain, control = parted(cond)
    listener = _Listener(control, tap)
    est = fn(x, t, controlled(plain, listener), now)
    if not listener.kept:
        raise ValueError("the tap wants nothing at any site that this network asks it at")
    return est._replace(aux=joined([est.aux, {"taps": listener.kept}]))


def tapped(model: Model, tap: Tap) -> Model:
    """A model whose estimates carry `aux["taps"]`: {"path:port": what the tap kept there}.

    Under several conditions (`cfg`, `mix`) what is kept comes out as [b, r, ...].

    Args:
      model: a model whose network asks a control; its condition is None, labels or a dict. A
        network that recomputes its blocks (remat) cannot be tapped.
      tap: `tap(site)` -> None or a function of the value [b, ...] there -> arrays [b, ...] to keep;
        a `Partial` if the model is to be an argument under `jit`.

    Raises:
      ValueError: when called, if the tap wants nothing at any site.
    """
    return Model(model.process, Partial(_tapped, model.fn, as_partial(tap)), model.span)


def stacked_taps(taps: dict[str, Array], hw: tuple[int, int]) -> Array:
    """Feature maps of ONE example [h, w, c], resized to `hw` and put side by side: [*hw, sum c].

    What a per-pixel edge predictor reads.

    >>> stacked_taps({"a": jnp.ones((2, 2, 3)), "b": jnp.ones((4, 4, 1))}, (4, 4)).shape
    (4, 4, 4)
    """
    maps = [jax.image.resize(m, (*hw, m.shape[-1]), "bilinear") for m in taps.values()]
    return jnp.concatenate(maps, axis=-1)
