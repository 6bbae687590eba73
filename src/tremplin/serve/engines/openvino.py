"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib
import queue
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tremplin.errors import EngineFailed, MissingExtra
from tremplin.machine import read_machine
from tremplin.serve.engine import Outputs, TokenBatch, pad
from tremplin.serve.engines import failures
from tremplin.serve.engines.feeds import check_ids, feeds_of
from tremplin.serve.engines.overflow import products_overflow

RUNTIME = "OpenVINO"
EXTRA = "OpenVINO is not installed: pip install 'tremplin[openvino]'"


class OpenVinoEngine:
    """One compiled graph; ``streams`` batches are computed at the same time, with ``threads`` threads each.

    On an x86 CPU without VNNI its int8 products overflow (cosine to fp32 .9971 instead of .9991), and its int8
    kernels are slower there than its float ones: quantized products are then computed in float. Answers are right,
    the speed is that of fp32 (docs/decisions/0011).

    A shape that was not seen before costs 5 to 8 ms more than the next batch of it: kernels are made per shape.
    """

    def __init__(self, model: Path, *, threads: int, streams: int = 1) -> None:
        """Remember what to load; raises MissingExtra when OpenVINO is not installed."""
        self._openvino = _import_without_telemetry()
        self._model = model
        self._threads = threads
        self._streams = streams
        self._requests: queue.LifoQueue[Any] | None = None
        self._vocabulary: int | None = None
        self.inputs: tuple[str, ...] = ()
        """Names of the graph's inputs, known once it is loaded."""
        self.outputs: tuple[str, ...] = ()
        """Names of the graph's outputs, known once it is loaded."""

    @property
    def name(self) -> str:
        """The engine and its version."""
        return f"openvino {self._openvino.__version__.split('-')[0]}"

    def load(self) -> None:
        """Compile the graph; raises EngineFailed when the file is truncated, corrupted or not a graph."""
        try:
            graph = self._read()
            compiled = self._openvino.Core().compile_model(graph, "CPU", self._options())
            requests = [compiled.create_infer_request() for _ in range(self._streams)]
        except Exception as error:  # the binding raises RuntimeError for everything
            raise failures.cannot_open(RUNTIME, error, self._model) from None
        self.inputs = tuple(port.any_name for port in graph.inputs)
        self.outputs = tuple(port.any_name for port in graph.outputs)
        self._vocabulary = _rows_looked_up(graph)
        # Last in, first out: with fewer batches than streams the same memory is used again.
        self._requests = queue.LifoQueue()
        for request in requests:
            self._requests.put(request)

    def warm_up(self) -> None:
        """Run a short text alone and a small batch."""
        self.run(pad([[1, 1, 1]]))
        self.run(pad([[1] * 16] * 4))

    def run(self, batch: TokenBatch) -> Outputs:
        """Return every output of the graph for a batch."""
        if self._requests is None:
            raise failures.not_loaded()
        if self._vocabulary is not None:
            check_ids(RUNTIME, batch, self._vocabulary)  # OpenVINO would take zeros for what a table does not have
        request = self._requests.get()
        try:
            self._forget_outputs(request)
            request.infer(feeds_of(batch, self.inputs), share_inputs=True)
            # A copy: the next batch of this request is written into the same memory.
            arrays = [np.array(request.get_output_tensor(index).data) for index in range(len(self.outputs))]
        except Exception as error:
            raise failures.cannot_run(RUNTIME, error, batch.rows, batch.width) from None
        finally:
            self._requests.put(request)
        if any(len(array) != batch.rows or np.isnan(array).any() for array in arrays):
            raise failures.out_of_memory(RUNTIME, batch.rows, batch.width)
        return dict(zip(self.outputs, arrays, strict=True))

    def health(self) -> bool:
        """Return whether a graph is compiled."""
        return self._requests is not None

    def close(self) -> None:
        """Drop the compiled graph and its memory."""
        self._requests = None

    def _forget_outputs(self, request: Any) -> None:
        """Overwrite what the request answered last.

        When memory runs out in the middle of a batch, `infer` of 2026.4 returns as if all were well, and the
        outputs still hold the batch before: the answer of another caller.
        """
        for index in range(len(self.outputs)):
            request.get_output_tensor(index).data[...] = np.nan

    def _read(self) -> Any:
        # By its name: `read_model` offers what it does not know to every front end; TensorFlow's writes to stderr.
        front_end = self._openvino.frontend.FrontEndManager().load_by_framework("onnx")
        graph = front_end.convert(front_end.load(str(self._model)))
        if not graph.outputs:  # of an empty file
            raise EngineFailed("it has no output")
        return graph

    def _options(self) -> Mapping[str, object]:
        options = {
            "NUM_STREAMS": self._streams,
            "INFERENCE_NUM_THREADS": self._threads * self._streams,
            # Pinned threads of several engines would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
            # Where the CPU can, the default is bfloat16, with which no version was judged.
            "INFERENCE_PRECISION_HINT": "f32",
            # Activations are quantized as the graph says, or not at all.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        if products_overflow(read_machine()):
            options["LP_TRANSFORMS_MODE"] = "NO"
        return options


def _import_without_telemetry() -> ModuleType:
    """Return the package; raises MissingExtra when it is not there.

    Importing openvino sends an event to Google Analytics by way of openvino_telemetry, unless that package cannot
    be imported or a file in the home folder says no. None in ``sys.modules`` makes every import of it fail, now
    and later, and openvino then takes a stand-in of its own that does nothing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise MissingExtra(EXTRA) from None


def _rows_looked_up(graph: Any) -> int | None:
    """Return the rows of the smallest table that ``input_ids`` are looked up in; None when there is none."""
    found = []
    for port in graph.inputs:
        if "input_ids" not in port.get_names():
            continue
        readers = list(port.get_target_inputs())
        while readers:
            node = readers.pop().get_node()
            if node.get_type_name() == "Convert":
                readers.extend(node.output(0).get_target_inputs())
            elif node.get_type_name() == "Gather":
                found.append(int(node.input(0).get_partial_shape()[0].get_length()))
    return min(found, default=None)
