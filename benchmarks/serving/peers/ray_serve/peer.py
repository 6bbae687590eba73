from __future__ import annotations

from pathlib import Path

from benchmarks.serving.peers.peer import Peer


def _command(binaries: Path, port: int) -> list[str]:
    return [str(binaries / "python"), "service.py"]


PEER = Peer(
    folder="ray_serve",
    name="Ray Serve",
    precision="int8",
    command=_command,
    path="/embed",
    body=lambda texts: {"text": texts[0]},  # a request holds one text; batches are the server's
    vectors=lambda answer: [answer["embedding"]],
    packages=("ray", "onnxruntime", "tokenizers"),
    setup="one replica, serve.batch of 32 within 5 ms, max_ongoing_requests 512",
    environment=lambda port: {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"},
)
