"""Apache TVM: the graph compiled to machine code, ``model.so``, for this processor's architecture.

An experiment: nothing is tuned, so it is slow. What it shows is that a version's graph goes through TVM's importer
and compiler and still answers alike.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tremplin.errors import MissingExtra
from tremplin.optimize.passes.graph import read_graph
from tremplin.optimize.targets.target import INT8_IN_FLOAT32, Run, Shape, Written, is_quantized
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.feeds import feeds_of

ARTEFACT = "model.so"
NAMES_FILE = "model.json"
"""Inputs and outputs in order: a compiled function knows them by their places."""
COMPILED_FOR = "llvm"  # without -mcpu: the instructions that every CPU of the architecture has

NOTES = (
    "Compiled without tuning: a proof that it runs, not that it is fast.",
    "Token ids are not checked: one outside of the vocabulary reads memory that is not the table's.",
)
EXTRA = "TVM compiles and runs the graph: pip install apache-tvm, and a C++ compiler to link with"


class TvmTarget:
    """Compiles a graph with free axes and runs it in TVM's virtual machine."""

    name = "tvm"
    is_half = False
    largest: Shape | None = None

    def __init__(self) -> None:
        self._tvm = _imported("tvm")
        self._relax = _imported("tvm.relax")

    @property
    def runtime(self) -> str:
        """TVM with its version."""
        return f"tvm {self._tvm.__version__}"

    @property
    def tools(self) -> Mapping[str, str]:
        """TVM compiles and runs."""
        return {"apache-tvm": str(self._tvm.__version__)}

    def check(self, graph: Path) -> None:
        """Refuse nothing: what TVM does not take shows when it imports."""

    def write(self, graph: Path, folder: Path) -> Written:
        """Import, compile and link, the weights inside."""
        model = read_graph(graph)
        frontend = _imported("tvm.relax.frontend.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of renamed inputs
            module = frontend.from_onnx(model, keep_params_in_input=False)
            executable = self._tvm.compile(module, target=self._tvm.target.Target(COMPILED_FOR))
            executable.export_library(str(folder / ARTEFACT))
        names = {
            "inputs": [entry.name for entry in model.graph.input],
            "outputs": [entry.name for entry in model.graph.output],
        }
        (folder / NAMES_FILE).write_text(json.dumps(names))
        return Written(INT8_IN_FLOAT32 if is_quantized(model) else "float32", NOTES)

    def open(self, folder: Path) -> Run:
        """Load the library into a virtual machine on the CPU."""
        tvm = self._tvm
        names = json.loads((folder / NAMES_FILE).read_text())
        machine = self._relax.VirtualMachine(tvm.runtime.load_module(str(folder / ARTEFACT)), tvm.cpu())
        infer = machine["main"]

        def run(batch: TokenBatch) -> Outputs:
            feeds = feeds_of(batch, names["inputs"])
            answered = infer(*(tvm.runtime.tensor(feeds[name]) for name in names["inputs"]))
            values = [answered] if len(names["outputs"]) == 1 else list(answered)
            return {name: value.numpy() for name, value in zip(names["outputs"], values, strict=True)}

        return run


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(EXTRA) from None
