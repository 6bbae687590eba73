from __future__ import annotations

from pathlib import Path

from benchmarks.serving.peers.peer import Peer


def _command(binaries: Path, port: int) -> list[str]:
    return [str(binaries / "uvicorn"), "service:app", "--port", str(port), "--no-access-log"]


PEER = Peer(
    folder="fastapi_onnx",
    name="FastAPI + ONNX Runtime",
    precision="int8",
    command=_command,
    path="/embed",
    body=lambda texts: {"texts": list(texts)},
    vectors=lambda answer: answer["embeddings"],
    packages=("fastapi", "uvicorn", "onnxruntime", "tokenizers"),
    setup="one `def` endpoint, no batching",
)
