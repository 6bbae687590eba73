"""A network read from a graph answers as the graph, as a torch module and as the graph written again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.tiny_encoders import write_tiny_encoder
from tremplin.errors import PassFailed
from tremplin.optimize.importing.families import FAMILIES
from tremplin.optimize.network.from_graph import read_network
from tremplin.optimize.network.network import Network, fresh_head
from tremplin.optimize.network.to_graph import write_network
from tremplin.optimize.passes.tables import SmallTables
from tremplin.registry.task import Task

torch = pytest.importorskip("torch", reason="training needs torch")

IDS = np.array([[3, 4, 5, 6, 7], [8, 2, 3, 0, 0], [5, 6, 0, 0, 0]], np.int64)
# MPNet and RoBERTa see padding in the ids themselves, as 1.
IDS_PADDED_WITH_1 = np.array([[3, 4, 5, 6, 7], [8, 2, 3, 1, 1], [5, 6, 1, 1, 1]], np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], np.int64)
WORDS = 9


def run(graph: Path, ids: np.ndarray, output: str = "embedding") -> np.ndarray:
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return session.run([output], {"input_ids": ids, "attention_mask": MASK})[0]


def run_torch(network: Network, ids: np.ndarray):
    from tremplin.optimize.network.torch_network import TorchNetwork

    module = TorchNetwork(network).eval()
    with torch.no_grad():
        return module, module(torch.from_numpy(ids), torch.from_numpy(MASK))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu"])
def test_graph_module_and_graph_again_agree(tmp_path: Path, family: str, activation: str) -> None:
    graph = write_tiny_encoder(tmp_path / "a.onnx", family, activation=activation, vocab_size=WORDS)
    network = read_network(graph)
    ids = IDS if network.spec.positions.value == "from zero" else IDS_PADDED_WITH_1
    expected = run(graph, ids)
    module, outputs = run_torch(network, ids)
    np.testing.assert_allclose(outputs.embedding.numpy(), expected, atol=2e-6)
    write_network(module.network(), tmp_path / "b.onnx")
    np.testing.assert_allclose(run(tmp_path / "b.onnx", ids), expected, atol=2e-6)


def test_attention_is_the_same_computed_openly(tmp_path: Path) -> None:
    network = read_network(write_tiny_encoder(tmp_path / "a.onnx", vocab_size=WORDS))
    from tremplin.optimize.network.torch_network import TorchNetwork

    module = TorchNetwork(network).eval()
    ids, mask = torch.from_numpy(IDS), torch.from_numpy(MASK)
    with torch.no_grad():
        fused, open_ = module(ids, mask), module(ids, mask, with_attention=True)
    torch.testing.assert_close(fused.embedding, open_.embedding, atol=2e-6, rtol=0)
    assert [tuple(a.shape) for a in open_.attention] == [(3, 4, 5, 5)] * 2
    torch.testing.assert_close(open_.attention[0].sum(-1), torch.ones(3, 4, 5))


def test_a_sentence_classifier_survives_the_journey(tmp_path: Path) -> None:
    plain = read_network(write_tiny_encoder(tmp_path / "a.onnx", vocab_size=WORDS))
    labels = ("a", "b", "c")
    network = plain.with_head(fresh_head(32, 3, seed=1), labels, Task.CLASSIFICATION)
    _, outputs = run_torch(network, IDS)
    write_network(network, tmp_path / "b.onnx", temperature=2.0)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", IDS, "logits"), outputs.logits.numpy() / 2, atol=2e-6)
    again = read_network(tmp_path / "b.onnx", labels)
    assert (again.task, again.labels) == (Task.CLASSIFICATION, labels)
    np.testing.assert_allclose(again.head.weight * 2, network.head.weight, atol=1e-7)


def test_a_token_classifier_gives_a_row_for_each_token(tmp_path: Path) -> None:
    plain = read_network(write_tiny_encoder(tmp_path / "a.onnx", vocab_size=WORDS))
    network = replace(plain, steps=()).with_head(fresh_head(32, 2, seed=1), ("O", "B"), Task.TOKEN_CLASSIFICATION)
    _, outputs = run_torch(network, IDS)
    write_network(network, tmp_path / "b.onnx")
    probabilities = run(tmp_path / "b.onnx", IDS, "probabilities")
    assert probabilities.shape == (3, 5, 2)
    np.testing.assert_allclose(probabilities, torch.softmax(outputs.logits, -1).numpy(), atol=2e-6)


def test_bigrams_read_the_same_in_graph_and_module(tmp_path: Path) -> None:
    plain = read_network(write_tiny_encoder(tmp_path / "a.onnx", vocab_size=WORDS))
    table = np.random.default_rng(0).normal(0, 1, (7, 32)).astype(np.float32)
    network = replace(plain.with_layers(()), weights=replace(plain.weights, layers=(), bigram=table))
    write_network(network, tmp_path / "b.onnx")
    _, outputs = run_torch(network, IDS)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", IDS), outputs.embedding.numpy(), atol=2e-6)
    alone = ort.InferenceSession(str(tmp_path / "b.onnx")).run(
        ["embedding"], {"input_ids": IDS[2:, :2], "attention_mask": MASK[2:, :2]}
    )[0]
    np.testing.assert_allclose(alone[0], outputs.embedding.numpy()[2], atol=2e-6)
    np.testing.assert_array_equal(read_network(tmp_path / "b.onnx").weights.bigram, table)


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.01), (4, 0.15)])
def test_small_tables_change_little_and_save_bytes(tmp_path: Path, bits: int, tolerance: float) -> None:
    graph = write_tiny_encoder(tmp_path / "a.onnx", vocab_size=2_000)
    SmallTables(word_bits=bits, positions=20).call(graph, tmp_path / "b.onnx")
    before, after = run(graph, IDS), run(tmp_path / "b.onnx", IDS)
    assert np.abs(before - after).max() < tolerance
    saved = graph.stat().st_size - (tmp_path / "b.onnx").stat().st_size
    assert saved > 2_000 * 32 * (4 - bits / 8) * 0.9


def test_a_quantized_graph_is_refused_with_what_to_do(tmp_path: Path) -> None:
    graph = write_tiny_encoder(tmp_path / "a.onnx", vocab_size=WORDS)
    SmallTables().call(graph, tmp_path / "b.onnx")
    with pytest.raises(PassFailed, match="fp32 version"):
        read_network(tmp_path / "b.onnx")
