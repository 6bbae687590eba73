"""The dialect of text-embeddings-inference.

Source: TEI's OpenAPI document; checked with huggingface_hub's InferenceClient.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tremplin import __version__
from tremplin.errors import BadInput, EmptyText
from tremplin.gateway.bodies import Reply, answer, parse, respond
from tremplin.gateway.endpoint import Endpoint, HotRequest
from tremplin.gateway.problems import Dialect
from tremplin.monitor.metrics import Metrics
from tremplin.registry.manifest import MODEL_FILE, Interface
from tremplin.registry.task import Task
from tremplin.serve.services import Services
from tremplin.tasks.classify import Classification

# What is served here, the task whose default comes first in /info first.
TASKS = (Task.EMBEDDING, Task.CLASSIFICATION, Task.RERANKING, Task.SPARSE_EMBEDDING)


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore")


class EmbedRequest(_Request):
    """POST /embed"""

    inputs: str | list[str]
    normalize: bool = True
    truncate: bool = False
    dimensions: int | None = Field(None, ge=1)
    prompt_name: str | None = None


class SimilarityInputs(_Request):
    """One sentence and those it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(_Request):
    """POST /similarity"""

    inputs: SimilarityInputs


class HubParameters(BaseModel):
    """What the Hub's client sends beside a text to classify, never beside one to embed."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(None, ge=1)
    function_to_apply: Literal["softmax"] | None = None


class PredictRequest(_Request):
    """POST /predict"""

    inputs: str | list[str] | list[list[str]]
    truncate: bool = False
    raw_scores: bool = False
    parameters: HubParameters | None = None


class RootRequest(_Request):
    """POST /: what tells the tasks apart."""

    inputs: Any = None
    parameters: Any = None
    query: Any = None


class RerankRequest(_Request):
    """POST /rerank"""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None


class ManyEmbeddingsRequest(_Request):
    """POST /embed_all and POST /embed_sparse"""

    inputs: str | list[str]
    truncate: bool | None = None
    prompt_name: str | None = None

    def texts(self) -> list[str]:
        """Return the texts; raises BadInput when a prompt is asked for."""
        _refuse_prompt(self.prompt_name)
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs


class TokenizeRequest(_Request):
    """POST /tokenize"""

    inputs: str | list[str]
    add_special_tokens: bool = True


def endpoints(services: Services, metrics: Metrics) -> tuple[Endpoint, ...]:
    """Return the dialect's routes."""

    async def embed(request: HotRequest) -> Reply:
        body = parse(request.body, EmbedRequest)
        if not body.normalize:
            raise BadInput(
                "normalize is false, but this model's graph ends in its own normalisation. Leave it out.",
                pointer="/normalize",
            )
        _refuse_prompt(body.prompt_name)
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        answered = await services.embed(
            texts, dimensions=body.dimensions, truncate=body.truncate, call=request.call
        )
        metrics.phases(answered.timings)
        return answer(answered.value, answered.timings, answered.version)

    async def similarity(request: HotRequest) -> Reply:
        body = parse(request.body, SimilarityRequest).inputs
        answered = await services.similarity(body.source_sentence, body.sentences, call=request.call)
        metrics.phases(answered.timings)
        return answer(answered.value, answered.timings, answered.version)

    async def predict(request: HotRequest) -> Reply:
        body = parse(request.body, PredictRequest)
        if body.raw_scores:
            raise BadInput(
                "raw_scores is true; this server answers calibrated probabilities.", pointer="/raw_scores"
            )
        texts, is_batch = _predict_inputs(body.inputs)
        answered = await services.classify(texts, truncate=body.truncate, call=request.call)
        metrics.phases(answered.timings)
        top_k = body.parameters.top_k if body.parameters else None
        results = [_scores(result)[:top_k] for result in answered.value]
        # The Hub's client takes the first element of what it is given, which for one text is TEI's answer inside
        # another list.
        is_nested = is_batch or body.parameters is not None
        return answer(results if is_nested else results[0], answered.timings, answered.version)

    rerank = partial(_rerank, services, metrics)
    embed_all = partial(_embed_all, services, metrics)
    embed_sparse = partial(_embed_sparse, services, metrics)

    async def root(request: HotRequest) -> Reply:
        """What a Hub client calls when it is given only our address: the task is told by the body."""
        body = parse(request.body, RootRequest)
        if body.query is not None:
            return await rerank(request)
        if isinstance(body.inputs, dict):
            return await similarity(request)
        return await (embed(request) if body.parameters is None else predict(request))

    async def tokenize(request: HotRequest) -> Reply:
        body = parse(request.body, TokenizeRequest)
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        if not texts:
            raise EmptyText("inputs is empty; send at least one text.", pointer="/inputs")
        inferencer = services.fleet.find(None, *TASKS)
        inferencer.admission.check_rows(len(texts))
        tokens = partial(inferencer.tokenizer.tokens, add_special_tokens=body.add_special_tokens)
        # In a thread: a body of megabytes takes a second, which nobody else should wait for.
        rows = await asyncio.to_thread(lambda: [tokens(text) for text in texts])
        return answer([[_token(*token) for token in row] for row in rows])

    async def info(request: Request) -> Response:
        return respond(_info(services))

    post, tei = "POST", Dialect.TEI
    at = "/inputs"
    return (
        Endpoint(post, "/embed", tei, "Embed texts", hot=embed, body=EmbedRequest, rows_at=at),
        Endpoint(post, "/", tei, "Embed, compare, classify or rank", hot=root, body=RootRequest, rows_at=at),
        Endpoint(
            post, "/embed_all", tei, "Embed every token", hot=embed_all, body=ManyEmbeddingsRequest, rows_at=at
        ),
        Endpoint(
            post, "/embed_sparse", tei, "Embed texts over the vocabulary", hot=embed_sparse,
            body=ManyEmbeddingsRequest, rows_at=at,
        ),
        Endpoint(post, "/similarity", tei, "Compare sentences", hot=similarity, body=SimilarityRequest),
        Endpoint(post, "/predict", tei, "Classify texts", hot=predict, body=PredictRequest, rows_at=at),
        Endpoint(post, "/rerank", tei, "Rank texts by a query", hot=rerank, body=RerankRequest, rows_at="/texts"),
        Endpoint(post, "/tokenize", tei, "Show a text's tokens", hot=tokenize, body=TokenizeRequest, rows_at=at),
        Endpoint("GET", "/info", tei, "What is served, and on what evidence", info),
    )  # fmt: skip


