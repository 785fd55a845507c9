r"""Prompts with weights: (more), [less], (this much:1.3), and what they do to an embedding.

    (cat)        1.1 times            ((cat))   1.1^2 times
    [cat]        1 / 1.1 times        (cat:0.6) 0.6 times
    \( \) \[ \]  the characters themselves

The weight of a word multiplies its token's embedding, and the whole is brought back to the mean
that it had, so that a weight changes what is talked about rather than how loudly.

The syntax is that of the web UI of AUTOMATIC1111, and so is the rule of the mean.
"""

import re
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

_PIECE = re.compile(r"\\[()\[\]\\]|[()\[\]]|:\s*[+-]?[\d.]+\s*\)|[^\\()\[\]:]+|:|\\")
STEP = 1.1
"""What one bracket multiplies by."""


class Fragment(NamedTuple):
    """A stretch of a prompt and its weight."""

    text: str
    weight: float


def fragments(prompt: str) -> list[Fragment]:
    """Split a prompt into stretches of one weight.

    Raises:
      ValueError: a bracket that is not closed, or closed twice.

    >>> fragments("a (red:1.5) cat")
    [Fragment(text='a ', weight=1.0), Fragment(text='red', weight=1.5), ...]
    """
    found: list[Fragment] = []
    open_: list[tuple[str, int]] = []
    for piece in _PIECE.findall(prompt):
        if piece in ("(", "["):
            open_.append((piece, len(found)))
        elif piece in (")", "]") or (piece.startswith(":") and piece.endswith(")")):
            _close(prompt, piece, open_, found)
        else:
            found.append(Fragment(re.sub(r"\\([()\[\]\\])", r"\1", piece), 1.0))
    if open_:
        raise ValueError(
            f"prompt {prompt!r}: a {open_[-1][0]!r} is not closed; write \\{open_[-1][0]} for the "
            "character itself"
        )
    return _joined(found)


def _close(prompt: str, piece: str, open_: list[tuple[str, int]], found: list[Fragment]) -> None:
    wanted = "[" if piece == "]" else "("
    if not open_ or open_[-1][0] != wanted:
        raise ValueError(
            f"prompt {prompt!r}: {piece[-1]!r} closes nothing; write \\{piece[-1]} for the "
            "character itself"
        )
    _, first = open_.pop()
    factor = {")": STEP, "]": 1 / STEP}.get(piece)
    if factor is None:
        try:
            factor = float(piece[1:-1])
        except ValueError:
            raise ValueError(f"prompt {prompt!r}: {piece[1:-1]!r} is no weight") from None
    found[first:] = [Fragment(f.text, f.weight * factor) for f in found[first:]]


def _joined(found: list[Fragment]) -> list[Fragment]:
    joined: list[Fragment] = []
    for text, weight in found:
        if joined and joined[-1].weight == weight:
            text = joined.pop().text + text
        joined.append(Fragment(text, weight))
    return joined or [Fragment("", 1.0)]


def plain(prompt: str) -> str:
    """The prompt without its weights.

    >>> plain("a (red:1.5) cat")
    'a red cat'
    """
    return "".join(f.text for f in fragments(prompt))


def weigh(embeddings: Float[Array, "b n d"], weights: Float[Array, "b n"]) -> Float[Array, "b n d"]:
    """Multiply each token's embedding by its weight and restore the mean, per sample.

    Weights that are all 1 change no bit.

    >>> e = jnp.array([[[1.0], [3.0]]])
    >>> float(weigh(e, jnp.array([[1.0, 2.0]])).mean().round(3))
    2.0
    """
    bent = embeddings * weights[:, :, None]
    mean, found = (jnp.mean(e, axis=(1, 2), keepdims=True) for e in (embeddings, bent))
    restored = bent * jnp.where(found != 0, mean / jnp.where(found != 0, found, 1.0), 1.0)
    return jnp.where(jnp.all(weights == 1, axis=1)[:, None, None], embeddings, restored)
