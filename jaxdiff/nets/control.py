"""Ports: the places inside a network where a `control` may read or replace a value.

A control is curried. `control(site)` is asked while the network is traced and answers None, or a
function of the value at that site. None costs nothing: the network takes the branch that it would
have without ports, so attention stays fused and the lowered program is the same text. Every pair
(path, port) is asked at most once in a forward pass.

    port     value                                                     sites
    temb     embedding of time and class [b, d]                        one
    qkv      (q, k, v), q [b, n, heads, d], k and v [b, m, heads, d]    attention
    logits   scaled q k^T, float32, before the mask [b, heads, n, m]    attention
    probs    softmax over tokens, float32 [b, heads, n, m]              attention
    out      probs v, before the output projection [b, n, heads, d]    attention
    resnet   residual branch of convolutions or MLP, before the sum    every block
    skip     U-Net tensor handed from down to up [b, h, w, c]          every up block
    block    output of a block                                         every block
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxdiff.types import Control, Site


def ask(control: Control | None, place: Site, port: str) -> Callable[..., Any] | None:
    """What `control` wants at `port` of `place`: None, or a function of the value there.

    >>> ask(None, Site("", "", "down", 0, 0, "conv", (8, 8), 0), "block") is None
    True
    """
    return None if control is None else control(replace(place, port=port))


def hook(control: Control | None, place: Site, port: str, value: Any) -> Any:
    """The value at `port` of `place` after `control` has seen it.

    >>> place = Site("middle/0", "", "middle", 2, 0, "block", (7, 7), 0)
    >>> hook(lambda site: (lambda v: 2 * v) if site.port == "block" else None, place, "block", 3)
    6
    """
    wanted = ask(control, place, port)
    return value if wanted is None else wanted(value)