async def _rerank(services: Services, metrics: Metrics, request: HotRequest) -> Reply:
    body = parse(request.body, RerankRequest)
    answered = await services.rerank(
        body.query, body.texts, raw_scores=body.raw_scores, truncate=bool(body.truncate), call=request.call
    )
    metrics.phases(answered.timings)
    ranks: list[dict[str, object]] = [{"index": ranked.index, "score": ranked.score} for ranked in answered.value]
    if body.return_text:
        for rank, ranked in zip(ranks, answered.value, strict=True):
            rank["text"] = body.texts[ranked.index]
    return answer(ranks, answered.timings, answered.version)


async def _embed_all(services: Services, metrics: Metrics, request: HotRequest) -> Reply:
    body = parse(request.body, ManyEmbeddingsRequest)
    answered = await services.embed_tokens(body.texts(), truncate=bool(body.truncate), call=request.call)
    metrics.phases(answered.timings)
    return answer(answered.value, answered.timings, answered.version)


async def _embed_sparse(services: Services, metrics: Metrics, request: HotRequest) -> Reply:
    body = parse(request.body, ManyEmbeddingsRequest)
    answered = await services.embed_sparse(body.texts(), truncate=bool(body.truncate), call=request.call)
    metrics.phases(answered.timings)
    vectors = [
        [
            {"index": index, "value": value}
            for index, value in zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
        ]
        for vector in answered.value
    ]
    return answer(vectors, answered.timings, answered.version)


def _refuse_prompt(name: str | None) -> None:
    if name is not None:
        raise BadInput("prompt_name is given, but this model has no prompts.", pointer="/prompt_name")


def _token(token_id: int, text: str, start: int, end: int, special: bool) -> dict[str, object]:
    """A token as TEI shows it; special tokens stand for no stretch of the text."""
    return {
        "id": token_id,
        "text": text,
        "special": special,
        "start": None if special else start,
        "stop": None if special else end,
    }


def _predict_inputs(inputs: str | list[str] | list[list[str]]) -> tuple[list[str], bool]:
    """Return the texts and whether a batch was sent: ["a"] is one text in TEI's dialect, [["a"]] a batch."""
    if isinstance(inputs, str):
        return [inputs], False
    if inputs and isinstance(inputs[0], list):
        if any(len(row) != 1 for row in inputs):
            raise BadInput("inputs holds pairs, but this model reads single texts.", pointer="/inputs")
        return [row[0] for row in inputs], True
    return [text for text in inputs if isinstance(text, str)], len(inputs) != 1


def _scores(result: Classification) -> list[dict[str, object]]:
    return [{"score": score.probability, "label": score.label} for score in result.scores]


def _model_type(interface: Interface) -> dict[str, object]:
    """What the model does, in TEI's words."""
    match interface.task:
        case Task.EMBEDDING:
            return {"embedding": {"pooling": "in graph"}}
        case Task.SPARSE_EMBEDDING:
            return {"embedding": {"pooling": "splade"}}
        case task:
            labels = list(enumerate(interface.labels))
            return {
                "reranker" if task is Task.RERANKING else "classifier": {
                    "id2label": {str(number): label for number, label in labels},
                    "label2id": {label: number for number, label in labels},
                }
            }


def _info(services: Services) -> dict[str, object]:
    """What TEI tells of its one model, and what we add: every version, its evidence, whether it was forced."""
    fleet = services.fleet
    first = fleet.find(None, *TASKS)
    manifest = first.manifest
    limits = first.admission.limits
    return {
        "model_id": manifest.ref,
        "model_sha": manifest.artefact(MODEL_FILE).sha256,
        "model_dtype": manifest.precision,
        "model_type": _model_type(manifest.interface),
        "max_concurrent_requests": limits.max_queue_tokens,
        "max_input_length": manifest.interface.max_tokens,
        "max_batch_tokens": first.limits.max_tokens,
        "max_batch_requests": first.limits.max_rows,
        "max_client_batch_size": limits.max_rows_per_request,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "versions": [
            {
                "version": inferencer.manifest.ref,
                "task": inferencer.manifest.interface.task,
                "precision": inferencer.manifest.precision,
                "engine": inferencer.engine.name,
                "size_bytes": inferencer.manifest.size_bytes,
                "forced": bool(inferencer.broken_bounds),
                "broken_bounds": list(inferencer.broken_bounds),
                "metrics": {
                    metric.name: {
                        "value": metric.value,
                        "low": metric.low,
                        "high": metric.high,
                        "n": metric.n,
                    }
                    for metric in inferencer.manifest.quality.metrics
                },
            }
            for inferencer in fleet.inferencers
        ],
    }
