"""The shortest service around sentence-transformers: one call of ``encode`` for each request."""

from __future__ import annotations

import os

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
app = FastAPI()
model = SentenceTransformer(os.environ["PEER_SOURCE"], device="cpu")


class Texts(BaseModel):
    texts: list[str]


class Embeddings(BaseModel):
    embeddings: list[list[float]]


@app.post("/embed")
def embed(body: Texts) -> Embeddings:
    return Embeddings(embeddings=model.encode(body.texts, show_progress_bar=False).tolist())
