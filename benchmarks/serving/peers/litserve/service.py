"""A LitAPI that embeds what was collected within 5 ms, at most 32 texts."""

from __future__ import annotations

import os

import litserve as ls
import numpy as np
from encoder import Encoder


class MiniLM(ls.LitAPI):
    def setup(self, device: str) -> None:
        self._encoder = Encoder()

    def decode_request(self, request: dict[str, str]) -> str:
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str]) -> np.ndarray:
        return self._encoder.encode(texts)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, list[float]]:
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    server = ls.LitServer(MiniLM(max_batch_size=32, batch_timeout=0.005), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        access_log=False,
    )
