"""The shortest service that answers: no queue, no batching; FastAPI runs each request in a thread."""

from __future__ import annotations

from encoder import Encoder
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
encoder = Encoder()


class Texts(BaseModel):
    texts: list[str]


class Embeddings(BaseModel):
    embeddings: list[list[float]]


@app.post("/embed")
def embed(body: Texts) -> Embeddings:
    return Embeddings(embeddings=encoder.encode(body.texts).tolist())
