"""LiteRT (TensorFlow Lite): one ``model.tflite`` for phones and boards.

The graph is said again in TensorFlow's operations (``tensorflow_graph.py``) and converted. Batch and tokens stay
free: an interpreter that calls the signature resizes its inputs to whatever comes.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from tremplin.errors import MissingExtra, PassFailed
from tremplin.machine import usable_cores
from tremplin.optimize.passes.graph import read_graph
from tremplin.optimize.targets.target import INT8_IN_FLOAT32, QUANTIZATION, Run, Shape, Written, is_quantized
from tremplin.optimize.targets.tensorflow_graph import check_operators, say_in_tensorflow
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.feeds import feeds_of

if TYPE_CHECKING:
    import onnx

ARTEFACT = "model.tflite"

EXTRA = "TensorFlow writes .tflite files and LiteRT runs them: pip install 'tremplin[litert]'"

MAX_BYTES = 2**31 - 2**24  # a flatbuffer counts its bytes in 31 bits; the margin is for operators and names


class LiteRtTarget:
    """Writes a flatbuffer with free axes and runs it in LiteRT's interpreter."""

    name = "litert"
    is_half = False
    largest: Shape | None = None

    def __init__(self) -> None:
        self._interpreter = _imported("ai_edge_litert.interpreter")

    @property
    def runtime(self) -> str:
        """LiteRT with its version."""
        return f"litert {self.tools['ai-edge-litert']}"

    @property
    def tools(self) -> Mapping[str, str]:
        """TensorFlow converts, LiteRT runs."""
        from importlib.metadata import version

        return {"tensorflow": _tensorflow().__version__, "ai-edge-litert": version("ai-edge-litert")}

    def check(self, graph: Path) -> None:
        """Raise PassFailed for an operator that is not translated, or more weights than a file holds."""
        model = read_graph(graph)
        check_operators(model)
        if (size_bytes := float_bytes(model)) > MAX_BYTES:
            raise PassFailed(f"A .tflite file holds 2 GiB; this version needs {size_bytes / 2**30:.1f} GiB.")
        _tensorflow()

    def write(self, graph: Path, folder: Path) -> Written:
        """Translate and convert; the weights of quantized products become floats."""
        model = read_graph(graph)
        (folder / ARTEFACT).write_bytes(_convert(_tensorflow(), model))
        if not is_quantized(model):
            return Written("float32")
        note = (
            "Quantized products are computed on whole numbers held in float32: the answers are int8's, the speed "
            "and, but for the word table, the size are those of floats."
        )
        return Written(INT8_IN_FLOAT32, (note,))

    def open(self, folder: Path) -> Run:
        """Open the file in LiteRT's interpreter."""
        interpreter = self._interpreter.Interpreter(
            model_path=str(folder / ARTEFACT), num_threads=usable_cores()[0]
        )
        signature = interpreter.get_signature_runner()
        inputs = list(signature.get_input_details())

        def run(batch: TokenBatch) -> Outputs:
            feeds = feeds_of(batch, inputs)
            answered = signature(**{name: feeds[name] for name in inputs})
            return {name: np.array(value) for name, value in answered.items()}

        return run


def float_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of a graph's weights when those of quantized products are floats, the word table not."""
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    widened = {
        name for node in model.graph.node if node.op_type in QUANTIZATION for name in node.input if name in by_name
    }
    return sum(
        int(np.prod(tensor.dims)) * 4 if name in widened else len(tensor.raw_data)
        for name, tensor in by_name.items()
    )


def _convert(tf: ModuleType, model: onnx.ModelProto) -> bytes:
    """Return the graph as a flatbuffer whose one signature has the graph's own names."""
    names = [entry.name for entry in model.graph.input]

    def infer(**feeds: Any) -> dict[str, Any]:
        return say_in_tensorflow(tf, model, feeds)

    module = tf.Module()
    module.infer = tf.function(infer, autograph=False)
    concrete = module.infer.get_concrete_function(
        **{name: tf.TensorSpec([None, None], tf.int64, name=name) for name in names}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tf.lite, that it has become a package of its own
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
        return bytes(converter.convert())


def _tensorflow() -> ModuleType:
    # Read when TensorFlow is first imported: its lines about CPU features are not for whoever exports.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return _imported("tensorflow")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(EXTRA) from None
