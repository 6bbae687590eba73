from __future__ import annotations

from pathlib import Path

from benchmarks.serving.peers.model import MODEL
from benchmarks.serving.peers.peer import Peer


def _command(binaries: Path, port: int) -> list[str]:
    return [str(binaries / "bentoml"), "serve", "service:MiniLM", "--host", "127.0.0.1", "--port", str(port)]


PEER = Peer(
    folder="bentoml",
    name="BentoML",
    precision="int8",
    command=_command,
    path="/encode",
    body=lambda texts: {"texts": list(texts)},
    vectors=lambda answer: answer,
    packages=("bentoml", "onnxruntime", "tokenizers"),
    setup="one worker, batchable method, adaptive batching up to 32",
    environment=lambda port: {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(MODEL.parent / "bentoml-home")},
)
