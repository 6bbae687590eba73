"""Cross-encoders, token embeddings and SPLADE: chosen, built, and equal to the libraries they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_checkpoints import HIDDEN, edit_json, write_bert, write_json

from tremplin.errors import IncompleteSource, UnsupportedModel
from tremplin.optimize.importing import GraphFiles, ImportedModel, Task, check_parity, import_model
from tremplin.optimize.importing.checkpoint import open_checkpoint
from tremplin.optimize.importing.importer import default_task
from tremplin.optimize.importing.numpy_reference import NumpyReference
from tremplin.optimize.importing.parity import GraphUnderTest
from tremplin.optimize.importing.probes import PROBES, probes

TIGHT = 2e-5  # random weights ten times larger than trained ones
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "camembert": {"pad_token_id": 1, "type_vocab_size": 1},
    "electra": {"embedding_size": 16},
    "mpnet": {"pad_token_id": 1},
}
TEXTS = ["the train", "le phare, the light of plants", "yes"]


def files_of(model: ImportedModel) -> GraphFiles:
    return GraphFiles(model.onnx_path, model.tokenizer_path)


def outputs_of(model: ImportedModel) -> list[str]:
    return [output.name for output in onnx.load(model.onnx_path).graph.output]


# -- cross-encoders -----------------------------------------------------------------------------------


def test_one_output_without_classes_is_a_cross_encoder(tmp_path: Path) -> None:
    model = import_model(write_bert(tmp_path / "source", labels=1), tmp_path / "imported", reference="numpy")
    assert (model.task, model.labels, outputs_of(model)) == (Task.RERANKING, ("label 0",), ["scores"])
    assert model.needs_token_type_ids
    assert model.parity.n == len(probes(Task.RERANKING, True))
    assert all(isinstance(pair, tuple) for pair in probes(Task.RERANKING, False))
    assert "imported as a cross-encoder" in " ".join(model.notes)


@pytest.mark.parametrize(
    ("labels", "config", "task"),
    [
        (1, {}, Task.RERANKING),
        (1, {"problem_type": "regression"}, Task.RERANKING),
        (1, {"problem_type": "multi_label_classification"}, Task.CLASSIFICATION),
        (2, {"problem_type": "regression"}, Task.CLASSIFICATION),
        (2, {}, Task.CLASSIFICATION),
    ],
)
def test_the_head_decides_the_task(labels: int, config: dict[str, Any], task: Task, tmp_path: Path) -> None:
    assert default_task(open_checkpoint(write_bert(tmp_path / "source", labels=labels, **config))) is task


def test_a_regression_can_be_asked_for(tmp_path: Path) -> None:
    source = write_bert(tmp_path / "source", labels=1)
    model = import_model(source, tmp_path / "imported", task=Task.CLASSIFICATION, reference="numpy")
    assert (model.task, outputs_of(model)) == (Task.CLASSIFICATION, ["scores"])
    assert "no service answers" in " ".join(model.notes)


def test_a_cross_encoder_gives_one_score(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"5 labels.*--task classification"):
        import_model(classifier, tmp_path / "imported", task=Task.RERANKING, reference="numpy")


@pytest.mark.parametrize("is_saved_by_its_library", [False, True])
def test_scores_are_those_of_the_library(
    is_saved_by_its_library: bool, save_transformers_model: Any, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="the original to compare with")
    from torch.nn import Identity

    source = save_transformers_model("bert", "ModelForSequenceClassification", num_labels=1)
    original = library.CrossEncoder(str(source), device="cpu")
    if is_saved_by_its_library:
        source = tmp_path / "saved"
        original.save_pretrained(str(source), create_model_card=False)
    model = import_model(source, tmp_path / "imported", reference="numpy")
    assert model.task is Task.RERANKING
    pairs = [(TEXTS[0], text) for text in TEXTS] + [(TEXTS[1] * 9, TEXTS[2]), (TEXTS[2], TEXTS[1] * 9)]
    expected = original.predict(pairs, activation_fn=Identity(), show_progress_bar=False)
    found = np.concatenate(GraphUnderTest(files_of(model)).answer(pairs)["scores"])
    np.testing.assert_allclose(found, expected, atol=TIGHT)


# -- token embeddings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["numpy", "transformers"])
def test_token_embeddings_are_the_last_hidden_states(reference: str, sentence_bert: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="the original to compare with")
    model = import_model(sentence_bert, tmp_path / "imported", reference=reference, token_embeddings=True)
    assert outputs_of(model) == ["embedding", "token_embeddings"]
    original = library.SentenceTransformer(str(sentence_bert), device="cpu")
    expected = original.encode(TEXTS, output_value="token_embeddings", show_progress_bar=False)
    found = GraphUnderTest(files_of(model)).answer(TEXTS)["token_embeddings"]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == tuple(theirs.shape) == (len(ours), HIDDEN)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=TIGHT)


def test_token_embeddings_of_a_bare_encoder(bare_bert: Path, tmp_path: Path) -> None:
    model = import_model(bare_bert, tmp_path / "imported", reference="numpy", token_embeddings=True)
    reference = NumpyReference(open_checkpoint(bare_bert), Task.EMBEDDING, model.max_tokens, token_embeddings=True)
    assert check_parity(files_of(model), reference, PROBES).max_abs_difference <= TIGHT


def test_token_embeddings_are_an_output_of_embedding_models(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="imported for classification; only embedding models"):
        import_model(classifier, tmp_path / "imported", reference="numpy", token_embeddings=True)


# -- SPLADE -------------------------------------------------------------------------------------------


def declare_splade(folder: Path, **pooling: object) -> Path:
    """Make a masked language model a SparseEncoder of sentence-transformers."""
    modules = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
    write_json(
        folder / "modules.json",
        [
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.sparse_encoder.models.MLMTransformer",
            },
            {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": modules},
        ],
    )
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_splade(family: str, save_transformers_model: Any, tmp_path: Path) -> None:
    source = save_transformers_model(family, "ModelForMaskedLM", **FAMILIES[family])
    model = import_model(source, tmp_path / "imported", task=Task.SPARSE_EMBEDDING, reference="transformers")
    reference = NumpyReference(open_checkpoint(source), Task.SPARSE_EMBEDDING, model.max_tokens)
    assert model.parity.max_abs_difference <= TIGHT
    assert check_parity(files_of(model), reference, PROBES).max_abs_difference <= TIGHT
    (output,) = onnx.load(model.onnx_path).graph.output
    assert output.name == "sparse_embedding"
    assert output.type.tensor_type.shape.dim[1].dim_value == model.vocab_size
    assert model.embedding_dim is None


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_splade_is_that_of_the_library(
    strategy: str, activation: str, save_transformers_model: Any, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="the original to compare with")
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    source = save_transformers_model("bert", "ModelForMaskedLM")
    original = library.SparseEncoder(str(source), device="cpu")
    original[1] = SpladePooling(strategy, activation)
    saved = tmp_path / "saved"
    original.save_pretrained(str(saved), create_model_card=False)
    model = import_model(saved, tmp_path / "imported", reference="numpy")
    assert model.task is Task.SPARSE_EMBEDDING
    expected = original.encode(TEXTS, show_progress_bar=False, convert_to_sparse_tensor=False).numpy()
    found = np.stack(GraphUnderTest(files_of(model)).answer(TEXTS)["sparse_embedding"])
    np.testing.assert_allclose(found, expected, atol=TIGHT)
    assert ((found > 0) == (expected > 0)).all()


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra"])
def test_a_head_with_a_table_of_its_own(family: str, save_transformers_model: Any, tmp_path: Path) -> None:
    source = save_transformers_model(family, "ModelForMaskedLM", tie_word_embeddings=False, **FAMILIES[family])
    for reference in ("numpy", "transformers"):
        model = import_model(source, tmp_path / reference, task=Task.SPARSE_EMBEDDING, reference=reference)
        assert model.parity.max_abs_difference <= TIGHT


def test_splade_needs_the_head_of_a_language_model(bare_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteSource, match="no language model head"):
        import_model(bare_bert, tmp_path / "imported", task=Task.SPARSE_EMBEDDING, reference="numpy")


@pytest.mark.parametrize("pooling", [{"pooling_strategy": "mean"}, {"activation_function": "elu"}])
def test_another_pooling_is_refused(pooling: dict[str, str], bare_bert: Path) -> None:
    from tremplin.optimize.importing.sentence_modules import read_splade_pooling

    checkpoint = open_checkpoint(declare_splade(bare_bert, **pooling))
    with pytest.raises(UnsupportedModel, match="cannot be built"):
        read_splade_pooling(checkpoint)


def test_modules_of_another_kind_are_refused(sentence_bert: Path) -> None:
    from tremplin.optimize.importing.sentence_modules import read_splade_pooling

    with pytest.raises(UnsupportedModel, match="has the modules Pooling, Normalize; expected SpladePooling"):
        read_splade_pooling(open_checkpoint(sentence_bert))


def test_splade_is_told_by_its_module(bare_bert: Path) -> None:
    edit_json(bare_bert / "config.json", architectures=["BertForMaskedLM"])
    assert default_task(open_checkpoint(bare_bert)) is Task.EMBEDDING
    declare_splade(bare_bert)
    assert default_task(open_checkpoint(bare_bert)) is Task.SPARSE_EMBEDDING
    assert json.loads((bare_bert / "modules.json").read_text())[0]["type"].endswith("MLMTransformer")
