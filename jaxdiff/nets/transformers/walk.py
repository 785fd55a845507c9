"""Walking the blocks of a transformer: one by one, or equal neighbours in one compiled loop."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.types import PyTree

_Carry = TypeVar("_Carry")
_Block = TypeVar("_Block", bound=nnx.Module)


def walk(
    blocks: Sequence[_Block],
    carry: _Carry,
    run: Callable[[_Block, int, _Carry], _Carry],
    *,
    remat: bool = False,
    scan: bool = False,
) -> _Carry:
    """carry <- run(block, i, carry) for each block in order.

    Args:
      blocks: those with the same structure and neighbours in the list share a loop.
      carry: arrays, of the same shapes after a block as before it.
      run: what a block does; under `scan` its i is that of the first block of a loop.
      remat: recompute a block in the backward pass instead of keeping what is inside.
      scan: one loop for each run of equal neighbours, compiled once however long it is.

    Returns:
      The carry behind the last block.
    """

    def step(block: _Block, i: int, carry: _Carry) -> _Carry:
        def act(carry: _Carry) -> _Carry:
            return run(block, i, carry)

        return (jax.checkpoint(act) if remat else act)(carry)

    if not scan:
        for i, block in enumerate(blocks):
            carry = step(block, i, carry)
        return carry
    done = 0
    for graph, states in _equal(blocks):
        carry = _loop(graph, states, done, carry, step)
        done += len(states)
    return carry


def _equal(blocks: Sequence[nnx.Module]) -> list[tuple[nnx.GraphDef, list[PyTree]]]:
    split = [nnx.split(block) for block in blocks]
    runs = [list(run) for _, run in groupby(split, key=lambda pair: pair[0])]
    return [(run[0][0], [state for _, state in run]) for run in runs]


def _loop(
    graph: nnx.GraphDef,
    states: list[PyTree],
    first: int,
    carry: _Carry,
    step: Callable[[Any, int, _Carry], _Carry],
) -> _Carry:
    if len(states) == 1:
        return step(nnx.merge(graph, states[0]), first, carry)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def body(carry: _Carry, state: PyTree) -> tuple[_Carry, None]:
        return step(nnx.merge(graph, state), first, carry), None

    return jax.lax.scan(body, carry, stacked)[0]
