"""The encoder with its head: one valid graph that gives the NumPy head's probabilities."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from five_words import DIM, tokenize, write_encoder

from tremplin.errors import PassFailed
from tremplin.optimize.head.attach import attach_head
from tremplin.optimize.head.logistic import Logistic
from tremplin.optimize.head.parity import check_head_parity, probe_rows

LABELS = ("facturation", "connexion é", "autre")
TEXTS = ("refund", "password login login", "invoice refund unknown")


@pytest.fixture
def head():
    random = np.random.default_rng(1)
    return Logistic(random.normal(size=(DIM, 3)) * 5, random.normal(size=3))


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_graph_gives_the_heads_probabilities(tmp_path, head, foreign, opset, temperature):
    encoder = write_encoder(tmp_path / "encoder.onnx", opset=opset, foreign=foreign)
    attach_head(encoder, head, temperature, LABELS, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ["embedding", "logits", "probabilities"]
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    embedding, logits, probabilities = session.run(["embedding", "logits", "probabilities"], tokenize(TEXTS))
    plain = ort.InferenceSession(encoder, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(embedding, plain.run(["embedding"], tokenize(TEXTS))[0])
    np.testing.assert_allclose(logits, head.logits(embedding) / temperature, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probabilities, head.probabilities(embedding, temperature), atol=1e-5)
    assert probabilities.shape == (3, 3)
    check_head_parity(tmp_path / "model.onnx", head, temperature, tokenize(TEXTS), embedding)


def test_head_is_named_float32_and_described(tmp_path, head):
    attach_head(write_encoder(tmp_path / "e.onnx"), head, 0.5, LABELS, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    own = [node for node in model.graph.node if node.name.startswith("head.")]
    assert [node.op_type for node in own] == ["MatMul", "Add", "Softmax"]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    assert tensors["head.weight"].data_type == tensors["head.bias"].data_type == onnx.TensorProto.FLOAT
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["tremplin.labels"]) == list(LABELS)
    assert metadata["tremplin.task"] == "classification"
    assert metadata["tremplin.temperature"] == "0.5"
    assert metadata["maker"] == "by hand"
    dims = model.graph.output[1].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 3)


def test_the_same_head_gives_the_same_bytes(tmp_path, head):
    encoder = write_encoder(tmp_path / "e.onnx")
    for name in ("1.onnx", "2.onnx"):
        attach_head(encoder, head, 1.0, LABELS, tmp_path / name)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_int8_passes_leave_the_head_alone(tmp_path, head):
    graph = pytest.importorskip("tremplin.optimize.passes.graph")
    attach_head(write_encoder(tmp_path / "e.onnx"), head, 1.0, LABELS, tmp_path / "m.onnx")
    assert graph.linears(graph.read_graph(tmp_path / "m.onnx")) == []


def test_refusals(tmp_path, head):
    encoder = write_encoder(tmp_path / "e.onnx")
    attach_head(encoder, head, 1.0, LABELS, tmp_path / "m.onnx")
    cases = [
        (tmp_path / "m.onnx", head, LABELS, "already carries a head"),
        (write_encoder(tmp_path / "o.onnx", output="vector"), head, LABELS, "no output 'embedding'"),
        (encoder, Logistic(np.zeros((9, 3)), np.zeros(3)), LABELS, r"shape \['batch', 3\]; float32 \(batch, 9\)"),
        (encoder, head, LABELS[:2], "3 outputs and 2 labels"),
    ]
    for graph, given, labels, message in cases:
        with pytest.raises(PassFailed, match=message):
            attach_head(graph, given, 1.0, labels, tmp_path / "never.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(PassFailed, match="not a readable ONNX graph"):
        attach_head(tmp_path / "bad.onnx", head, 1.0, LABELS, tmp_path / "never.onnx")
    assert not (tmp_path / "never.onnx").exists()


def test_parity_finds_a_planted_fault(tmp_path, head):
    attach_head(write_encoder(tmp_path / "e.onnx"), head, 1.0, LABELS, tmp_path / "m.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    embedding = session.run(["embedding"], tokenize(TEXTS))[0]
    nearly = Logistic(head.weight * 1.001, head.bias)
    with pytest.raises(PassFailed, match="differ from the head's"):
        check_head_parity(tmp_path / "m.onnx", nearly, 1.0, tokenize(TEXTS), embedding)
    with pytest.raises(PassFailed, match="are not the embedding"):
        check_head_parity(tmp_path / "m.onnx", head, 1.0, tokenize(TEXTS), embedding[::-1])
    with pytest.raises(PassFailed, match="does not run"):
        check_head_parity(tmp_path / "m.onnx", head, 1.0, {"ids": np.zeros((1, 1), np.int64)}, embedding)


def test_probes_are_spread():
    assert probe_rows(3).tolist() == [0, 1, 2]
    assert len(probe_rows(1000)) == 16
    assert probe_rows(1000)[-1] == 999
