"""Small checkpoints with random weights, written with or without transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import (
    HEADS,
    HIDDEN,
    LAYERS,
    POSITIONS,
    WIDE,
    write_bert,
    write_sentence_modules,
    write_tokenizer,
)


@pytest.fixture
def bare_bert(tmp_path: Path) -> Path:
    """A bare encoder."""
    return write_bert(tmp_path / "bare")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A classifier of five labels."""
    return write_bert(tmp_path / "classifier", labels=5)


@pytest.fixture
def sentence_bert(tmp_path: Path) -> Path:
    """A sentence-transformers model: mean pooling, unit length, 40 tokens."""
    folder = write_bert(tmp_path / "sentence")
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    write_sentence_modules(folder, pooling, ("Normalize", {}), max_seq_length=40)
    return folder


SaveModel = Callable[..., Path]


@pytest.fixture
def save_transformers_model(tmp_path: Path) -> Iterator[SaveModel]:
    """Return save(family, head, **config): a tiny model of transformers' own making, weights far from zero."""
    torch = pytest.importorskip("torch", reason="the models to compare with are made by torch")
    transformers = pytest.importorskip(
        "transformers", reason="the models to compare with are made by transformers"
    )

    def save(family: str, head: str = "Model", **config: object) -> Path:
        folder = tmp_path / f"{family}-{head}"
        folder.mkdir()
        like_roberta = family in ("roberta", "xlm-roberta", "camembert", "mpnet")
        vocabulary = write_tokenizer(folder, like_roberta=like_roberta)
        sizes: dict[str, object] = {
            "vocab_size": vocabulary,
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": WIDE,
            "max_position_embeddings": POSITIONS,
        }
        if family == "distilbert":
            sizes["hidden_dim"] = sizes.pop("intermediate_size")
        made = transformers.AutoConfig.for_model(family, **(sizes | config))
        torch.manual_seed(11)
        model_class = getattr(transformers, f"AutoModel{head.removeprefix('Model')}")
        model = model_class.from_config(made).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                offset = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.normal_(offset, 0.2)
        model.save_pretrained(folder)
        return folder

    with transformers_quiet(transformers):
        yield save


class transformers_quiet:  # noqa: N801 (a context manager used like a function)
    """Silence progress bars, which would write over pytest's own."""

    def __init__(self, transformers: Any) -> None:
        self._logging = transformers.logging

    def __enter__(self) -> None:
        self._logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.enable_progress_bar()
