"""What a network is told besides x and time: one normal form for every way to say it.

    None                       nothing
    integer array [b]          class labels; the index `classes` is the null label
    dict                       any of the fields of `Given`

Every network takes label, tokens, mask and control as far as it was built for them; the other
fields belong to some families, which name them by `extra`. What a network was not built for is
refused rather than ignored: an ignored label would make guidance do nothing, without a word.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.types import Control, PyTree


class Given(NamedTuple):
    """A condition in normal form; None for what is absent.

    `label` integers [b]; `tokens` [b, n, d] with `mask` bool [b, n]; `control`, asked at each site;
    `pooled` [b, p], one vector for a whole text; `sizes` [b, k], the micro-conditions of SDXL and
    PixArt; `image` [b, h, w, c], laid beside x in the channels; `residuals`, what a control
    network adds to the skips; `guidance` [b], the scale that a distilled network was told;
    `augment` [b, k], how training data were augmented; `level` [b], the noise of `image`;
    `until` [b], the second time of a flow map.
    """

    label: Any = None
    tokens: Any = None
    mask: Any = None
    control: Control | None = None
    pooled: Any = None
    sizes: Any = None
    image: Any = None
    residuals: Any = None
    guidance: Any = None
    augment: Any = None
    level: Any = None
    until: Any = None


_COMMON = ("label", "tokens", "mask", "control")


def read_cond(
    cond: PyTree,
    *,
    batch: int,
    classes: int = 0,
    context_dim: int = 0,
    extra: Sequence[str] = (),
) -> Given:
    """Normalise `cond` and check it against what the network was built for.

    Args:
      cond: None, integer labels [b], or a dict with keys among label, tokens, mask, control and
        those in `extra`.
      batch: b, the number of samples in x.
      classes: number of classes, 0 for none; labels lie in 0 .. classes (the last is null).
      context_dim: width d of the tokens, 0 for none.
      extra: further fields of `Given` that this network needs, each of them; one whose name ends
        in "?" it takes but does not need. Their leading axis is checked, the rest is the network's.

    Returns:
      `Given`, with None for what is absent.

    Raises:
      ValueError: an unknown key, a part that is missing, one that the network cannot take, or a
        wrong shape, kind or range (the range only where the labels are concrete).

    >>> read_cond(jnp.array([0, 3]), batch=2, classes=3).label
    Array([0, 3], dtype=int32)
    >>> read_cond({"lable": 1}, batch=1)
    Traceback (most recent call last):
    ...
    ValueError: cond has the unknown key 'lable': the keys are label, tokens, mask, control
    """
    optional = [name.removesuffix("?") for name in extra if name.endswith("?")]
    needed = [name for name in extra if not name.endswith("?")]
    given = _given(cond, (*_COMMON, *needed, *optional))
    _check_extra(given, needed, (*needed, *optional), batch)
    _check_label(given.label, batch, classes)
    _check_tokens(given.tokens, given.mask, batch, context_dim)
    if given.control is not None and not callable(given.control):
        raise ValueError(
            f"cond['control'] is a {type(given.control).__name__}: give a function of a Site"
        )
    return given


def _given(cond: PyTree, known: Sequence[str]) -> Given:
    if cond is None:
        return Given()
    if not isinstance(cond, Mapping):
        if not hasattr(cond, "dtype"):
            raise ValueError(
                f"cond is a {type(cond).__name__}: give None, integer labels [b], or a dict with "
                "keys among label, tokens, mask, control"
            )
        return Given(label=cond)
    for key in cond:
        if key in Given._fields and key not in known and cond[key] is not None:
            raise ValueError(
                f"cond holds {key!r} but the network was not built for it: its keys are "
                f"{', '.join(known)}"
            )
        if key not in Given._fields:
            raise ValueError(f"cond has the unknown key {key!r}: the keys are {', '.join(known)}")
    return Given(**dict(cond))


def _check_extra(given: Given, needed: Sequence[str], all_: Sequence[str], batch: int) -> None:
    for name in all_:
        value = getattr(given, name)
        if value is None and name in needed:
            raise ValueError(f"cond holds no {name!r}: this network needs it, with {batch} rows")
        for leaf in jax.tree.leaves(value):
            if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != batch:
                raise ValueError(
                    f"cond[{name!r}] has shape {list(jnp.shape(leaf))}: give [{batch}, ...], one "
                    "row for each sample"
                )


def _check_label(label: Any, batch: int, classes: int) -> None:
    if classes == 0:
        if label is not None:
            raise ValueError(
                "cond holds labels but the network has no classes: build it with classes=, or give "
                "cond=None"
            )
        return
    if label is None:
        raise ValueError(
            f"cond holds no label but the network has {classes} classes: give integer labels "
            f"[{batch}]; the null label is {classes}"
        )
    if not jnp.issubdtype(jnp.result_type(label), jnp.integer) or jnp.shape(label) != (batch,):
        raise ValueError(
            f"labels are {jnp.result_type(label)}{list(jnp.shape(label))}: give integers of shape "
            f"[{batch}], one for each sample"
        )
    _check_range(label, classes)


def _check_range(label: Any, classes: int) -> None:
    # Values are looked at only where they exist: on tracers, a bad label gives NaN instead.
    if isinstance(label, Tracer) or not getattr(label, "is_fully_addressable", True):
        return
    values = np.asarray(label)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > classes:
        raise ValueError(
            f"labels lie in {low} .. {high}: they must lie in 0 .. {classes}, where {classes} is "
            "the null label"
        )


def _check_tokens(tokens: Any, mask: Any, batch: int, context_dim: int) -> None:
    if context_dim == 0:
        if tokens is not None or mask is not None:
            raise ValueError(
                "cond holds tokens or a mask but the network has no cross-attention: build it with "
                "context_dim=, or leave them out"
            )
        return
    shape = None if tokens is None else jnp.shape(tokens)
    if shape is None or len(shape) != 3 or (shape[0], shape[2]) != (batch, context_dim):
        raise ValueError(
            f"cond['tokens'] has shape {shape}: give [b, n, d] = [{batch}, n, {context_dim}]"
        )
    if mask is None:
        return
    if jnp.shape(mask) != shape[:2] or jnp.result_type(mask) != jnp.bool_:
        raise ValueError(
            f"cond['mask'] is {jnp.result_type(mask)}{list(jnp.shape(mask))}: give bool "
            f"{list(shape[:2])}, True where a token counts"
        )
