"""A SentencePiece model file, read without its library: a list of pieces and a normaliser.

The file is a protocol buffer: `pieces` (field 1: text 1, score 2, kind 3) and `normalizer_spec`
(field 3: its table of characters in field 2).

Reference: Kudo and Richardson 2018, arXiv 1808.06226.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple


class Pieces(NamedTuple):
    """The vocabulary in order, with log probabilities and kinds, and the table of characters."""

    texts: list[str]
    scores: list[float]
    kinds: list[int]
    characters: bytes


NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def read_pieces(blob: bytes) -> Pieces:
    """Read the content of a `spiece.model`.

    Raises:
      ValueError: if it is no such file.
    """
    texts, scores, kinds, characters = [], [], [], b""
    try:
        for number, value in _fields(blob):
            if number == 1:
                piece = dict(_fields(value))
                texts.append(piece[1].decode())
                scores.append(struct.unpack("<f", piece.get(2, b"\0" * 4))[0])
                kinds.append(piece.get(3, NORMAL))
            elif number == 3:
                characters = dict(_fields(value)).get(2, b"")
    except (IndexError, KeyError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"this is no SentencePiece model ({error}): fetch it again") from error
    if not texts:
        raise ValueError("this is no SentencePiece model: it holds no pieces; fetch it again")
    return Pieces(texts, scores, kinds, characters)


def _fields(blob: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: number and value (an integer, or bytes)."""
    place = 0
    while place < len(blob):
        tag, place = _varint(blob, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(blob, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, place = blob[place : place + size], place + size
        elif kind == 2:
            size, place = _varint(blob, place)
            value, place = blob[place : place + size], place + size
            if len(value) != size:
                raise IndexError("a field reaches beyond the end")
        else:
            raise IndexError(f"a field of the unknown kind {kind}")
        yield number, value


def _varint(blob: bytes, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = blob[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
