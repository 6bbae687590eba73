"""Faults planted in a graph, its metadata, its tokenizer or its source: parity refuses every one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_checkpoints import edit_json

from tremplin.errors import ParityFailed, TokenizerMismatch
from tremplin.optimize.importing import GraphFiles, ImportedModel, ParityReport, check_parity, import_model
from tremplin.optimize.importing.checkpoint import open_checkpoint
from tremplin.optimize.importing.numpy_reference import NumpyReference
from tremplin.optimize.importing.parity import LABELS_KEY
from tremplin.optimize.importing.probes import PROBES, probes


def check_again(source: Path, model: ImportedModel) -> ParityReport:
    """Check files that were changed after the import against their source."""
    reference = NumpyReference(open_checkpoint(source), model.task, model.max_tokens)
    texts = probes(model.task, model.needs_token_type_ids)
    return check_parity(GraphFiles(model.onnx_path, model.tokenizer_path), reference, texts)


def change(model: ImportedModel, edit: Callable[[onnx.ModelProto], None]) -> None:
    graph = onnx.load(model.onnx_path)
    edit(graph)
    onnx.save(graph, model.onnx_path)


def node(graph: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in graph.graph.node if output in node.output)


def set_initializer(graph: onnx.ModelProto, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor)), name))


def cls_instead_of_mean(graph: onnx.ModelProto) -> None:
    first = onnx.helper.make_node("Constant", [], ["zero"], value_int=0)
    graph.graph.node.insert(0, first)
    mean = node(graph, "sentence.0.mean")
    hidden = node(graph, "sentence.0.mean.total_row").input[1]
    mean.CopyFrom(onnx.helper.make_node("Gather", [hidden, "zero"], list(mean.output), axis=1))


def mean_over_padding_too(graph: onnx.ModelProto) -> None:
    mask = node(graph, "sentence.0.mean.mask")
    ones = onnx.helper.make_node("Sub", ["one_like", "zero_like"], list(mask.output))
    graph.graph.node.insert(0, onnx.helper.make_node("Cast", ["attention_mask"], ["as_float"], to=1))
    graph.graph.node.insert(1, onnx.helper.make_node("Mul", ["as_float", "constants.nought"], ["zero_like"]))
    graph.graph.node.insert(2, onnx.helper.make_node("Cos", ["zero_like"], ["one_like"]))
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(0), "constants.nought"))
    mask.CopyFrom(ones)


def no_normalisation(graph: onnx.ModelProto) -> None:
    node(graph, "embedding").input[0] = node(graph, "sentence.1.normalized").input[0]


def attention_to_padding(graph: onnx.ModelProto) -> None:
    set_initializer(graph, "constants.masked_score", lambda _: np.float32(0))


def wrong_activation(graph: onnx.ModelProto) -> None:
    node(graph, "encoder.1.feed_forward.activation").op_type = "Relu"


def approximate_activation(graph: onnx.ModelProto) -> None:
    for index in range(2):
        gelu = node(graph, f"encoder.{index}.feed_forward.activation")
        gelu.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))


def wrong_epsilon(graph: onnx.ModelProto) -> None:
    norm = node(graph, "embeddings.norm.normed")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-2


def scale_forgotten(graph: onnx.ModelProto) -> None:
    def undo(weight: np.ndarray) -> np.ndarray:
        return np.concatenate([weight[:, :32] * np.float32(8**0.5), weight[:, 32:]], axis=1)

    set_initializer(graph, "encoder.0.attention.qkv.weight", undo)


def positions_shifted(graph: onnx.ModelProto) -> None:
    set_initializer(graph, "embeddings.position.weight", lambda table: np.roll(table, 1, axis=0))


def not_a_number(graph: onnx.ModelProto) -> None:
    set_initializer(graph, "encoder.1.feed_forward.norm.bias", lambda bias: bias * np.float32("nan"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (cls_instead_of_mean, "differs"),
        (mean_over_padding_too, "differs"),
        (no_normalisation, "length 1"),
        (attention_to_padding, "differs"),
        (wrong_activation, "differs"),
        (approximate_activation, "differs"),
        (wrong_epsilon, "differs"),
        (scale_forgotten, "differs"),
        (positions_shifted, "differs"),
        (not_a_number, "not finite"),
    ],
)
def test_fault_in_an_embedding_graph_is_refused(
    fault: Callable[[onnx.ModelProto], None], message: str, sentence_bert: Path, tmp_path: Path
) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    assert check_again(sentence_bert, model).max_abs_difference < 1e-5
    change(model, fault)
    with pytest.raises(ParityFailed, match=message):
        check_again(sentence_bert, model)


def rows_swapped(graph: onnx.ModelProto) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        set_initializer(graph, name, lambda values: values[..., [1, 0, 2, 3, 4]])


def sigmoid_for_softmax(graph: onnx.ModelProto) -> None:
    softmax = node(graph, "probabilities")
    softmax.op_type = "Sigmoid"
    del softmax.attribute[:]


def token_types_ignored(graph: onnx.ModelProto) -> None:
    set_initializer(graph, "embeddings.token_type.weight", lambda table: table[[0, 0]])


@pytest.mark.parametrize("fault", [rows_swapped, sigmoid_for_softmax, token_types_ignored])
def test_fault_in_a_classifier_graph_is_refused(
    fault: Callable[[onnx.ModelProto], None], classifier: Path, tmp_path: Path
) -> None:
    model = import_model(classifier, tmp_path / "imported", reference="numpy")
    change(model, fault)
    with pytest.raises(ParityFailed, match="differs"):
        check_again(classifier, model)


@pytest.mark.parametrize(
    "labels",
    [
        ["label 1", "label 0", "label 2", "label 3", "label 4"],
        ["label 0", "label 1", "label 2", "label 3"],
        ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"],
        [],
    ],
    ids=["swapped", "one short", "renamed", "none"],
)
def test_other_label_names_in_the_graph_are_refused(labels: list[str], classifier: Path, tmp_path: Path) -> None:
    model = import_model(classifier, tmp_path / "imported", reference="numpy")

    def rename(graph: onnx.ModelProto) -> None:
        next(entry for entry in graph.metadata_props if entry.key == LABELS_KEY).value = json.dumps(labels)

    change(model, rename)
    with pytest.raises(ParityFailed, match="labels"):
        check_again(classifier, model)


def test_labels_swapped_in_the_source_after_the_import_are_refused(classifier: Path, tmp_path: Path) -> None:
    model = import_model(classifier, tmp_path / "imported", reference="numpy")
    stored = json.loads((classifier / "config.json").read_text())["id2label"]
    edit_json(classifier / "config.json", id2label=stored | {"0": stored["1"], "1": stored["0"]})
    with pytest.raises(ParityFailed, match="labels"):
        check_again(classifier, model)


def test_small_differences_that_flip_a_label_are_refused(classifier: Path, tmp_path: Path) -> None:
    """With a tolerance wide enough to pass, agreement of labels is still asked for."""
    model = import_model(classifier, tmp_path / "imported", reference="numpy")
    change(model, rows_swapped)
    reference = NumpyReference(open_checkpoint(classifier), model.task, model.max_tokens)
    files = GraphFiles(model.onnx_path, model.tokenizer_path)
    found = check_parity(files, reference, ["yes"], tolerance=50.0)
    assert found.label_agreement == 1.0  # everything is a tie within 50
    with pytest.raises(ParityFailed, match="differs"):
        check_parity(files, reference, ["yes"], tolerance=1e-4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "relu"),
        ("hidden_act", "gelu_new"),
        ("layer_norm_eps", 1e-3),
        ("num_attention_heads", 8),
    ],
)
def test_config_changed_after_the_import_is_refused(
    key: str, value: object, sentence_bert: Path, tmp_path: Path
) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    edit_json(sentence_bert / "config.json", **{key: value})
    with pytest.raises(ParityFailed, match="differs"):
        check_again(sentence_bert, model)


def test_pooling_changed_after_the_import_is_refused(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    edit_json(
        sentence_bert / "1_Pooling" / "config.json",
        pooling_mode_mean_tokens=False,
        pooling_mode_max_tokens=True,
    )
    with pytest.raises(ParityFailed, match="differs"):
        check_again(sentence_bert, model)


# The tokenizer ---------------------------------------------------------------------------------------------


def edit_vocabulary(path: Path, edit: Callable[[dict[str, int]], dict[str, int]]) -> None:
    values = json.loads(path.read_text())
    values["model"]["vocab"] = edit(values["model"]["vocab"])
    path.write_text(json.dumps(values))


def test_vocabulary_truncated_beside_the_graph_is_refused(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    edit_vocabulary(model.tokenizer_path, lambda entries: {k: v for k, v in entries.items() if v < 40})
    with pytest.raises(ParityFailed):
        check_again(sentence_bert, model)


def test_words_swapped_beside_the_graph_are_refused(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    edit_vocabulary(model.tokenizer_path, lambda entries: entries | {"the": entries["le"], "le": entries["the"]})
    with pytest.raises(ParityFailed, match="differs"):
        check_again(sentence_bert, model)


def test_ids_beyond_the_table_do_not_run(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    edit_vocabulary(model.tokenizer_path, lambda entries: entries | {"the": 9999})
    with pytest.raises(ParityFailed, match="does not run"):
        check_again(sentence_bert, model)


@pytest.mark.parametrize("length", [12, 60])
def test_another_truncation_beside_the_graph_is_refused(length: int, sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    assert model.max_tokens == 40
    values = json.loads(model.tokenizer_path.read_text())
    values["truncation"]["max_length"] = length
    model.tokenizer_path.write_text(json.dumps(values))
    with pytest.raises(ParityFailed):
        check_again(sentence_bert, model)


def test_truncated_vocabulary_of_the_source_is_refused_before_anything_is_built(
    sentence_bert: Path, tmp_path: Path
) -> None:
    rows = 600
    import safetensors.numpy
    from tiny_checkpoints import bert_tensors

    safetensors.numpy.save_file(bert_tensors(rows), sentence_bert / "model.safetensors")
    edit_json(sentence_bert / "config.json", vocab_size=rows)
    with pytest.raises(TokenizerMismatch, match="could never be used"):
        import_model(sentence_bert, tmp_path / "imported", reference="numpy")


# The probes ------------------------------------------------------------------------------------------------


def test_probes_are_varied() -> None:
    assert len(PROBES) == len(set(PROBES)) == 24
    lengths = [len(probe) for probe in PROBES]
    assert min(lengths) <= 3
    assert max(lengths) > 1000
    assert any(ord(letter) > 0xFFFF for probe in PROBES for letter in probe)


def test_damaged_graph_is_refused(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    model.onnx_path.write_bytes(model.onnx_path.read_bytes()[:5000])
    with pytest.raises(ParityFailed, match="does not load"):
        check_again(sentence_bert, model)


def test_nothing_is_written_when_parity_fails(
    sentence_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tremplin.optimize.importing import encoder_graph

    monkeypatch.setattr(encoder_graph, "MASKED", 0.0)  # a builder with a bug
    destination = tmp_path / "imported"
    destination.mkdir()
    (destination / "model.onnx").write_text("the version before")
    with pytest.raises(ParityFailed):
        import_model(sentence_bert, destination, reference="numpy")
    assert [path.name for path in destination.iterdir()] == ["model.onnx"]
    assert (destination / "model.onnx").read_text() == "the version before"
