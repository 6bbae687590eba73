"""Text to token ids, with the checks a tokenizer does not make itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from tremplin.errors import EmptyText, IncompleteSource, InvalidText, TextTooLong, TokenizerMismatch
from tremplin.registry.manifest import Interface
from tremplin.serve.work import Tokens

# A NUL ends strings in C code further down, and a lone surrogate cannot be written as UTF-8.
UNUSABLE = re.compile("[\x00\ud800-\udfff]")

# Longer texts are cut before they are tokenized: no token is longer in practice, and time stays bounded.
MAX_CHARACTERS_PER_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """Some texts as the engine reads them."""

    rows: list[Tokens]
    is_truncated: list[bool]
    """For each text whether it had more tokens than the model reads and was cut."""

    @property
    def ids(self) -> list[Sequence[int]]:
        """Token ids of each text."""
        return [row.ids for row in self.rows]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(row.ids) for row in self.rows]


class TextTokenizer:
    """The tokenizer of one version. Thread-safe: nothing changes after construction."""

    def __init__(self, path: Path, interface: Interface) -> None:
        """Load ``path``; raises IncompleteSource or TokenizerMismatch when it does not fit the graph."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise IncompleteSource(f"The tokenizer file cannot be read: {error}") from None
        self._interface = interface
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(interface.max_tokens)
        self._cut = interface.max_tokens * MAX_CHARACTERS_PER_TOKEN
        self._check_vocabulary()

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise EmptyText or InvalidText for the first text that cannot be read. Messages never hold the text."""
        for row, text in enumerate(texts):
            self._check_text(text, row)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the tokens of each text, special tokens included; raises what ``check_texts`` raises."""
        self.check_texts(texts)
        encodings = self._tokenizer.encode_batch_fast([text[: self._cut] for text in texts])
        rows = [Tokens(encoding.ids) for encoding in encodings]
        return Encoded(rows, self._truncated(encodings, rows, list(map(len, texts))))

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> Encoded:
        """Return the tokens of each pair of texts, the longer one cut first where both do not fit."""
        self.check_texts([text for pair in pairs for text in pair])
        encodings = self._tokenizer.encode_batch_fast(
            [(first[: self._cut], second[: self._cut]) for first, second in pairs]
        )
        rows = [Tokens(encoding.ids, encoding.type_ids) for encoding in encodings]
        longest = [max(len(first), len(second)) for first, second in pairs]
        return Encoded(rows, self._truncated(encodings, rows, longest))

    def refuse_truncated(self, is_truncated: Sequence[bool], numbers: Sequence[int]) -> None:
        """Raise TextTooLong for the first text that was cut; ``numbers`` are the texts' places in the request."""
        if True in is_truncated:
            row = numbers[list(is_truncated).index(True)]
            raise TextTooLong(
                f"Text {row} has more than the {self._interface.max_tokens} tokens this model reads. "
                "Shorten it, or let the server truncate it.",
                pointer=f"/{row}",
            )

    def _truncated(
        self, encodings: Sequence[Encoding], rows: Sequence[Tokens], characters: list[int]
    ) -> list[bool]:
        full = self._interface.max_tokens
        # Only a row that is exactly full can overflow; asking the others would cost a call each.
        return [
            length > self._cut or (len(row.ids) == full and bool(encoding.overflowing))
            for encoding, row, length in zip(encodings, rows, characters, strict=True)
        ]

    def tokens(self, text: str, *, add_special_tokens: bool = True) -> list[tuple[int, str, int, int, bool]]:
        """Return (id, text of the token, start, end, is_special) of each token, by character offsets."""
        self._check_text(text, 0)
        encoding = self._tokenizer.encode(text[: self._cut], add_special_tokens=add_special_tokens)
        return [
            (token_id, token, start, end, bool(special))
            for token_id, token, (start, end), special in zip(
                encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True
            )
        ]

    def check_ids(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return token ids a caller sent, refused when one is not in the vocabulary or a row is too long."""
        checked = []
        for row, ids in enumerate(rows):
            if not ids:
                raise EmptyText(f"Input {row} has no token.", pointer=f"/{row}")
            if len(ids) > self._interface.max_tokens:
                raise TextTooLong(
                    f"Input {row} has {len(ids)} tokens; this model reads {self._interface.max_tokens}.",
                    pointer=f"/{row}",
                )
            if min(ids) < 0 or max(ids) >= self._interface.vocab_size:
                raise InvalidText(
                    f"Input {row} holds a token id outside 0..{self._interface.vocab_size - 1}.",
                    pointer=f"/{row}",
                )
            checked.append(list(ids))
        return checked

    def _check_text(self, text: str, row: int) -> None:
        if not text or text.isspace():
            raise EmptyText(f"Text {row} is empty; send at least one character.", pointer=f"/{row}")
        if (found := UNUSABLE.search(text)) is not None:
            kind = "a NUL character" if found.group() == "\x00" else "half of a surrogate pair"
            raise InvalidText(
                f"Text {row} holds {kind} at character {found.start()}, which is not text. Remove it.",
                pointer=f"/{row}",
            )

    def _check_vocabulary(self) -> None:
        highest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= self._interface.vocab_size:
            raise TokenizerMismatch(
                f"The tokenizer gives ids up to {highest}, but the model has {self._interface.vocab_size} rows "
                "in its word table. Use the tokenizer.json the model was trained with."
            )
