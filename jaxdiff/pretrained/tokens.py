"""From text to token numbers, by the tokeniser in a checkpoint's folder.

Three layouts: tokenizer.json; vocab.json and merges.txt (CLIP); spiece.model (T5). A prompt that is
too long is never cut without a word: it is laid out in several windows, or cut with a warning that
shows what was lost.
"""

import json
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Bool, Float, Int
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from jaxdiff.pipelines.prompts import fragments
from jaxdiff.pretrained.sentencepiece import CONTROL, UNKNOWN, read_pieces

_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokens(NamedTuple):
    """Token numbers in k windows of n, which of them count, and their weights."""

    ids: Int[np.ndarray, "b k n"]
    mask: Bool[np.ndarray, "b k n"]
    weights: Float[np.ndarray, "b k n"]


class Words(NamedTuple):
    """A tokeniser: `inner` of the library, what stands around a text, and how long it may be."""

    inner: tokenizers.Tokenizer
    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int
    length: int

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        length: int | None = None,
        weighted: bool = True,
        windows: bool = False,
    ) -> Tokens:
        """Encode prompts, padded to one length.

        Args:
          prompts: texts, with weights in the syntax of `pipelines.prompts`.
          length: n, of a window; by default what the tokeniser says (77 for CLIP).
          weighted: whether brackets mean weights.
          windows: lay a long prompt out in several windows; else it is cut with a warning.

        Raises:
          TypeError: if prompts is one string.
        """
        if isinstance(prompts, str):
            raise TypeError(f"prompts is the string {prompts!r}: give a list of strings")
        n = length or self.length
        room = n - len(self.before) - len(self.after)
        rows = [self._pieces(prompt, weighted) for prompt in prompts]
        most = max((len(ids) for ids, _ in rows), default=0)
        k = max(1, -(-most // room)) if windows else 1
        for prompt, (ids, _) in zip(prompts, rows):
            if len(ids) > k * room:
                self._warn(prompt, ids[k * room :], n)
        laid = [[self._window(ids, w, i, room, n) for i in range(k)] for ids, w in rows]
        ids, mask, weights = (np.array([[w[j] for w in row] for row in laid]) for j in range(3))
        shape = (len(rows), k, n)
        return Tokens(
            ids.reshape(shape).astype(np.int32),
            mask.reshape(shape).astype(bool),
            weights.reshape(shape).astype(np.float32),
        )

    def _pieces(self, prompt: str, weighted: bool) -> tuple[list[int], list[float]]:
        parts = fragments(prompt) if weighted else [(prompt, 1.0)]
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in parts:
            found = self.inner.encode(text, add_special_tokens=False).ids
            ids += found
            weights += [weight] * len(found)
        return ids, weights

    def _window(
        self, ids: list[int], weights: list[float], i: int, room: int, n: int
    ) -> tuple[list[int], list[bool], list[float]]:
        inside = slice(i * room, (i + 1) * room)
        row = [*self.before, *ids[inside], *self.after]
        bent = [1.0] * len(self.before) + weights[inside] + [1.0] * len(self.after)
        left = n - len(row)
        return row + [self.pad] * left, [True] * len(row) + [False] * left, bent + [1.0] * left

    def _warn(self, prompt: str, lost: list[int], n: int) -> None:
        text = self.inner.decode(lost, skip_special_tokens=False).replace("</w>", " ").strip()
        warnings.warn(
            f"the prompt {prompt[:40]!r}... is longer than the {n} tokens of the text encoder; "
            f"this was cut off: {text!r}. Shorten it, or give windows=True",
            stacklevel=3,
        )


def read_words(folder: str | pathlib.Path) -> Words:
    """The tokeniser in a folder of a checkpoint.

    Raises:
      ValueError: if there is none, or it cannot be read.
    """
    folder = pathlib.Path(folder)
    settings = _json(folder / "tokenizer_config.json") | _json(folder / "special_tokens_map.json")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        inner, names = _clip(folder), (["<|startoftext|>"], ["<|endoftext|>"], "<|endoftext|>")
    elif (folder / "spiece.model").is_file():
        inner, names = _unigram(folder / "spiece.model"), ([], ["</s>"], "<pad>")
    elif (folder / "tokenizer.json").is_file():
        inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        names = _around(inner)
    else:
        raise ValueError(
            f"{folder} holds no tokeniser: tokenizer.json, vocab.json with merges.txt, or "
            "spiece.model is needed"
        )
    inner.no_padding()
    inner.no_truncation()
    pad = _word(settings.get("pad_token")) or names[2]
    before, after = (tuple(_number(inner, word, folder) for word in words) for words in names[:2])
    most = settings.get("model_max_length", 512)
    length = int(most) if most < 1e6 else 512
    return Words(inner, before, after, _number(inner, pad, folder), length)


def _number(inner: tokenizers.Tokenizer, word: str, folder: pathlib.Path) -> int:
    found = inner.token_to_id(word)
    if found is None:
        raise ValueError(f"{folder}: the vocabulary lacks {word!r}; fetch it again")
    return found


def _json(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _word(entry: Any) -> str | None:
    return entry.get("content") if isinstance(entry, dict) else entry


def _clip(folder: pathlib.Path) -> tokenizers.Tokenizer:
    """Byte pairs on lower-case words, as in Radford et al. 2021, arXiv 2103.00020."""
    model = models.BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token="<|endoftext|>",
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
    )
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return made


def _unigram(path: pathlib.Path, extra: int = 100) -> tokenizers.Tokenizer:
    """Pieces by their likelihood, as in Kudo 2018, arXiv 1804.10959, with T5's extra words."""
    pieces = read_pieces(path.read_bytes())
    vocabulary = list(zip(pieces.texts, pieces.scores))
    unknown = next(i for i, kind in enumerate(pieces.kinds) if kind == UNKNOWN)
    vocabulary += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra))]
    made = tokenizers.Tokenizer(models.Unigram(vocabulary, unknown, False))
    steps: list[Any] = [normalizers.Precompiled(pieces.characters)] if pieces.characters else []
    steps += [normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), " ")]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    controls = [t for t, kind in zip(pieces.texts, pieces.kinds) if kind in (CONTROL, UNKNOWN)]
    made.add_special_tokens(controls + [f"<extra_id_{i}>" for i in range(extra)])
    return made


def _around(inner: tokenizers.Tokenizer) -> tuple[list[str], list[str], str]:
    """What a tokenizer.json puts around a text, seen by encoding one."""
    bare = inner.encode("a", add_special_tokens=False).tokens
    full = inner.encode("a").tokens
    padding = (inner.padding or {}).get("pad_token")
    if not bare or bare[0] not in full:
        return [], [], padding or "<pad>"
    first = full.index(bare[0])
    before, after = full[:first], full[first + len(bare) :]
    known = ("[PAD]", "<pad>", "<|endoftext|>")
    guess = next((word for word in known if inner.token_to_id(word) is not None), "<pad>")
    return before, after, padding or guess
