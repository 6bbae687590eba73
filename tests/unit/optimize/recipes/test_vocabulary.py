"""Trimming a vocabulary: nothing that could be read becomes unknown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tremplin.errors import PassFailed
from tremplin.optimize.compress.vocabulary import resegmented, trim_vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS),
    "hello", "world", "##ing", "play", "card", "##board", "balance", "transfer",
]  # fmt: skip


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def test_pieces_of_the_texts_stay_and_others_go() -> None:
    trimmed = trim_vocabulary(word_piece().to_str(), ["play the card", "playing"], words=4 + 52 + 3)
    vocabulary = Tokenizer.from_str(trimmed.tokenizer).get_vocab()
    assert {"play", "card", "##ing", "[CLS]", "a", "##z"} <= set(vocabulary)
    assert "transfer" not in vocabulary
    assert sorted(vocabulary.values()) == list(range(len(trimmed.kept)))


def test_rows_kept_are_those_of_the_same_pieces() -> None:
    before = word_piece()
    trimmed = trim_vocabulary(before.to_str(), ["cardboard balance"], words=60)
    after = Tokenizer.from_str(trimmed.tokenizer)
    for piece, new in after.get_vocab().items():
        assert before.token_to_id(piece) == trimmed.kept[new]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=LETTERS + " ", min_size=1, max_size=40))
def test_no_text_of_known_letters_becomes_unknown(text: str) -> None:
    before = word_piece()
    after = Tokenizer.from_str(trim_vocabulary(before.to_str(), ["play"], words=0).tokenizer)
    tokens = after.encode(text).tokens
    assert "[UNK]" not in tokens
    assert tokens[0] == "[CLS]"
    assert tokens[-1] == "[SEP]"
    joined = "".join(token.removeprefix("##") for token in tokens[1:-1])
    assert joined == text.replace(" ", "")


def test_special_tokens_have_their_new_ids() -> None:
    trimmed = trim_vocabulary(word_piece().to_str(), ["world"], words=0)
    after = Tokenizer.from_str(trimmed.tokenizer)
    ids = after.encode("world").ids
    assert ids[0] == after.token_to_id("[CLS]")
    assert ids[-1] == after.token_to_id("[SEP]")
    assert trimmed.kept[ids[0]] == 2


def test_a_unigram_vocabulary_is_trimmed_as_well() -> None:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -5.0) for c in "▁" + LETTERS)]
    pieces += [("▁hello", -2.0), ("▁world", -2.0), ("ing", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    trimmed = trim_vocabulary(tokenizer.to_str(), ["hello"], words=len(pieces) - 2)
    after = Tokenizer.from_str(trimmed.tokenizer)
    assert after.encode("hello").tokens == ["▁hello"]
    assert after.encode("world").tokens == ["▁", *"world"]
    assert "<unk>" not in after.encode("sing").tokens


def test_a_kind_that_cannot_be_trimmed_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    with pytest.raises(PassFailed, match="BPE"):
        trim_vocabulary(tokenizer.to_str(), ["ab"], words=2)


def test_texts_read_in_other_pieces_are_counted(tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    word_piece().save(str(before))
    after.write_text(trim_vocabulary(before.read_text(), ["hello"], words=0).tokenizer)
    assert resegmented(before, after, ["xyz", "transfer", "balance", "q"]) == 0.5
    assert np.isfinite(json.loads(after.read_text())["model"]["vocab"]["a"])
