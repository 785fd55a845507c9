"""Small vocabularies, and what transformers and sentencepiece make of awkward texts with them.

CLIP's is the beginning of the public list of merges; T5's is trained on the spot.
"""

import gzip
import io
import json
import pathlib
from typing import Any

TEXTS = [
    "a photo of a cat",
    "  A  Photo\tof\nthe CAT's  house!! ",
    "",
    "naïve café, Übergrößen; 東京 and 12345 (it's 50% off) https://a.b/c?d=e",
    "don't we'll they've I'm you're she'd",
    "<|endoftext|> in the middle",
    "emoji 🙂 and ½ ﬁ ligature",
]
MERGES = 800


def make(root: pathlib.Path, seed: int = 0, *, merges: pathlib.Path | None = None) -> None:
    """Write clip_words/ and t5_words/. `merges` is CLIP's bpe_simple_vocab_16e6.txt.gz."""
    if merges is not None:
        _clip_files(root / "clip_words", merges)
    _clip(root / "clip_words")
    _t5(root / "t5_words")


def _clip_files(folder: pathlib.Path, source: pathlib.Path) -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = gzip.decompress(source.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters]
    words += ["".join(line.split()) for line in lines] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    settings = {"model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _clip(folder: pathlib.Path) -> None:
    from transformers import CLIPTokenizer

    words: Any = CLIPTokenizer.from_pretrained(folder)
    found = words(TEXTS, padding="max_length", max_length=77, truncation=True)["input_ids"]
    (folder / "expected.json").write_text(json.dumps({"texts": TEXTS, "ids": found}) + "\n")


def _t5(folder: pathlib.Path) -> None:
    import sentencepiece

    text = [line for line in pathlib.Path(__file__).read_text().split("\n") if line] + TEXTS
    made = io.BytesIO()
    rules = folder / "rules.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [("\t", " "), ("\n", " "), ("ﬁ", "fi"), ("½", "1/2")]
    rules.write_text("".join(f"{_codes(a)}\t{_codes(b)}\n" for a, b in pairs))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 4),
        model_writer=made,
        vocab_size=200,
        hard_vocab_limit=False,
        model_type="unigram",
        normalization_rule_tsv=str(rules),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    rules.unlink()
    (folder / "spiece.model").write_bytes(made.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    words = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    rows = [words.encode(text)[:63] + [1] for text in TEXTS]
    found = [row + [0] * (64 - len(row)) for row in rows]
    (folder / "expected.json").write_text(json.dumps({"texts": TEXTS, "ids": found}) + "\n")


def _codes(text: str) -> str:
    return " ".join(f"{ord(letter):X}" for letter in text)
