"""Tokenisers against transformers' (CLIP) and sentencepiece (T5); prompts that are too long."""

import json
import warnings

import numpy as np
import pytest

from jaxdiff.pretrained.sentencepiece import read_pieces
from jaxdiff.pretrained.tokens import read_words
from tests.pretrained.parity import ROOT

CLIP = read_words(ROOT / "clip_words")


@pytest.mark.parametrize("name", ["clip_words", "t5_words"])
def test_numbers_are_those_of_the_originals(name):
    expected = json.loads((ROOT / name / "expected.json").read_text())
    words = read_words(ROOT / name)
    for text, ids in zip(expected["texts"], expected["ids"], strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = words([text], weighted=False)
        assert found.ids.shape == (1, 1, len(ids))
        assert found.ids[0, 0].tolist() == ids, text


def test_padding_and_mask():
    found = CLIP(["a photo", ""])
    assert found.ids.shape == found.mask.shape == found.weights.shape == (2, 1, 77)
    assert found.mask.sum(axis=2).tolist() == [[4], [2]]
    assert (found.ids[1, 0, 1:] == CLIP.pad).all()


def test_weights_lie_on_their_words():
    found = CLIP(["a (photo:1.5) of"])
    plain = CLIP(["a photo of"], weighted=False)
    assert (found.ids == plain.ids).all()
    assert found.weights[0, 0, :5].tolist() == [1.0, 1.0, 1.5, 1.0, 1.0]
    assert (found.weights[0, 0, 5:] == 1).all()


def test_a_long_prompt_is_cut_with_a_warning_that_shows_what_was_lost():
    prompt = "a photo " * 50 + "of the end"
    with pytest.warns(UserWarning, match=r"longer than the 77 tokens.*of the end"):
        found = CLIP([prompt])
    assert found.ids.shape == (1, 1, 77)
    assert found.ids[0, 0, -1] == CLIP.after[0]


def test_a_long_prompt_in_windows_loses_nothing():
    prompt = "a photo " * 50 + "of the end"
    found = CLIP([prompt, "a cat"], windows=True)
    assert found.ids.shape == (2, 2, 77)
    inside = [row[1:76][mask[1:76]] for row, mask in zip(found.ids[0], found.mask[0])]
    whole = np.concatenate(inside)
    whole = whole[whole != CLIP.after[0]]
    assert whole.tolist() == CLIP.inner.encode(prompt, add_special_tokens=False).ids


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="holds no tokeniser"):
        read_words(tmp_path)
    with pytest.raises(TypeError, match="give a list of strings"):
        CLIP("a cat")
    (tmp_path / "spiece.model").write_bytes(b"\x80\x04not a model")
    with pytest.raises(ValueError, match="no SentencePiece model"):
        read_words(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -7])
def test_a_truncated_model_of_pieces(keep):
    blob = (ROOT / "t5_words" / "spiece.model").read_bytes()
    with pytest.raises(ValueError, match="no SentencePiece model"):
        read_pieces(blob[:keep])
