"""Two classifiers in one graph: the small one answers when it is sure, the large one the rest.

    ids -> small -> best probability >= threshold? --yes--------------------> its answer
                                                   --no--> large on those rows --> its answer

The rows that are not sure are gathered, run as a batch of their own and scattered back, so one file and one
version do it and serving needs to know nothing. Both must read the same pieces. An answer depends on its own row
alone: which rows go on is decided row by row. Source: Viola and Jones 2001; for classifiers of text, Xin et al.,
DeeBERT, 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from tremplin.errors import PassFailed
from tremplin.optimize.passes.graph import PassResult, read_graph
from tremplin.registry.files import write_atomically

SMALL, LARGE = "small/", "large/"
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "probabilities")


class Cascade:
    """Joins a small classifier in front of a large one at a threshold of the best probability."""

    def __init__(self, small: Path, *, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise PassFailed(f"A threshold of probability lies above 0 and is at most 1, not {threshold:g}.")
        self._small = small
        self._threshold = threshold

    @property
    def name(self) -> str:
        """The pass with its options."""
        return f"cascade{self._threshold:g}"

    def call(self, source: Path, destination: Path) -> PassResult:
        """Write the joined graph; ``source`` is the large one.

        Raises PassFailed when either is no classifier or they distinguish different labels.
        """
        small, large = read_graph(self._small), read_graph(source)
        labels = [_labels(model) for model in (small, large)]
        if labels[0] != labels[1]:
            raise PassFailed("The two classifiers of a cascade must have the same labels in the same order.")
        first, second = compose.add_prefix(small, SMALL), compose.add_prefix(large, LARGE)
        graph = helper.make_graph(
            [
                *_renamed(first, {SMALL + name: name for name in INPUTS}),
                *self._between(),
                *second.graph.node,
                *_after(),
            ],
            "cascade",
            list(large.graph.input),
            [value for value in large.graph.output if value.name in OUTPUTS],
            [*first.graph.initializer, *second.graph.initializer, *self._constants()],
        )
        joined = helper.make_model(graph, opset_imports=large.opset_import, ir_version=large.ir_version)
        helper.set_model_props(joined, {entry.key: entry.value for entry in large.metadata_props})
        onnx.checker.check_model(joined)
        write_atomically(destination, joined.SerializeToString(deterministic=True))
        return PassResult(self.name, 0)

    def _constants(self) -> list[onnx.TensorProto]:
        return [
            numpy_helper.from_array(np.array(self._threshold, np.float32), "cascade/threshold"),
            numpy_helper.from_array(np.array([1], np.int64), "cascade/axis_1"),
            numpy_helper.from_array(np.array([0], np.int64), "cascade/axis_0"),
        ]

    def _between(self) -> list[onnx.NodeProto]:
        """From the small one's probabilities to the rows that go on."""
        best = f"{SMALL}best"
        node = helper.make_node
        return [
            node("ReduceMax", [f"{SMALL}probabilities", "cascade/axis_1"], [best], keepdims=0),
            node("Less", [best, "cascade/threshold"], ["cascade/is_unsure"]),
            node("NonZero", ["cascade/is_unsure"], ["cascade/rows_as_matrix"]),  # (1, unsure)
            node("Squeeze", ["cascade/rows_as_matrix", "cascade/axis_0"], ["cascade/rows"]),
            *(node("Gather", [name, "cascade/rows"], [LARGE + name], axis=0) for name in INPUTS),
            node("Unsqueeze", ["cascade/rows", "cascade/axis_1"], ["cascade/places"]),  # (unsure, 1)
        ]


def _after() -> list[onnx.NodeProto]:
    """The large one's answers in their places among the small one's."""
    return [
        helper.make_node("ScatterND", [SMALL + name, "cascade/places", LARGE + name], [name]) for name in OUTPUTS
    ]


def _renamed(model: onnx.ModelProto, names: dict[str, str]) -> list[onnx.NodeProto]:
    nodes = []
    for node in model.graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.input[:] = [names.get(name, name) for name in node.input]
        nodes.append(kept)
    return nodes


def _labels(model: onnx.ModelProto) -> str:
    outputs = {value.name: value for value in model.graph.output}
    if not set(OUTPUTS) <= set(outputs):
        raise PassFailed(f"A cascade joins classifiers; one graph gives {sorted(outputs)}.")
    if outputs["logits"].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise PassFailed("A cascade joins classifiers whose logits are float32.")
    return next((entry.value for entry in model.metadata_props if entry.key == "tremplin.labels"), "")
