from __future__ import annotations

from pathlib import Path

from benchmarks.serving.peers.peer import Peer


def _command(binaries: Path, port: int) -> list[str]:
    return [str(binaries / "python"), "service.py"]


PEER = Peer(
    folder="litserve",
    name="LitServe",
    precision="int8",
    command=_command,
    path="/predict",
    body=lambda texts: {"text": texts[0]},  # a request holds one text; batches are the server's
    vectors=lambda answer: [answer["embedding"]],
    packages=("litserve", "onnxruntime", "tokenizers"),
    setup="one worker, batches of 32 within 5 ms",
)
