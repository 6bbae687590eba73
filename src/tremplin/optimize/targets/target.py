"""What a target is: another runtime that a version's graph is written for, and run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tremplin.serve.engine import Outputs, TokenBatch

if TYPE_CHECKING:
    import onnx

# Runs a batch in the target's own runtime; raises whatever the runtime raises.
Run = Callable[[TokenBatch], Outputs]

GRAPH_FILE = "model.onnx"
"""Name of the version's graph where it is handed to a target: runtimes tell formats by the ending."""

INT8_IN_FLOAT32 = "int8 values in float32"
"""What a runtime computes with that has an int8 version's values, but floats to hold them in."""

QUANTIZATION = {"DequantizeLinear", "MatMulInteger"}


@dataclass(frozen=True)
class Shape:
    """Rows and tokens of a batch."""

    rows: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.tokens}"


@dataclass(frozen=True)
class Written:
    """What a target says of the files it has written."""

    computes: str
    """What it computes with: ``float32``, ``float16``, ``int8``."""
    notes: tuple[str, ...] = ()
    run_with: Mapping[str, object] = field(default_factory=dict)
    """What the runtime was told when parity was checked, in its own words; whoever runs the files should too."""


def is_quantized(model: onnx.ModelProto) -> bool:
    """Return whether a graph's products are quantized; tables that are only looked up do not count."""
    return not QUANTIZATION.isdisjoint(node.op_type for node in model.graph.node)


class Target(Protocol):
    """Writes a graph for one runtime and runs what it wrote."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    @property
    def runtime(self) -> str:
        """The runtime that parity is checked in, with its version."""
        ...

    @property
    def is_half(self) -> bool:
        """Whether it computes with 16-bit floats, so that answers differ as such floats do."""
        ...

    @property
    def largest(self) -> Shape | None:
        """The largest batch that its files run; None when any batch runs."""
        ...

    @property
    def tools(self) -> Mapping[str, str]:
        """The libraries that write and run the files, with their versions."""
        ...

    def check(self, graph: Path) -> None:
        """Raise MissingExtra when a tool is missing, PassFailed when the runtime does not take the graph."""
        ...

    def write(self, graph: Path, folder: Path) -> Written:
        """Write the graph's files into an empty folder; raises PassFailed."""
        ...

    def open(self, folder: Path) -> Run:
        """Return what runs the written files; raises what the runtime raises."""
        ...
