"""What a family of checkpoints is: how its config makes a network, and how its names are read."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdiff.pretrained.config import Config
from jaxdiff.pretrained.names import Rule


class Family(NamedTuple):
    """A class of published networks.

    `build(config) -> net`, where net is a NamedTuple of pure functions whose first is `init`;
    `rules` bring names of other layouts into those of the network; `ignored` are regular
    expressions for names that hold no parameter.
    """

    build: Callable[[Config], Any]
    rules: tuple[Rule, ...] = ()
    ignored: tuple[str, ...] = ()
