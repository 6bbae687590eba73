"""A hand-made encoder of five words, and texts to train on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tremplin.optimize.head.dataset import LabelledTexts

WORDS = ("", "refund", "invoice", "password", "login")
DIM = 3


def tokenize(texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return the inputs of the encoder; unknown words are word 0."""
    rows = [[WORDS.index(word) if word in WORDS else 0 for word in text.split()] for text in texts]
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def write_encoder(
    path: Path, *, output: str = "embedding", opset: int = 21, seed: int = 0, foreign: bool = False
) -> Path:
    """Write the mean of word vectors; ``foreign`` adds a com.microsoft node, as quantized encoders have."""
    table = np.random.default_rng(seed).normal(size=(len(WORDS), DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"], "gather"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"], "wide"),
        helper.make_node("Mul", ["words", "wide"], ["kept"], "kept"),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], "sum", keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["count"], "count", keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean" if foreign else output], "mean"),
    ]
    if foreign:
        nodes.append(helper.make_node("QuickGelu", ["mean"], [output], "gelu", domain="com.microsoft", alpha=1.0))
    tensors = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "middle"),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", DIM])]
    graph = helper.make_graph(nodes, "five words", inputs, outputs, tensors)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    helper.set_model_props(model, {"maker": "by hand"})
    onnx.save(model, str(path))
    return path


class Encoder:
    """Runs an encoder file on texts."""

    def __init__(self, path: Path) -> None:
        self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        embedding: NDArray[np.float32] = self._session.run(["embedding"], tokenize(texts))[0]
        return embedding


def labelled(
    n_each: int = 40, *, seed: int = 0, noise: float = 0.1, langs: bool = False, start: int = 0
) -> LabelledTexts:
    """Return texts about accounts and money; a share of ``noise`` speaks of the other."""
    random = np.random.default_rng(seed)
    words = {"account": WORDS[3:], "money": WORDS[1:3]}
    texts, labels = [], []
    for label, own in words.items():
        for i in range(n_each):
            pool = WORDS[1:] if random.random() < noise else own
            texts.append(" ".join([f"n{start + len(texts)}", *random.choice(pool, size=1 + i % 4)]))
            labels.append(label)
    column = tuple("en" if i % 2 else "fr" for i in range(len(texts))) if langs else None
    return LabelledTexts("five.jsonl", tuple(texts), tuple(labels), ("account", "money"), "0" * 64, column)
