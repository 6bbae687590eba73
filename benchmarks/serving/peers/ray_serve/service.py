"""One deployment with one replica on one core; requests are collected by ``serve.batch``."""

from __future__ import annotations

import os
import signal
import tempfile

import ray
from encoder import Encoder
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=512, ray_actor_options={"num_cpus": 1})
class MiniLM:
    def __init__(self) -> None:
        self._encoder = Encoder()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def encode(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.encode(texts).tolist()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        body = await request.json()
        return {"embedding": await self.encode(body["text"])}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, _temp_dir=folder)
        serve.start(
            http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])},
            logging_config={"enable_access_log": False},
        )
        serve.run(MiniLM.bind(), route_prefix="/embed")
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        serve.shutdown()
        ray.shutdown()
