"""What documented one-liners make of the same fine-tuned classifier, raced beside ours.

ONNX Runtime's ``quantize_dynamic`` on the graph as it is, and NNCF's ``quantize`` with 300 training texts, run by
OpenVINO. NNCF is no dependency: it is looked for in ``.bench-envs/nncf`` (nncf, openvino, onnx,
onnxruntime) and skipped when it is not there.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from tremplin.optimize.gate import Loss, paired_loss
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.study import Entry
from tremplin.optimize.run_graph import run_rows
from tremplin.serve.engines.catalogue import EngineName, EngineSpec
from tremplin.serve.tokenize import TextTokenizer

NNCF_ENV = Path(__file__).parents[2] / ".bench-envs" / "nncf" / "bin" / "python"
CALIBRATION = 300

NNCF_SCRIPT = """
import json, sys
import nncf, numpy as np, onnx
order = json.load(sys.stdin)
rows = [
    {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    for ids in order["rows"]
]
model = onnx.load(order["graph"])
quantized = nncf.quantize(model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER)
onnx.save(quantized, order["out"])
"""


def quantize_dynamic(entry: Entry, folder: Path) -> EngineSpec:
    """Return the graph that onnxruntime.quantization.quantize_dynamic makes with its defaults."""
    from onnxruntime.quantization import quantize_dynamic as one_liner

    out = folder / "quantize_dynamic.onnx"
    one_liner(entry.stage.graph, out)
    return EngineSpec(EngineName.ONNX_RUNTIME, str(out), 1)


def nncf_quantize(entry: Entry, corpus: Corpus, folder: Path) -> EngineSpec | None:
    """Return the model that nncf.quantize makes, or None without NNCF."""
    if not NNCF_ENV.is_file():
        return None
    out = folder / "nncf.onnx"
    rows = (
        TextTokenizer(entry.stage.tokenizer, entry.finished.interface).encode(corpus.train.texts[:CALIBRATION]).ids
    )
    order = {"graph": str(entry.stage.graph), "out": str(out), "rows": [list(ids) for ids in rows]}
    subprocess.run([NNCF_ENV, "-c", NNCF_SCRIPT], input=json.dumps(order), text=True, check=True, timeout=900)
    return EngineSpec(EngineName.OPENVINO, str(out), 1)


def loss_of(spec: EngineSpec, entry: Entry, corpus: Corpus) -> tuple[float, Loss]:
    """Return the accuracy of an engine on the test texts, and what it loses against the reference."""
    targets = corpus.test.targets(corpus.labels)
    rows = TextTokenizer(entry.stage.tokenizer, entry.finished.interface).encode(corpus.test.texts).ids
    right = []
    for one in (EngineSpec(EngineName.ONNX_RUNTIME, str(entry.stage.graph), 2), spec):
        engine = one.make()
        engine.load()
        right.append(np.stack(run_rows(engine, rows, "logits")).argmax(axis=1) == targets)
        engine.close()
    return float(right[1].mean()), paired_loss(right[0], right[1])
