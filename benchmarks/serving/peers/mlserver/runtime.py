"""A custom runtime: strings in, vectors out; MLServer merges the requests of a batch before it calls."""

from __future__ import annotations

from encoder import Encoder
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class MiniLM(MLModel):
    async def load(self) -> bool:
        self._encoder = Encoder()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        vectors = self._encoder.encode(texts)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(name="embedding", payload=vectors)]
        )
