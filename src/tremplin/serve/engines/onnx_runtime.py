"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tremplin.errors import EngineFailed
from tremplin.serve.engine import Outputs, TokenBatch, pad


class OnnxRuntimeEngine:
    """One session with its own thread budget; ``streams`` batches may run in it at the same time.

    A session may be run from several threads: they share the weights, and each computes with ``threads`` threads.
    """

    def __init__(self, model: Path, *, threads: int, streams: int = 1) -> None:
        self._model = model
        self._threads = threads
        self._session: ort.InferenceSession | None = None
        self.inputs: tuple[str, ...] = ()
        """Names of the graph's inputs, known once it is loaded."""
        self.outputs: tuple[str, ...] = ()
        """Names of the graph's outputs, known once it is loaded."""

    @property
    def name(self) -> str:
        """The engine and its version."""
        return f"onnxruntime {ort.__version__}"

    def load(self) -> None:
        """Open the graph; raises EngineFailed when the file is truncated, corrupted or not a graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised as well, and its own lines are not JSON
        # A spinning pool takes the core from the event loop; on shared cores it costs more than it gains.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A memory pattern is planned for one shape and kept; nearly every batch here has another shape.
        options.enable_mem_pattern = False
        try:
            session = ort.InferenceSession(str(self._model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the binding raises classes of its own, all bare
            raise EngineFailed(
                f"ONNX Runtime cannot open the graph: {_first_line(error).replace(str(self._model), 'the file')}. "
                "The file is damaged or not an ONNX graph; publish the version again."
            ) from None
        self.inputs = tuple(node.name for node in session.get_inputs())
        self.outputs = tuple(node.name for node in session.get_outputs())
        self._session = session

    def warm_up(self) -> None:
        """Run a short text alone and a small batch."""
        self.run(pad([[1, 1, 1]]))
        self.run(pad([[1] * 16] * 4))

    def run(self, batch: TokenBatch) -> Outputs:
        """Return every output of the graph for a batch."""
        if self._session is None:
            raise EngineFailed("The engine was asked to run before it was loaded; this is a bug.")
        try:
            arrays = self._session.run(self.outputs, feeds_of(batch, self.inputs))
        except Exception as error:
            raise EngineFailed(f"ONNX Runtime could not run a batch: {_first_line(error)}") from None
        return dict(zip(self.outputs, arrays, strict=True))

    def health(self) -> bool:
        """Return whether a session is open."""
        return self._session is not None

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None


def feeds_of(batch: TokenBatch, inputs: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return a batch as a graph's inputs; tokens are of type 0 unless the batch says otherwise."""
    feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if "token_type_ids" in inputs:
        types = batch.token_type_ids
        feeds["token_type_ids"] = np.zeros_like(batch.input_ids) if types is None else types
    return feeds


def _first_line(error: Exception) -> str:
    """What the runtime said, without its codes and the stack it may append."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.split(" : ", 3)[-1][:300].rstrip(".")
