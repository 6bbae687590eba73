from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests import tiny_models
from tests.tiny_encoders import HIDDEN, write_tiny_encoder
from tremplin.errors import EngineFailed, OptimizeFailed, PassFailed
from tremplin.optimize.ctranslate2 import float_ancestor, prepare, prepare_version
from tremplin.optimize.head.attach import attach_head
from tremplin.optimize.head.logistic import Logistic
from tremplin.optimize.passes.dynamic_int8 import DynamicInt8
from tremplin.optimize.passes.graph import cut_after, quantize_columns, read_graph
from tremplin.optimize.run_graph import run_alone, run_rows
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engine import TokenBatch, pad
from tremplin.serve.engines import ctranslate2 as adapter
from tremplin.serve.engines.ctranslate2 import PREPARED_FILE, TAIL_FILE, Ctranslate2Engine
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed: pip install 'tremplin[ctranslate2]'")

VOCABULARY = 60
FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")


def random_rows(count: int = 6, *, longest: int = 30) -> list[list[int]]:
    generator = np.random.default_rng(5)
    return [generator.integers(2, VOCABULARY, generator.integers(1, longest)).tolist() for _ in range(count)]


def write(path: Path, family: str = "bert", **options: object) -> Path:
    return write_tiny_encoder(path, family, vocab_size=VOCABULARY, **options)  # type: ignore[arg-type]


