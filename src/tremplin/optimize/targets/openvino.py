"""OpenVINO: an intermediate representation, ``model.xml`` with ``model.bin``.

Weights keep their precision: OpenVINO would halve them unless told not to, and the files would then be another
version than the one that was judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tremplin.machine import read_machine, usable_cores
from tremplin.optimize.targets.target import Run, Shape, Written
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.feeds import feeds_of
from tremplin.serve.engines.openvino import _import_without_telemetry
from tremplin.serve.engines.overflow import products_overflow

ARTEFACT = "model.xml"

# Where the CPU can, OpenVINO's default is bfloat16, with which no version was judged; activations are quantized
# as the graph says, or not at all.
RUN_WITH: Mapping[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
# On an x86 CPU without VNNI int8 products overflow silently (docs/decisions/0011); this computes them in float.
WITHOUT_VNNI: Mapping[str, object] = {"LP_TRANSFORMS_MODE": "NO"}


class OpenVinoTarget:
    """Writes OpenVINO's own format and runs it on the CPU."""

    name = "openvino"
    is_half = False
    largest: Shape | None = None

    def __init__(self) -> None:
        self._openvino = _import_without_telemetry()

    @property
    def runtime(self) -> str:
        """OpenVINO with its version."""
        return f"openvino {self._version}"

    @property
    def tools(self) -> Mapping[str, str]:
        """OpenVINO converts and runs."""
        return {"openvino": self._version}

    @property
    def _version(self) -> str:
        return str(self._openvino.__version__).split("-", 1)[0]

    def check(self, graph: Path) -> None:
        """Refuse nothing: what OpenVINO does not take shows when it converts."""

    def write(self, graph: Path, folder: Path) -> Written:
        """Convert the graph and save it."""
        converted = self._openvino.convert_model(graph)
        self._openvino.save_model(converted, folder / ARTEFACT, compress_to_fp16=False)
        kinds = {node.get_element_type().to_string() for node in converted.get_ops() if _is_constant(node)}
        is_int8 = bool(kinds & {"i8", "u8"})
        notes = (
            (
                "On an x86 CPU without VNNI run it with LP_TRANSFORMS_MODE=NO: int8 products may overflow there "
                "without a word. Parity was checked with it on such a CPU, without it on others.",
            )
            if is_int8
            else ()
        )
        return Written("int8" if is_int8 else "float32", notes, _options())

    def open(self, folder: Path) -> Run:
        """Compile what was written."""
        core = self._openvino.Core()
        compiled = core.compile_model(
            core.read_model(folder / ARTEFACT), "CPU", {**_options(), "INFERENCE_NUM_THREADS": usable_cores()[0]}
        )
        inputs = [port.any_name for port in compiled.inputs]
        outputs = [port.any_name for port in compiled.outputs]
        request = compiled.create_infer_request()

        def run(batch: TokenBatch) -> Outputs:
            request.infer(feeds_of(batch, inputs))
            return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(outputs)}

        return run


def _options() -> Mapping[str, object]:
    return {**RUN_WITH, **WITHOUT_VNNI} if products_overflow(read_machine()) else RUN_WITH


def _is_constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")
