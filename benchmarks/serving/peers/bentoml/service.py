"""A service with one batchable method; BentoML adapts the window to what it measures."""

from __future__ import annotations

import bentoml
import numpy as np
from encoder import Encoder


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class MiniLM:
    def __init__(self) -> None:
        self._encoder = Encoder()

    @bentoml.api(batchable=True, max_batch_size=32)
    def encode(self, texts: list[str]) -> np.ndarray:
        return self._encoder.encode(texts)
