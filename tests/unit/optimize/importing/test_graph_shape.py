"""The form of a built graph: what passes and engines rely on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
from tiny_checkpoints import HIDDEN, LAYERS, WIDE, write_bert
from tokenizers import Tokenizer

from tremplin.optimize.importing import import_model


def test_operators_are_counted(sentence_bert: Path, tmp_path: Path) -> None:
    graph = onnx.load(import_model(sentence_bert, tmp_path / "imported", reference="numpy").onnx_path)
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts["MatMul"] == LAYERS * 6 + 1  # four linear layers, two products, one pooling
    assert counts["LayerNormalization"] == 1 + 2 * LAYERS
    assert counts["Gelu"] == counts["Softmax"] == counts["Split"] == LAYERS
    assert counts["Gather"] == 1
    assert len(graph.graph.node) <= 12 + 25 * LAYERS + 10
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 21)]
    assert graph.ir_version == 10
    onnx.checker.check_model(graph, full_check=True)


@pytest.mark.parametrize("labels", [0, 5])
def test_every_initializer_is_used_and_named_by_its_place(labels: int, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source", labels=labels)
    graph = onnx.load(import_model(folder, tmp_path / "imported", reference="numpy").onnx_path).graph
    used = {name for node in graph.node for name in node.input}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert set(shapes) <= used
    assert len(shapes) == len(graph.initializer)
    assert len({node.name for node in graph.node}) == len(graph.node)
    for layer in range(LAYERS):
        assert shapes[f"encoder.{layer}.attention.qkv.weight"] == (HIDDEN, 3 * HIDDEN)
        assert shapes[f"encoder.{layer}.attention.qkv.bias"] == (3 * HIDDEN,)
        assert shapes[f"encoder.{layer}.attention.output.weight"] == (HIDDEN, HIDDEN)
        assert shapes[f"encoder.{layer}.feed_forward.up.weight"] == (HIDDEN, WIDE)
        assert shapes[f"encoder.{layer}.feed_forward.down.weight"] == (WIDE, HIDDEN)
    assert ("classifier.weight" in shapes) is bool(labels)
    readers = [node for node in graph.node if "embeddings.word.weight" in node.input]
    assert [(node.op_type, node.input[1]) for node in readers] == [("Gather", "input_ids")]


def test_token_type_zero_is_folded_into_positions_of_one_text_models(
    sentence_bert: Path, classifier: Path, tmp_path: Path
) -> None:
    single = onnx.load(import_model(sentence_bert, tmp_path / "single", reference="numpy").onnx_path).graph
    pairs = onnx.load(import_model(classifier, tmp_path / "pairs", reference="numpy").onnx_path).graph
    assert [entry.name for entry in single.input] == ["input_ids", "attention_mask"]
    assert [entry.name for entry in pairs.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert "embeddings.token_type.weight" not in {tensor.name for tensor in single.initializer}


def test_the_graph_says_what_it_is(classifier: Path, tmp_path: Path) -> None:
    model = import_model(classifier, tmp_path / "imported", reference="numpy")
    said = {entry.key: entry.value for entry in onnx.load(model.onnx_path).metadata_props}
    assert said["tremplin.task"] == "classification"
    assert json.loads(said["tremplin.labels"]) == [f"label {index}" for index in range(5)] == list(model.labels)
    assert said["tremplin.max_tokens"] == "64" == str(model.max_tokens)
    assert said["tremplin.padding_id"] == "0" == str(model.padding_id)
    assert model.built_by == "tremplin"
    assert model.architecture == "BertForSequenceClassification"
    assert len(model.source_sha256) == 64


def test_the_tokenizer_is_freed_of_fixed_padding_and_cut_at_the_limit(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    before = Tokenizer.from_file(str(sentence_bert / "tokenizer.json"))
    after = Tokenizer.from_file(str(model.tokenizer_path))
    assert len(before.encode("yes").ids) == 24
    assert after.encode("yes").ids == before.encode("yes").ids[:3]
    assert len(after.encode("train " * 100).ids) == 40
    assert after.padding is None


def test_an_import_is_the_same_bytes_twice(classifier: Path, tmp_path: Path) -> None:
    first, second = (import_model(classifier, tmp_path / name, reference="numpy") for name in ("a", "b"))
    assert first.onnx_path.read_bytes() == second.onnx_path.read_bytes()
    assert first.tokenizer_path.read_bytes() == second.tokenizer_path.read_bytes()


@pytest.mark.parametrize(
    ("sentence_limit", "tokenizer_limit", "expected"),
    [(None, None, 64), (40, 50, 40), (None, 50, 50), (512, 512, 64), (None, 10**30, 64)],
)
def test_limit_in_tokens(
    sentence_limit: int | None, tokenizer_limit: int | None, expected: int, bare_bert: Path, tmp_path: Path
) -> None:
    if sentence_limit is not None:
        (bare_bert / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": sentence_limit}))
    if tokenizer_limit is not None:
        (bare_bert / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tokenizer_limit}))
    assert import_model(bare_bert, tmp_path / "imported", reference="numpy").max_tokens == expected
