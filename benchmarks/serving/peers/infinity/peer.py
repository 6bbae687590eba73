from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.peers.model import bundled_folder
from benchmarks.serving.peers.peer import Json, Peer


def _command(binaries: Path, port: int) -> list[str]:
    return [
        str(binaries / "infinity_emb"), "v2",
        "--model-id", str(bundled_folder()), "--served-model-name", "minilm",
        "--engine", "torch", "--device", "cpu", "--dtype", "float32", "--batch-size", "32",
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning",
    ]  # fmt: skip


def _body(texts: Sequence[str]) -> Json:
    return {"model": "minilm", "input": list(texts)}


PEER = Peer(
    folder="infinity",
    name="Infinity",
    precision="fp32",
    command=_command,
    path="/embeddings",
    body=_body,
    vectors=lambda answer: [row["embedding"] for row in answer["data"]],
    packages=("infinity-emb", "torch", "transformers", "sentence-transformers"),
    setup="torch engine, its own dynamic batching of 32",
)
