"""The config of a checkpoint, read with suspicion: what is not understood is refused by name.

A config that sets a knob which a loader overlooks gives a network that runs and is wrong. So each
family reads its keys through `Config`, and `finish` raises for those that nobody asked for, unless
they are switched off.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

_BOOKKEEPING = {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version"}


class Config:
    """The keys of a config.json, each read once, with what it is when absent.

    `dtype`, `remat` and `scan` say how to compute, which no config does: the type of the
    arithmetic, whether blocks are recomputed in the backward pass, and whether equal blocks are
    walked in one loop.

    >>> config = Config({"_class_name": "UNet2DModel", "in_channels": 3, "act_fn": "silu"})
    >>> config("in_channels", 4)
    3
    >>> config.only("act_fn", "silu")
    'silu'
    >>> config.finish()
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        name: str = "",
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        scan: bool = False,
    ):
        self.values = dict(values)
        self.dtype, self.remat, self.scan = dtype, remat, scan
        self.name = name or str(values.get("_class_name", "the config"))
        self.asked: set[str] = set()

    def __call__(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or `default` where the config does not have it."""
        self.asked.add(key)
        return self.values.get(key, default)

    def only(self, key: str, *known: Any) -> Any:
        """The value of `key`, which has to be one of `known` (the first is the default).

        Raises:
          ValueError: if it is another.
        """
        value = self(key, known[0])
        if value not in known:
            raise ValueError(
                f"{self.name}: {key} is {value!r}, which jaxdiff does not have; it has "
                f"{', '.join(map(repr, known))}"
            )
        return value

    def ignore(self, *keys: str) -> None:
        """Keys that change nothing in the network."""
        self.asked.update(keys)

    def finish(self) -> None:
        """Raise for keys that nobody asked for, unless they are None, False or bookkeeping.

        Raises:
          ValueError: naming them.
        """
        left = {
            key: value
            for key, value in self.values.items()
            if key not in self.asked | _BOOKKEEPING
            and not key.startswith("_")
            and value is not None
            and value is not False
        }
        if left:
            said = ", ".join(f"{key} = {value!r}" for key, value in left.items())
            raise ValueError(f"{self.name}: the config sets what jaxdiff does not know: {said}")
