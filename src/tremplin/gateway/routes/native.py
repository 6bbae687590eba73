"""Native routes, for what the other dialects lack."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict, Field

from tremplin.gateway.bodies import Reply, answer, parse
from tremplin.gateway.endpoint import Endpoint, HotRequest
from tremplin.gateway.problems import Dialect
from tremplin.monitor.metrics import Metrics
from tremplin.serve.services import Services
from tremplin.tasks.classify import Classification
from tremplin.tasks.zero_shot import CandidateLabel


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassifyRequest(_Body):
    """POST /v1/classify"""

    inputs: str | list[str]
    model: str | None = None
    truncate: bool = True


class SimilarityRequest(_Body):
    """POST /v1/similarity"""

    source: str
    sentences: list[str]
    model: str | None = None


class SearchRequest(_Body):
    """POST /v1/search"""

    query: str
    top_k: int = Field(5, ge=1)


class LabelBody(_Body):
    """A label and what it means."""

    label: str = Field(min_length=1, max_length=200)
    description: str = Field("", max_length=2000)


class ZeroShotRequest(_Body):
    """POST /v1/zero-shot"""

    text: str
    labels: list[LabelBody]
    model: str | None = None


class ExplainRequest(_Body):
    """POST /v1/explain"""

    text: str
    label: str | None = None
    model: str | None = None


class ScoreAnswer(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class ClassificationAnswer(BaseModel):
    """One text's classification; ``label`` is null when the classifier abstains."""

    label: str | None
    abstained: bool
    scores: list[ScoreAnswer]


class ClassifyAnswer(BaseModel):
    """In the order of the inputs."""

    results: list[ClassificationAnswer]
    version: str


class SimilarityAnswer(BaseModel):
    """Cosines in the order of the sentences."""

    scores: list[float]
    version: str


class HitAnswer(BaseModel):
    """A document found."""

    id: str
    title: str
    text: str
    lang: str
    score: float


class SearchAnswer(BaseModel):
    """Best first."""

    hits: list[HitAnswer]
    version: str


class WordAnswer(BaseModel):
    """A stretch of the text and what its removal costs the decision."""

    text: str
    start: int
    end: int
    weight: float


class ExplainAnswer(BaseModel):
    """Which words carried the decision."""

    label: str
    probability: float
    words: list[WordAnswer]
    version: str


def endpoints(services: Services, metrics: Metrics) -> tuple[Endpoint, ...]:
    """Return the native routes."""

    async def classify(request: HotRequest) -> Reply:
        body = parse(request.body, ClassifyRequest)
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        answered = await services.classify(texts, model=body.model, truncate=body.truncate, call=request.call)
        metrics.phases(answered.timings)
        results = [_classification(result) for result in answered.value]
        return answer({"results": results, "version": answered.version}, answered.timings, answered.version)

    async def similarity(request: HotRequest) -> Reply:
        body = parse(request.body, SimilarityRequest)
        answered = await services.similarity(body.source, body.sentences, model=body.model, call=request.call)
        metrics.phases(answered.timings)
        reply = {"scores": answered.value, "version": answered.version}
        return answer(reply, answered.timings, answered.version)

    async def search(request: HotRequest) -> Reply:
        body = parse(request.body, SearchRequest)
        answered = await services.search(body.query, top_k=body.top_k, call=request.call)
        metrics.phases(answered.timings)
        hits = [asdict(hit.document) | {"score": hit.score} for hit in answered.value]
        return answer({"hits": hits, "version": answered.version}, answered.timings, answered.version)

    async def zero_shot(request: HotRequest) -> Reply:
        body = parse(request.body, ZeroShotRequest)
        labels = [CandidateLabel(label.label, label.description) for label in body.labels]
        answered = await services.zero_shot(body.text, labels, model=body.model, call=request.call)
        metrics.phases(answered.timings)
        reply = _classification(answered.value) | {"version": answered.version}
        return answer(reply, answered.timings, answered.version)

    async def explain(request: HotRequest) -> Reply:
        body = parse(request.body, ExplainRequest)
        answered = await services.explain(body.text, label=body.label, model=body.model, call=request.call)
        metrics.phases(answered.timings)
        reply = asdict(answered.value) | {"version": answered.version}
        return answer(reply, answered.timings, answered.version)

    post, native = "POST", Dialect.NATIVE
    return (
        Endpoint(
            post, "/v1/classify", native, "Classify texts", hot=classify,
            body=ClassifyRequest, answer=ClassifyAnswer, rows_at="/inputs",
        ),
        Endpoint(
            post, "/v1/similarity", native, "Compare one text with others", hot=similarity,
            body=SimilarityRequest, answer=SimilarityAnswer,
        ),
        Endpoint(
            post, "/v1/search", native, "Search the documents by meaning", hot=search,
            body=SearchRequest, answer=SearchAnswer,
        ),
        Endpoint(
            post, "/v1/zero-shot", native, "Classify by descriptions of labels", hot=zero_shot,
            body=ZeroShotRequest, answer=ClassificationAnswer,
        ),
        Endpoint(
            post, "/v1/explain", native, "Say which words carried a decision", hot=explain,
            body=ExplainRequest, answer=ExplainAnswer,
        ),
    )  # fmt: skip


def _classification(result: Classification) -> dict[str, object]:
    return {
        "label": result.label,
        "abstained": result.abstained,
        "scores": [{"label": score.label, "probability": score.probability} for score in result.scores],
    }
