"""Makes the tokenizer that travels with the graph: no padding, cut at the model's limit, proven to fit.

Published tokenizer.json files often carry settings of whoever saved them: the bundled model's pads every text
to 128 tokens and cuts there, so a 12-token query would cost 128 and a 200-token text would lose its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tremplin.errors import IncompleteSource, TokenizerMismatch
from tremplin.optimize.importing.checkpoint import Checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Tables are often padded up to a multiple of 64 or 128 rows for matrix kernels; more unused rows than this
# means that the tokenizer lost entries, or is another model's.
ROW_PADDING = 128

# transformers writes 10**30 for "no limit".
NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class PreparedTokenizer:
    """A tokenizer ready to be written beside the graph."""

    tokenizer: Tokenizer
    max_tokens: int
    padding_id: int


def token_limit(checkpoint: Checkpoint, max_positions: int) -> int:
    """Return the longest text the model reads, special tokens included.

    sentence-transformers' max_seq_length decides when it is there, else the tokenizer's model_max_length; in
    both cases never more than the positions the network has.
    """
    declared = checkpoint.sentence_config.get("max_seq_length") or checkpoint.tokenizer_config.get(
        "model_max_length"
    )
    limit = int(declared) if isinstance(declared, int | float) and 0 < declared < NO_LIMIT else max_positions
    return min(limit, max_positions)


def prepare_tokenizer(checkpoint: Checkpoint, *, max_tokens: int, embedding_rows: int) -> PreparedTokenizer:
    """Return the source's tokenizer without padding and cut at ``max_tokens``.

    Raises IncompleteSource when the file cannot be read, TokenizerMismatch when its ids do not fit
    ``embedding_rows``, when a special token is missing or when its vocabulary was cut.
    """
    from tokenizers import normalizers

    tokenizer = read_tokenizer(checkpoint.tokenizer_path)
    _check_fit(tokenizer, checkpoint, embedding_rows)
    if checkpoint.sentence_config.flag("do_lower_case"):
        steps = [normalizers.Lowercase()] + ([tokenizer.normalizer] if tokenizer.normalizer is not None else [])
        tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_tokens)
    return PreparedTokenizer(tokenizer, max_tokens, _padding_id(tokenizer, checkpoint))


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in ``path``; raises IncompleteSource when it is missing or damaged."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise IncompleteSource(f"{path} is missing.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise IncompleteSource(f"{path} is not a tokenizer ({error}). Fetch it again.") from error


def _check_fit(tokenizer: Tokenizer, checkpoint: Checkpoint, rows: int) -> None:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise TokenizerMismatch(f"{checkpoint.tokenizer_path} has an empty vocabulary.")
    highest = max(vocabulary.values())
    if highest >= rows:
        raise TokenizerMismatch(
            f"{checkpoint.tokenizer_path} gives ids up to {highest}, but the model has {rows} embedding rows. "
            "The tokenizer belongs to another model, or tokens were added without resizing the embeddings."
        )
    if len(vocabulary) <= rows - ROW_PADDING:
        raise TokenizerMismatch(
            f"{checkpoint.tokenizer_path} knows {len(vocabulary)} tokens, but the model has {rows} embedding "
            f"rows: {rows - len(vocabulary)} rows could never be used. The vocabulary was cut, or is another's."
        )
    missing = [token for token in _special_tokens(checkpoint) if token not in vocabulary]
    if missing:
        raise TokenizerMismatch(
            f"{checkpoint.tokenizer_path} lacks the special tokens {', '.join(missing)} that "
            f"{checkpoint.tokenizer_config.path.name} names."
        )
    if not tokenizer.encode("a").ids:
        raise TokenizerMismatch(f"{checkpoint.tokenizer_path} turns 'a' into no token at all.")


def _special_tokens(checkpoint: Checkpoint) -> list[str]:
    """The special tokens that the tokenizer's configuration names; entries are strings or objects."""
    named = []
    for role in ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token"):
        value = checkpoint.tokenizer_config.get(role)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            named.append(content)
    return named


def _padding_id(tokenizer: Tokenizer, checkpoint: Checkpoint) -> int:
    value = checkpoint.tokenizer_config.get("pad_token")
    content = value.get("content") if isinstance(value, dict) else value
    found = tokenizer.token_to_id(content) if isinstance(content, str) else None
    return found if found is not None else checkpoint.config.integer("pad_token_id", default=0)
