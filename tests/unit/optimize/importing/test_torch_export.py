"""Architectures without a builder go through torch, and are held to the same parity."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_checkpoints import HIDDEN, edit_json, write_sentence_modules

from tremplin.errors import IncompleteSource, MissingExtra
from tremplin.optimize.importing import Task, import_model

MEAN = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}


def test_missing_extra_says_how_to_install(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_json(classifier / "config.json", model_type="albert")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"'albert'.*pip install 'tremplin\[optimize\]'"):
        import_model(classifier, tmp_path / "imported")


@pytest.fixture
def needs_exporter() -> None:
    pytest.importorskip("torch", reason="torch does the export")
    pytest.importorskip("onnxscript", reason="torch.onnx writes through onnxscript")


@pytest.mark.slow
@pytest.mark.usefixtures("needs_exporter")
def test_albert_classifier(save_transformers_model: Any, tmp_path: Path) -> None:
    folder = save_transformers_model(
        "albert", "ModelForSequenceClassification", embedding_size=16, id2label={0: "no", 1: "yes"}
    )
    model = import_model(folder, tmp_path / "imported")
    graph = onnx.load(model.onnx_path)
    assert model.built_by == "torch.onnx"
    assert "no builder for 'albert'" in " ".join(model.notes)
    assert [entry.name for entry in graph.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [entry.name for entry in graph.graph.output] == ["logits", "probabilities"]
    assert model.labels == ("no", "yes")
    assert model.parity.max_abs_difference <= 2e-5
    assert [path.name for path in sorted(model.onnx_path.parent.iterdir())] == [
        "model.onnx",
        "tokenizer.json",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("needs_exporter")
def test_deberta_sentence_model(save_transformers_model: Any, tmp_path: Path) -> None:
    """The tracing exporter freezes this one at a length; the one used here does not."""
    pytest.importorskip("sentence_transformers", reason="the original to compare with")
    folder = save_transformers_model(
        "deberta-v2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16,
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    write_sentence_modules(folder, MEAN, ("Normalize", {}), max_seq_length=50)
    model = import_model(folder, tmp_path / "imported")
    assert model.built_by == "torch.onnx"
    assert model.embedding_dim == HIDDEN
    assert model.parity.max_abs_difference <= 1e-5
    assert "sentence-transformers" in model.parity.reference_name


@pytest.mark.slow
@pytest.mark.usefixtures("needs_exporter")
@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("ModelForTokenClassification", Task.TOKEN_CLASSIFICATION),
        ("ModelForQuestionAnswering", Task.QUESTION_ANSWERING),
    ],
)
def test_modernbert_token_heads(head: str, task: Task, save_transformers_model: Any, tmp_path: Path) -> None:
    folder = save_transformers_model(
        "modernbert", head, pad_token_id=0, local_attention=8, cls_token_id=2, sep_token_id=3,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    model = import_model(folder, tmp_path / "imported")
    assert model.task is task
    assert model.parity.max_abs_difference <= 2e-5


@pytest.mark.slow
@pytest.mark.usefixtures("needs_exporter")
@pytest.mark.parametrize(
    ("head", "config", "options", "outputs"),
    [
        ("ModelForSequenceClassification", {"num_labels": 1}, {}, ["scores"]),
        ("ModelForMaskedLM", {}, {"task": Task.SPARSE_EMBEDDING}, ["sparse_embedding"]),
        ("Model", {}, {"token_embeddings": True}, ["embedding", "token_embeddings"]),
    ],
)
def test_albert_ranks_and_embeds_tokens(
    head: str,
    config: dict[str, Any],
    options: dict[str, Any],
    outputs: list[str],
    save_transformers_model: Any,
    tmp_path: Path,
) -> None:
    folder = save_transformers_model("albert", head, embedding_size=16, **config)
    model = import_model(folder, tmp_path / "imported", **options)
    assert [entry.name for entry in onnx.load(model.onnx_path).graph.output] == outputs
    assert model.built_by == "torch.onnx"
    assert model.parity.max_abs_difference <= 2e-5


@pytest.mark.slow
@pytest.mark.usefixtures("needs_exporter")
def test_random_head_is_refused(save_transformers_model: Any, tmp_path: Path) -> None:
    """transformers would fill the missing head with random numbers and answer without a word."""
    folder = save_transformers_model("albert", embedding_size=16)
    with pytest.raises(IncompleteSource, match=r"classifier\."):
        import_model(folder, tmp_path / "imported", task=Task.CLASSIFICATION)
