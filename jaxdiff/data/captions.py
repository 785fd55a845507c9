"""Captions files: which text belongs to which image file.

captions.txt      a.png<TAB>a grey cat                    one line per image, UTF-8
captions.jsonl    {"file": "a.png", "text": "a grey cat"}
"""

import json
import pathlib

_NAMES = ("captions.txt", "captions.jsonl")


def beside(root: pathlib.Path) -> pathlib.Path | None:
    """The captions file in a folder, or None. Errors: ValueError if there are both kinds."""
    found = [root / name for name in _NAMES if (root / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{root} holds {' and '.join(_NAMES)}: name one, captions=...")
    return found[0] if found else None


def read_captions(path: pathlib.Path) -> list[tuple[str, str]]:
    """Pairs (file, text) in sorted order; by the suffix .jsonl JSON, otherwise tab-separated.

    A file may have several captions: it then comes several times.
    Errors: FileNotFoundError; ValueError for an empty file, or a malformed line, by its number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"captions={str(path)!r}: there is no such file")
    parse = _json_line if path.suffix == ".jsonl" else _tab_line
    # Not splitlines(): JSON strings may hold other line separators of Unicode as they are.
    lines = path.read_text("utf-8-sig").split("\n")
    pairs = [parse(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise ValueError(f"{path} is empty: it needs one line per image, file<TAB>text or JSON")
    return sorted(pairs)


def _tab_line(line: str, where: str) -> tuple[str, str]:
    file, tab, text = line.partition("\t")
    if not (file.strip() and tab):
        raise ValueError(f"{where}: {line[:60]!r} is not file<TAB>text, with one tab between them")
    return file.strip(), text.strip()


def _json_line(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        file, text = entry["file"], entry["text"]
    except (ValueError, KeyError, TypeError):
        file = text = None
    if not (isinstance(file, str) and isinstance(text, str)):
        raise ValueError(f'{where}: {line[:60]!r} is not {{"file": "...", "text": "..."}}')
    return file, text
