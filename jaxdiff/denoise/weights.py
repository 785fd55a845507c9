"""Numbers in a guide: constants, one per sample, or functions of the point where they act."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from jaxdiff.types import At, number

Number = float | int | Array | Callable[[At], Array]
"""A number in a guide: a scalar, one per sample [b], or a function of the point `At`."""


def numeric(value: Number) -> Any:
    """A constant as an array, a function as it is: what a guide may hold as a leaf.

    >>> float(numeric(2))
    2.0
    """
    return value if callable(value) else number(value)


def value_at(weight: Any, at: At) -> Array:
    """The number that a guide's argument is at this point: itself, or its function of `at`."""
    if callable(weight):
        answer: Any = weight(at)
        return answer
    return number(weight)
