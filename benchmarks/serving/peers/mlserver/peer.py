from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.peers.peer import Json, Peer


def _command(binaries: Path, port: int) -> list[str]:
    return [str(binaries / "mlserver"), "start", "."]


def _environment(port: int) -> dict[str, str]:
    kinds = ("HTTP", "GRPC", "METRICS")
    return {f"MLSERVER_{kind}_PORT": str(port + offset) for offset, kind in enumerate(kinds)}


def _body(texts: Sequence[str]) -> Json:
    return {"inputs": [{"name": "text", "shape": [len(texts), 1], "datatype": "BYTES", "data": list(texts)}]}


def _vectors(answer: Json) -> Sequence[Sequence[float]]:
    output = answer["outputs"][0]
    rows, width = output["shape"]
    return [output["data"][row * width : (row + 1) * width] for row in range(rows)]


PEER = Peer(
    folder="mlserver",
    name="MLServer",
    precision="int8",
    command=_command,
    path="/v2/models/minilm/infer",
    body=_body,
    vectors=_vectors,
    packages=("mlserver", "onnxruntime", "tokenizers"),
    setup="custom runtime, adaptive batching of 32 within 5 ms, parallel_workers 0",
    environment=_environment,
)
