"""ONNX Runtime on the CPU, and on a GPU through its providers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from tremplin.errors import EngineFailed, MissingExtra
from tremplin.machine import read_machine
from tremplin.serve.engine import Outputs, TokenBatch, pad
from tremplin.serve.engines import failures
from tremplin.serve.engines.feeds import feeds_of
from tremplin.serve.engines.overflow import products_overflow
from tremplin.serve.engines.providers import (
    EXTRA,
    PROVIDERS,
    Device,
    Provider,
    check_provider,
    is_available,
    providers_of,
)

RUNTIME = "ONNX Runtime"
CPU_ONLY: tuple[Provider, ...] = ((PROVIDERS[Device.CPU], {}),)


class OnnxRuntimeEngine:
    """One session with its own thread budget; ``streams`` batches may run in it at the same time.

    A session may be run from several threads: they share the weights, and each computes with ``threads`` threads.
    On a CPU whose int8 products overflow the precise kernels are used, which cost a fifth of the speed, unless
    ``narrow_weights`` says that the graph's weights are too small for that.
    """

    def __init__(
        self,
        model: Path,
        *,
        threads: int,
        streams: int = 1,
        narrow_weights: bool = False,
        device: Device = Device.CPU,
        cache: Path | None = None,
    ) -> None:
        """Remember what to load; ``cache`` keeps what a GPU's provider builds. Raises MissingExtra without one."""
        if not is_available(device):
            raise MissingExtra(EXTRA.format(provider=PROVIDERS[device]))
        self._model = model
        self._threads = threads
        self._narrow_weights = narrow_weights
        self._device = device
        self._cache = cache or model.parent
        self._session: ort.InferenceSession | None = None
        self.inputs: tuple[str, ...] = ()
        """Names of the graph's inputs, known once it is loaded."""
        self.outputs: tuple[str, ...] = ()
        """Names of the graph's outputs, known once it is loaded."""

    @property
    def name(self) -> str:
        """The engine and its version."""
        suffix = "" if self._device is Device.CPU else f"-{self._device}"
        return f"onnxruntime{suffix} {ort.__version__}"

    def load(self) -> None:
        """Open the graph; raises EngineFailed when the file is truncated, corrupted or not a graph."""
        is_precise = not self._narrow_weights and products_overflow(read_machine())
        try:
            session = open_session(self._model, self._threads, is_precise=is_precise, providers=self._providers())
            check_provider(session, self._device)
        except EngineFailed:
            raise
        except Exception as error:  # the binding raises classes of its own, all bare
            raise failures.cannot_open(RUNTIME, error, self._model) from None
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
            raise failures.not_loaded()
        try:
            arrays = self._session.run(self.outputs, feeds_of(batch, self.inputs))
        except Exception as error:
            raise failures.cannot_run(RUNTIME, error, batch.rows, batch.width) from None
        return dict(zip(self.outputs, arrays, strict=True))

    def _providers(self) -> list[Provider]:
        if self._device is Device.CPU:
            return providers_of(self._device, (), self._cache)
        # TensorRT must be told the shapes of the inputs before there is a session to ask for their names.
        import onnx

        graph = onnx.load(str(self._model), load_external_data=False).graph
        return providers_of(self._device, [node.name for node in graph.input], self._cache)

    def health(self) -> bool:
        """Return whether a session is open."""
        return self._session is not None

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None


def open_session(
    model: Path, threads: int, *, is_precise: bool, providers: Sequence[Provider] = CPU_ONLY
) -> ort.InferenceSession:
    """Return a session on a graph as serving wants it; raises what the binding raises.

    ``is_precise`` asks for kernels that add int8 products in 32 bits where the CPU's fast ones would overflow.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised as well, and its own lines are not JSON
    # A spinning pool takes the core from the event loop; on shared cores it costs more than it gains.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1" if is_precise else "0")
    # A memory pattern is planned for one shape and kept; nearly every batch here has another shape.
    options.enable_mem_pattern = False
    return ort.InferenceSession(str(model), options, providers=list(providers))
