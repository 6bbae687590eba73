"""Text to token ids: what is refused, what is cut, and that both are said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny_models
from tremplin.errors import BadInput, EmptyText, IncompleteSource, InvalidText, TextTooLong, TokenizerMismatch
from tremplin.serve.tokenize import MAX_CHARACTERS_PER_TOKEN, TextTokenizer

CUT = tiny_models.MAX_TOKENS * MAX_CHARACTERS_PER_TOKEN


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tiny_models.write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")
    return TextTokenizer(path, tiny_models.EMBEDDING)


def test_texts_become_ids_framed(tokenizer: TextTokenizer) -> None:
    encoded = tokenizer.encode(["alpha", "beta gamma", "unheard of"])
    assert encoded.ids == [[2, 4, 3], [2, 5, 6, 3], [2, 1, 1, 3]]
    assert encoded.lengths == [3, 4, 4]
    assert encoded.is_truncated == [False] * 3


def test_pairs_say_which_text_a_token_is_of(tmp_path: Path) -> None:
    path = tiny_models.write_tokenizer(tmp_path / "pairs.json", pairs=True)
    tokenizer = TextTokenizer(path, tiny_models.EMBEDDING)
    encoded = tokenizer.encode_pairs([("alpha", "beta gamma"), ("alpha " * 30, "beta")])
    assert list(encoded.rows[0].ids) == [2, 4, 3, 5, 6, 3]
    assert list(encoded.rows[0].types or ()) == [0, 0, 0, 1, 1, 1]
    assert encoded.is_truncated == [False, True]
    assert encoded.lengths == [6, tiny_models.MAX_TOKENS]
    assert encoded.rows[1].ids[-2] == 5, "the shorter text is whole"


def test_each_token_is_shown_with_its_place(tokenizer: TextTokenizer) -> None:
    assert tokenizer.tokens("beta  alpha") == [
        (2, "[CLS]", 0, 0, True), (5, "beta", 0, 4, False), (4, "alpha", 6, 11, False), (3, "[SEP]", 0, 0, True),
    ]  # fmt: skip
    assert [token[0] for token in tokenizer.tokens("beta", add_special_tokens=False)] == [5]


def test_a_text_that_just_fits_is_whole(tokenizer: TextTokenizer) -> None:
    words = ["alpha"] * (tiny_models.MAX_TOKENS - 2)
    encoded = tokenizer.encode([" ".join(words)])
    assert (encoded.lengths, encoded.is_truncated) == ([tiny_models.MAX_TOKENS], [False])
    encoded = tokenizer.encode([" ".join([*words, "beta"]), "alpha"])
    assert (encoded.lengths, encoded.is_truncated) == ([tiny_models.MAX_TOKENS, 3], [True, False])
    assert encoded.ids[0][-1] == tiny_models.VOCABULARY["[SEP]"], "the frame is not cut off"


def test_a_text_that_is_cut_is_said_to_be_or_refused(tokenizer: TextTokenizer) -> None:
    many, far = "alpha " * 50, "alpha" + " " * CUT + "beta"
    for text in (many, far):
        encoded = tokenizer.encode(["alpha", text])
        assert encoded.is_truncated == [False, True]
        with pytest.raises(TextTooLong, match="Text 7 has more than the 16 tokens") as raised:
            tokenizer.refuse_truncated(encoded.is_truncated, [5, 7])
        assert raised.value.pointer == "/7"
        tokenizer.refuse_truncated([False, False], [5, 7])


@pytest.mark.parametrize("text", ["", " ", "\n\t \r", "\u2003\u00a0"])
def test_nothing_is_refused(tokenizer: TextTokenizer, text: str) -> None:
    with pytest.raises(EmptyText, match="Text 1 is empty") as raised:
        tokenizer.encode(["alpha", text])
    assert raised.value.pointer == "/1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ab\0", "a NUL character at character 2"),
        ("\ud800", "half of a surrogate pair at character 0"),
        ("a\udfffb", "half of a surrogate pair at character 1"),
    ],
)
def test_what_is_not_text_is_refused(tokenizer: TextTokenizer, text: str, said: str) -> None:
    for call in (lambda: tokenizer.encode([text]), lambda: tokenizer.tokens(text)):
        with pytest.raises(InvalidText, match=said):
            call()


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_any_text_gives_ids_of_the_vocabulary_or_bad_input(tokenizer: TextTokenizer, texts: list[str]) -> None:
    try:
        encoded = tokenizer.encode(texts)
    except BadInput as refusal:
        message = str(refusal)
        assert not any(len(text) > 6 and text in message for text in texts)
        return
    assert len(encoded.rows) == len(texts)
    for ids, text in zip(encoded.ids, texts, strict=True):
        assert 2 <= len(ids) <= tiny_models.MAX_TOKENS
        assert all(0 <= token < len(tiny_models.VOCABULARY) for token in ids)
        assert tokenizer.check_ids([ids]) == [ids]
        assert tokenizer.encode([text]).ids == [ids], "a text's tokens depend on its neighbours"


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([[]], EmptyText),
        ([[2], []], EmptyText),
        ([[-1]], InvalidText),
        ([[9]], InvalidText),
        ([[10**30]], InvalidText),
        ([[2] * 17], TextTooLong),
    ],
)
def test_ids_that_the_model_does_not_know_are_refused(
    tokenizer: TextTokenizer, rows: list[list[int]], error: type[BadInput]
) -> None:
    with pytest.raises(error) as raised:
        tokenizer.check_ids(rows)
    assert raised.value.pointer == f"/{len(rows) - 1}"


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    path = tiny_models.write_tokenizer(tmp_path / "t.json", extra_words=["zeta"])
    with pytest.raises(TokenizerMismatch, match="ids up to 9, but the model has 9 rows"):
        TextTokenizer(path, tiny_models.EMBEDDING)
    TextTokenizer(path, replace(tiny_models.EMBEDDING, vocab_size=10))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"not JSON"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(IncompleteSource, match="cannot be read"):
        TextTokenizer(path, tiny_models.EMBEDDING)
    with pytest.raises(IncompleteSource):
        TextTokenizer(tmp_path / "missing.json", tiny_models.EMBEDDING)
