"""Every family with every head, against transformers itself and against the NumPy reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tremplin.optimize.importing import GraphFiles, ImportedModel, Task, check_parity, import_model
from tremplin.optimize.importing.checkpoint import open_checkpoint
from tremplin.optimize.importing.encoder_graph import PAIR_TASKS
from tremplin.optimize.importing.numpy_reference import NumpyReference
from tremplin.optimize.importing.probes import probes

pytest.importorskip("torch", reason="parity with the original needs torch")
pytest.importorskip("transformers", reason="parity with the original needs transformers")

TIGHT = 2e-5  # random weights ten times larger than trained ones, logits up to about 10

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "camembert": {"pad_token_id": 1, "type_vocab_size": 1},
    "electra": {"embedding_size": 16},
    "mpnet": {"pad_token_id": 1},
}

# head -> (configuration, task, outputs)
HEADS: dict[str, tuple[str, dict[str, Any], Task, set[str]]] = {
    "embedding": ("Model", {}, Task.EMBEDDING, {"embedding"}),
    "masked language model": ("ModelForMaskedLM", {}, Task.EMBEDDING, {"embedding"}),
    "classes": (
        "ModelForSequenceClassification",
        {"id2label": {0: "négatif", 1: "neutral", 2: "positive"}},
        Task.CLASSIFICATION,
        {"logits", "probabilities"},
    ),
    "several labels": (
        "ModelForSequenceClassification",
        {"num_labels": 4, "problem_type": "multi_label_classification"},
        Task.CLASSIFICATION,
        {"logits", "probabilities"},
    ),
    "regression": (
        "ModelForSequenceClassification",
        {"num_labels": 2, "problem_type": "regression"},
        Task.CLASSIFICATION,
        {"scores"},
    ),
    "cross-encoder": ("ModelForSequenceClassification", {"num_labels": 1}, Task.RERANKING, {"scores"}),
    "tokens": (
        "ModelForTokenClassification",
        {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}},
        Task.TOKEN_CLASSIFICATION,
        {"logits", "probabilities"},
    ),
    "answers": ("ModelForQuestionAnswering", {}, Task.QUESTION_ANSWERING, {"start_logits", "end_logits"}),
}


def import_both_ways(folder: Path, destination: Path) -> ImportedModel:
    """Import with transformers as the reference, then hold the NumPy reference against the same graph."""
    model = import_model(folder, destination, reference="transformers")
    texts = probes(model.task, model.needs_token_type_ids)
    reference = NumpyReference(open_checkpoint(folder), model.task, model.max_tokens)
    again = check_parity(GraphFiles(model.onnx_path, model.tokenizer_path), reference, texts)
    assert model.parity.max_abs_difference <= TIGHT
    assert again.max_abs_difference <= TIGHT
    assert model.parity.label_agreement == again.label_agreement == 1.0
    assert model.parity.n == again.n >= 16
    assert model.parity.reference_name.startswith(("transformers", "sentence-transformers"))
    assert again.reference_name.startswith("numpy")
    return model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_family_and_head_equal_transformers(
    family: str, head: str, save_transformers_model: Any, tmp_path: Path
) -> None:
    class_name, config, task, outputs = HEADS[head]
    folder = save_transformers_model(family, class_name, **FAMILIES[family], **config)
    model = import_both_ways(folder, tmp_path / "imported")
    graph = onnx.load(model.onnx_path)
    assert model.task is task
    assert {output.name for output in graph.graph.output} == outputs
    assert model.labels == tuple(config.get("id2label", {}).values()) or "id2label" not in config
    assert model.multi_label is (head == "several labels")
    expects_types = family in ("bert", "electra") and task in PAIR_TASKS
    assert model.needs_token_type_ids is expects_types
    assert [entry.name for entry in graph.graph.input][2:] == (["token_type_ids"] if expects_types else [])
    assert model.max_tokens == (62 if FAMILIES[family].get("pad_token_id") == 1 else 64)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish"])
@pytest.mark.parametrize(("family", "key"), [("bert", "hidden_act"), ("distilbert", "activation")])
def test_activation_is_the_configured_one(
    family: str, key: str, activation: str, save_transformers_model: Any, tmp_path: Path
) -> None:
    import_both_ways(save_transformers_model(family, **{key: activation}), tmp_path / "imported")


@pytest.mark.parametrize(("key", "value"), [("layer_norm_eps", 0.1), ("num_attention_heads", 2)])
def test_numbers_of_the_configuration_are_used(
    key: str, value: float, save_transformers_model: Any, tmp_path: Path
) -> None:
    import_both_ways(save_transformers_model("bert", **{key: value}), tmp_path / "imported")


def test_electra_without_projection(save_transformers_model: Any, tmp_path: Path) -> None:
    folder = save_transformers_model("electra", "ModelForSequenceClassification", embedding_size=32)
    import_both_ways(folder, tmp_path / "imported")


def test_roberta_with_two_token_types_keeps_the_input_out(save_transformers_model: Any, tmp_path: Path) -> None:
    folder = save_transformers_model(
        "roberta", "ModelForSequenceClassification", pad_token_id=1, type_vocab_size=2
    )
    assert import_both_ways(folder, tmp_path / "imported").needs_token_type_ids is False


def test_half_precision_and_shards_are_read(save_transformers_model: Any, tmp_path: Path) -> None:
    import torch
    import transformers

    folder = save_transformers_model("bert", "ModelForSequenceClassification")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    import_both_ways(folder, tmp_path / "imported")


def test_mpnet_buckets_are_torch_s() -> None:
    import torch
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    from tremplin.optimize.importing.encoder_weights import relative_bias_by_distance
    from tremplin.optimize.importing.numpy_encoder import relative_bucket

    longest = 600
    distances = np.arange(-(longest - 1), longest)
    expected = MPNetEncoder.relative_position_bucket(torch.from_numpy(distances), num_buckets=32).numpy()
    rows = np.arange(32, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(relative_bias_by_distance(rows, longest)[:, 0], expected)
    np.testing.assert_array_equal([relative_bucket(int(distance)) for distance in distances], expected)