def with_rounded_weights(graph: Path, destination: Path) -> Path:
    """Write the float graph whose weights are what their int8 stands for."""
    model = onnx.load(str(graph))
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if tensor.name == "embeddings.word.weight":
            rows, scales = quantize_columns(weight.T)
            weight = (rows * scales).T
        elif tensor.name.startswith("encoder.") and weight.ndim == 2:
            columns, scales = quantize_columns(weight, narrow=True)
            weight = columns * scales
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight, np.float32), tensor.name))
    onnx.save(model, str(destination))
    return destination


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu", "tanh"])
@pytest.mark.parametrize("task", [Task.EMBEDDING, Task.CLASSIFICATION])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, task: Task, activation: str
) -> None:
    """Computed in float32 it answers as the graph with the same rounded weights: positions, types, epsilon."""
    monkeypatch.setattr(adapter, "COMPUTE_TYPE", "float32")
    graph = write(tmp_path / "float.onnx", family, task=task, activation=activation, epsilon=1e-3)
    engine = Ctranslate2Engine(prepare(graph, graph, tmp_path / "prepared"), threads=1)
    reference = OnnxRuntimeEngine(with_rounded_weights(graph, tmp_path / "rounded.onnx"), threads=1)
    engine.load()
    reference.load()
    batch = pad(random_rows())
    if "token_type_ids" in engine.inputs:
        types = np.random.default_rng(1).integers(0, 2, batch.input_ids.shape) * batch.attention_mask
        batch = TokenBatch(batch.input_ids, batch.attention_mask, types)
    assert engine.inputs == reference.inputs
    expected, answered = reference.run(batch), engine.run(batch)
    for name in reference.outputs:
        np.testing.assert_allclose(answered[name], expected[name], atol=5e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_stays_near(tmp_path: Path, family: str) -> None:
    graph = write(tmp_path / "float.onnx", family)
    engine = Ctranslate2Engine(prepare(graph, graph, tmp_path / "prepared"), threads=1)
    reference = OnnxRuntimeEngine(graph, threads=1)
    engine.load()
    reference.load()
    batch = pad(random_rows(40))
    cosines = (engine.run(batch)["embedding"] * reference.run(batch)["embedding"]).sum(axis=1)
    assert cosines.min() > 0.999


def test_an_answer_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    """One scale per token: nearly all answers stay the same to the last digits; one per batch would move all."""
    graph = write(tmp_path / "float.onnx")
    engine = Ctranslate2Engine(prepare(graph, graph, tmp_path / "prepared"), threads=1)
    engine.load()
    rows = random_rows(120)
    alone = np.stack(run_alone(engine, rows, "embedding"))
    together = np.stack(run_rows(engine, rows, "embedding"))
    moved = np.abs(alone - together).max(axis=1)
    assert (moved < 1e-6).mean() > 0.8
    assert moved.max() < 0.02


@pytest.mark.parametrize(("family", "reason"), [("electra", "ELECTRA"), ("mpnet", "MPNet")])
def test_other_families_are_refused(tmp_path: Path, family: str, reason: str) -> None:
    graph = write(tmp_path / "float.onnx", family)
    with pytest.raises(PassFailed, match=reason):
        prepare(graph, graph, tmp_path / "folder" / "prepared")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [".prepared.lock"], "a part was left behind"


def test_a_graph_of_another_maker_is_refused(tmp_path: Path) -> None:
    graph = tiny_models.write_encoder(tmp_path / "model.onnx")
    with pytest.raises(PassFailed, match="own builder"):
        prepare(graph, graph, tmp_path / "prepared")


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    graph = write(tmp_path / "float.onnx")
    DynamicInt8().call(graph, tmp_path / "int8.onnx")
    with pytest.raises(PassFailed):
        prepare(tmp_path / "int8.onnx", tmp_path / "int8.onnx", tmp_path / "prepared")


def test_what_is_prepared_is_used_again_and_made_again_when_damaged(tmp_path: Path) -> None:
    graph = write(tmp_path / "float.onnx")
    folder = prepare(graph, graph, tmp_path / "prepared")
    made_at = (folder / PREPARED_FILE).stat().st_mtime_ns
    content = (folder / "model.bin").read_bytes()
    prepare(graph, graph, folder)
    assert (folder / PREPARED_FILE).stat().st_mtime_ns == made_at
    for name in ("model.bin", TAIL_FILE, PREPARED_FILE, "vocabulary.json", "config.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
        with pytest.raises(EngineFailed, match="made again"):
            Ctranslate2Engine(folder, threads=1).load()
        prepare(graph, graph, folder)
        Ctranslate2Engine(folder, threads=1).load()
    assert (folder / "model.bin").read_bytes() == content


def test_another_version_is_prepared_in_its_place(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{seed}.onnx", seed=seed) for seed in (1, 2))
    folder = prepare(first, first, tmp_path / "prepared")
    engine = Ctranslate2Engine(prepare(second, second, folder), threads=1)
    reference = OnnxRuntimeEngine(second, threads=1)
    engine.load()
    reference.load()
    batch = pad(random_rows())
    cosines = (engine.run(batch)["embedding"] * reference.run(batch)["embedding"]).sum(axis=1)
    assert cosines.min() > 0.999


def test_the_tail_is_all_that_follows_the_encoder(tmp_path: Path) -> None:
    graph = write(tmp_path / "float.onnx", task=Task.CLASSIFICATION)
    tail = cut_after(read_graph(graph), "encoder.1.feed_forward.norm.normed", "hidden_states", HIDDEN)
    assert {node.op_type for node in tail.graph.node} == {"Gather", "MatMul", "Add", "Identity", "Softmax"}
    assert [value.name for value in tail.graph.input] == ["hidden_states"]
    assert [value.name for value in tail.graph.output] == ["logits", "probabilities"]


def test_neither_torch_nor_transformers_takes_part(tmp_path: Path) -> None:
    graph = write(tmp_path / "float.onnx")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path\nfrom tremplin.optimize.ctranslate2 import prepare\n"
        "prepare(Path(sys.argv[1]), Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(graph), str(tmp_path / "prepared")], check=True, timeout=60)
    Ctranslate2Engine(tmp_path / "prepared", threads=1).load()


# -- versions of a registry ----------------------------------------------------------------------------


def published(registry: Registry, folder: Path, graph: Path, version: str, source: Manifest | None) -> Manifest:
    manifest = tiny_models.manifest_of(version=version)
    if source is not None:
        manifest = replace(manifest, origin=replace(manifest.origin, source=source.ref))
    files = {MODEL_FILE: graph, TOKENIZER_FILE: tiny_models.write_tokenizer(folder / TOKENIZER_FILE)}
    return registry.publish(manifest, files)


def test_an_int8_version_and_its_head_take_the_weights_of_their_float_ancestor(
    registry: Registry, tmp_path: Path
) -> None:
    graph, int8, headed = write(tmp_path / "float.onnx"), tmp_path / "int8.onnx", tmp_path / "headed.onnx"
    DynamicInt8().call(graph, int8)
    generator = np.random.default_rng(2)
    head = Logistic(generator.normal(size=(HIDDEN, 3)), generator.normal(size=3))
    attach_head(int8, head, 1.5, ["low", "middle", "high"], headed)
    first = published(registry, tmp_path, graph, "1-fp32", None)
    second = published(registry, tmp_path, int8, "2-int8", first)
    third = published(registry, tmp_path, headed, "3-int8", second)
    assert float_ancestor(registry, third) == first
    assert float_ancestor(registry, first) == first

    engine = Ctranslate2Engine(prepare_version(registry, third, tmp_path / "prepared"), threads=1)
    engine.load()
    answered = engine.run(pad(random_rows()))
    raw = answered["embedding"] @ (head.weight / 1.5) + head.bias / 1.5
    np.testing.assert_allclose(answered["logits"], raw, atol=1e-5)
    reference = OnnxRuntimeEngine(graph, threads=1)
    reference.load()
    cosines = (answered["embedding"] * reference.run(pad(random_rows()))["embedding"]).sum(axis=1)
    assert cosines.min() > 0.999


def test_a_missing_ancestor_is_named(registry: Registry, tmp_path: Path) -> None:
    graph = write(tmp_path / "float.onnx")
    gone = tiny_models.manifest_of(version="1-fp32")
    orphan = published(registry, tmp_path, graph, "2-int8", gone)
    with pytest.raises(OptimizeFailed, match="tiny@1-fp32"):
        prepare_version(registry, orphan, tmp_path / "prepared")
