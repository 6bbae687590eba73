"""Cohere's dialect of reranking, which Jina's clients speak as well.

Source: Cohere API reference, /v1/rerank and /v2/rerank; checked with Cohere's Python client. Of Jina's are the
members ``model`` and ``usage`` of the answer.
"""

from __future__ import annotations

import uuid

from pydantic import BaseModel, ConfigDict, Field

from tremplin.errors import BadInput
from tremplin.gateway.bodies import Reply, answer, parse
from tremplin.gateway.endpoint import Endpoint, HotRequest
from tremplin.gateway.problems import Dialect
from tremplin.monitor.metrics import Metrics
from tremplin.serve.fleet import DEFAULT
from tremplin.serve.services import Services


class Document(BaseModel):
    """A document; members beside its text come back with it when documents are asked for."""

    model_config = ConfigDict(extra="allow")

    text: str


class RerankRequest(BaseModel):
    """POST /v1/rerank and POST /v2/rerank"""

    model_config = ConfigDict(extra="ignore")

    model: str = DEFAULT
    query: str
    documents: list[str | Document]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = None
    rank_fields: list[str] | None = None


class RankedItem(BaseModel):
    """One document."""

    index: int
    relevance_score: float
    document: Document | None = None


class Usage(BaseModel):
    """Tokens of the request, the query counted with each document."""

    prompt_tokens: int
    total_tokens: int


class ApiVersion(BaseModel):
    """Whose form the answer has."""

    version: str


class Tokens(BaseModel):
    """Tokens as Cohere counts them."""

    input_tokens: int


class Meta(BaseModel):
    """What Cohere says of an answer."""

    api_version: ApiVersion
    tokens: Tokens


class RerankAnswer(BaseModel):
    """Best first."""

    id: str
    model: str
    results: list[RankedItem]
    usage: Usage
    meta: Meta


def endpoints(services: Services, metrics: Metrics) -> tuple[Endpoint, ...]:
    """Return the dialect's routes."""

    async def rerank(request: HotRequest, api_version: str) -> Reply:
        body = parse(request.body, RerankRequest)
        if body.rank_fields not in (None, ["text"]):
            raise BadInput(
                "rank_fields names others than text; put what counts into text.", pointer="/rank_fields"
            )
        texts = [document if isinstance(document, str) else document.text for document in body.documents]
        answered = await services.rerank(body.query, texts, model=body.model, top_n=body.top_n, call=request.call)
        metrics.phases(answered.timings)
        results: list[dict[str, object]] = [
            {"index": ranked.index, "relevance_score": ranked.score} for ranked in answered.value
        ]
        if body.return_documents:
            for result, ranked in zip(results, answered.value, strict=True):
                result["document"] = _shown(body.documents[ranked.index])
        tokens = answered.timings.tokens
        reply = {
            "id": str(uuid.uuid4()),
            "model": body.model,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "meta": {"api_version": {"version": api_version}, "tokens": {"input_tokens": tokens}},
        }
        return answer(reply, answered.timings, answered.version)

    async def rerank_v1(request: HotRequest) -> Reply:
        return await rerank(request, "1")

    async def rerank_v2(request: HotRequest) -> Reply:
        return await rerank(request, "2")

    # Errors have OpenAI's form: Cohere's clients hand the whole body to their caller, whatever it holds.
    return tuple(
        Endpoint(
            "POST", path, Dialect.OPENAI, "Rank documents by a query", hot=handler,
            body=RerankRequest, answer=RerankAnswer, rows_at="/documents",
        )
        for path, handler in (("/v1/rerank", rerank_v1), ("/v2/rerank", rerank_v2))
    )  # fmt: skip


def _shown(document: str | Document) -> dict[str, object]:
    return {"text": document} if isinstance(document, str) else document.model_dump()
