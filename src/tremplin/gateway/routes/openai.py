"""OpenAI's dialect: embeddings and the list of models.

Source: OpenAI API reference, /v1/embeddings and /v1/models; checked with the official Python client.
"""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.requests import Request
from starlette.responses import Response

from tremplin.errors import UnknownModel
from tremplin.gateway.bodies import Reply, answer, parse, respond
from tremplin.gateway.endpoint import Endpoint, HotRequest
from tremplin.gateway.problems import Dialect
from tremplin.monitor.metrics import Metrics
from tremplin.serve.fleet import DEFAULT
from tremplin.serve.services import Services


class EmbeddingsRequest(BaseModel):
    """POST /v1/embeddings"""

    model_config = ConfigDict(extra="ignore")

    input: str | list[str] | list[StrictInt] | list[list[StrictInt]]
    model: str = DEFAULT
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class Usage(BaseModel):
    """Tokens of the request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """Vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class ModelItem(BaseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models served here."""

    object: Literal["list"] = "list"
    data: list[ModelItem]


def endpoints(services: Services, metrics: Metrics) -> tuple[Endpoint, ...]:
    """Return the dialect's routes."""

    async def embeddings(request: HotRequest) -> Reply:
        body = parse(request.body, EmbeddingsRequest)
        texts, ids = _inputs(body.input)
        if ids is not None:
            answered = await services.embed_ids(
                ids, model=body.model, dimensions=body.dimensions, call=request.call
            )
        else:
            answered = await services.embed(texts, model=body.model, dimensions=body.dimensions, call=request.call)
        metrics.phases(answered.timings)
        encode = _base64 if body.encoding_format == "base64" else _as_is
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(answered.value)
        ]
        usage = {"prompt_tokens": answered.timings.tokens, "total_tokens": answered.timings.tokens}
        reply = {"object": "list", "data": data, "model": body.model, "usage": usage}
        return answer(reply, answered.timings, answered.version)

    async def models(request: Request) -> Response:
        return respond({"object": "list", "data": _models(services)})

    async def model(request: Request) -> Response:
        name = request.path_params["model"]
        found = next((item for item in _models(services) if item["id"] == name), None)
        if found is None:
            raise UnknownModel(f"There is no model {name[:80]!r} here. GET /v1/models lists those there are.")
        return respond(found)

    openai = Dialect.OPENAI
    return (
        Endpoint(
            "POST", "/v1/embeddings", openai, "Embed texts or token ids", hot=embeddings,
            body=EmbeddingsRequest, answer=EmbeddingsAnswer, rows_at="/input",
        ),
        Endpoint("GET", "/v1/models", openai, "List the models served here", models, answer=ModelList),
        Endpoint("GET", "/v1/models/{model:path}", openai, "Describe a model", model, answer=ModelItem),
    )  # fmt: skip


def _inputs(given: str | list[str] | list[int] | list[list[int]]) -> tuple[list[str], list[list[int]] | None]:
    """Return the texts, or the rows of token ids; a flat list of integers is one row."""
    if isinstance(given, str):
        return [given], None
    texts = [item for item in given if isinstance(item, str)]
    if texts or not given:
        return texts, None
    flat = [item for item in given if isinstance(item, int)]
    return [], [flat] if flat else [item for item in given if isinstance(item, list)]


def _as_is(vector: np.ndarray) -> object:
    return vector


def _base64(vector: np.ndarray) -> object:
    """Little-endian float32, what the official client decodes."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _models(services: Services) -> list[dict[str, object]]:
    from datetime import datetime

    items: list[dict[str, object]] = []
    for inferencer in services.fleet.inferencers:
        manifest = inferencer.manifest
        created = int(datetime.fromisoformat(manifest.created_at).timestamp())
        names = [manifest.model, manifest.ref]
        if inferencer in services.fleet.defaults.values() and not any(i["id"] == DEFAULT for i in items):
            names.insert(0, DEFAULT)
        items += [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "tremplin",
                "task": manifest.interface.task,
                "version": manifest.ref,
            }
            for name in names
        ]
    return items
