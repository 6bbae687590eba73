"""The bundled model, imported without torch, against sentence-transformers on a thousand real sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tremplin.optimize import bundled
from tremplin.optimize.importing import GraphFiles, ImportedModel, check_parity
from tremplin.optimize.importing.checkpoint import open_checkpoint
from tremplin.optimize.importing.numpy_reference import NumpyReference

pytestmark = pytest.mark.skipif(not bundled.is_installed(), reason=f"the bundled model: {bundled.INSTALL}")

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
SHIPPED = REPOSITORY / "src" / "tremplin" / "data"

# Different domains, lengths and languages, spread over each file; few of the long ones, which cost most.
SHARED_FILES = {
    "clinc150/test.jsonl": 450,
    "uci_sentiment/test.jsonl": 300,
    "sib200_fr/en_test.jsonl": 150,
    "sib200_fr/fr_test.jsonl": 150,
    "scifact/corpus.jsonl": 30,
    "cnil_faq_fr/corpus.jsonl": 30,
}
SHIPPED_FILES = {
    "evaluation/sentences.jsonl": 400,
    "support_desk/train.jsonl": 500,
    "support_desk/test.jsonl": 280,
}


def real_sentences() -> list[str]:
    """Return a thousand sentences and more, from the shared folder when it is there, else what is shipped."""
    folder, shares = (SHARED, SHARED_FILES) if SHARED.is_dir() else (SHIPPED, SHIPPED_FILES)
    sentences: list[str] = []
    for name, share in shares.items():
        path = folder / name
        texts = [json.loads(line)["text"] for line in path.read_text().split("\n") if line]
        sentences += texts[:: max(1, len(texts) // share)][:share]
    return sentences


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> ImportedModel:
    return bundled.import_bundled(tmp_path_factory.mktemp("minilm"))


def test_bundled_model_is_what_it_says(imported: ImportedModel) -> None:
    assert imported.max_tokens == bundled.MAX_TOKENS
    assert imported.embedding_dim == 384
    assert imported.vocab_size == 30522
    assert imported.source_sha256 == bundled.WEIGHTS_SHA256
    assert imported.built_by == "tremplin"
    assert imported.needs_token_type_ids is False
    assert imported.notes == ()
    assert imported.parity.max_abs_difference <= 1e-5
    assert 85e6 < imported.onnx_path.stat().st_size < 95e6


def test_golden_sentences_are_answered(imported: ImportedModel) -> None:
    files = GraphFiles(imported.onnx_path, imported.tokenizer_path)
    golden = bundled.golden_sentences()
    assert len(golden) == 8
    assert all(abs(float(np.linalg.norm(sentence.embedding)) - 1.0) < 1e-5 for sentence in golden)
    assert bundled.check_golden(files) <= 1e-5


def test_parity_with_sentence_transformers_on_real_sentences(imported: ImportedModel) -> None:
    pytest.importorskip("sentence_transformers", reason="the original to compare with")
    from tremplin.optimize.importing.transformers_reference import TransformersReference

    sentences = real_sentences()
    assert len(sentences) >= 1000
    checkpoint = open_checkpoint(bundled.bundled_model())
    reference = TransformersReference(checkpoint, imported.task, imported.max_tokens)
    report = check_parity(GraphFiles(imported.onnx_path, imported.tokenizer_path), reference, sentences)
    assert report.n == len(sentences)
    assert report.max_abs_difference <= 1e-5
    assert "sentence-transformers" in report.reference_name


def test_numpy_reference_agrees_on_real_sentences(imported: ImportedModel) -> None:
    sentences = real_sentences()[::10]
    checkpoint = open_checkpoint(bundled.bundled_model())
    reference = NumpyReference(checkpoint, imported.task, imported.max_tokens)
    report = check_parity(GraphFiles(imported.onnx_path, imported.tokenizer_path), reference, sentences)
    assert report.max_abs_difference <= 1e-5
